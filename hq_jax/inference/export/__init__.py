"""Classifiers in the formats of other tools."""

from hq_jax.inference.export.conversions import to_onnx as to_onnx
from hq_jax.inference.export.conversions import to_safetensors as to_safetensors
from hq_jax.inference.export.conversions import to_stablehlo as to_stablehlo
from hq_jax.inference.export.conversions import to_torch as to_torch
from hq_jax.inference.web.export import export as to_web

__all__ = [
  'to_onnx',
  'to_safetensors',
  'to_stablehlo',
  'to_torch',
  'to_web',
]
