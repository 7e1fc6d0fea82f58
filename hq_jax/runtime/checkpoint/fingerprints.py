"""Fingerprints of arrays: 64 bits that change when a bit of a leaf does.

They are sums that wrap around, so they are the same however an array is spread
over devices, and every process computes them from its own share.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from hq_jax.core import trees
from hq_jax.runtime import sharding

_PLACE_MULTIPLIER = 0x9E3779B9  # 2^32 over the golden ratio, odd.


def _mix(x: jax.Array) -> jax.Array:
  """The finalizer of MurmurHash3: each bit sways each, and none is lost."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
  return x ^ (x >> 16)


def _words(leaf: jax.Array) -> jax.Array:
  """The bit patterns as uint32: one an element, two where it has 64 bits."""
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.random.key_data(leaf)
  if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
    leaf = jnp.stack([leaf.real, leaf.imag], axis=-1)
  if leaf.dtype == jnp.bool_:
    return leaf.astype(jnp.uint32)
  is_integer = jnp.issubdtype(leaf.dtype, jnp.integer)
  bits = (jnp.iinfo if is_integer else jnp.finfo)(leaf.dtype).bits
  if bits >= 32:
    return jax.lax.bitcast_convert_type(leaf, jnp.uint32)
  # Widened before any arithmetic: XLA on CPU gets that of 8 bits wrong.
  unsigned = jnp.dtype(f'uint{bits}')
  return jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)


def _places(shape: tuple[int, ...]) -> jax.Array:
  """The flat index of each element times an odd number, modulo 2^32.

  Built without a reshape: that would gather a sharded array.
  """
  places = jnp.zeros(shape, jnp.uint32)
  stride = _PLACE_MULTIPLIER
  for axis in reversed(range(len(shape))):
    index = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    places += jnp.uint32(stride % 2**32) * index
    stride *= shape[axis]
  return places


@jax.jit
def _summarize(leaf: jax.Array) -> jax.Array:
  words = _words(leaf)
  placed = _mix(words + _places(words.shape))
  # Not one `lax.reduce` of both: that would gather a sharded array.
  sums = [jnp.sum(x, dtype=jnp.uint32) for x in (words, placed)]
  return jnp.stack(sums)


def fingerprint(tree: chex.ArrayTree) -> chex.ArrayTree:
  """A fingerprint of the bits of each leaf.

  `plain = sum_i b_i`, `placed = sum_i mix(b_i + i * 0x9e3779b9)`, modulo 2^32,
  of the bit patterns `b_i` in flat order. `mix` is one to one: a change of a
  single element is noticed for certain, and any other but for 1 in about 2^32.
  """
  # Compiled for each shape, not for the tree, whose leaves share a few shapes.
  return jax.tree.map(
    lambda leaf: sharding.wait_on_cpu(_summarize(jnp.asarray(leaf))), tree
  )


def describe_types(tree: chex.ArrayTree) -> dict[str, str]:
  """The type and shape of each leaf."""
  return {
    path: f'{leaf.dtype}{list(leaf.shape)}'
    for path, leaf in trees.flatten(tree).items()
  }


def describe(tree: chex.ArrayTree) -> dict[str, list[str]]:
  """Type, shape and fingerprint of each leaf, in words that JSON can hold."""
  found = trees.flatten(jax.device_get(fingerprint(tree)))
  return {
    path: [described, _to_hex(found[path])]
    for path, described in describe_types(tree).items()
  }


def _to_hex(sums: Any) -> str:
  return ''.join(f'{int(x):08x}' for x in np.asarray(sums))
