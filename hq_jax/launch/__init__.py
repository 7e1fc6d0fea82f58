"""Commands that start a run on many machines, and what watches over them.

All of it needs only Python's standard library: a laptop without JAX can send a
run to a pod. `hq_jax.launch` is the command line of it.
"""
