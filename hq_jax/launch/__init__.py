"""Commands that start a run on many machines, and the watch over it.

All of it needs only Python's standard library: a laptop without JAX can send a
run to a pod, with `python -m hq_jax launch`.
"""
