"""Hyperspherical Quantization in JAX: a reconstruction from its abstract."""

__version__ = '0.1.0'
