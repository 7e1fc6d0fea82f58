"""K-means over the groups of one kernel.

A group is a row of `x`, `[num_groups, d]`; codewords are `[K, d]`, and an index
says which of them stands for a group. Rows are taken in blocks, so that what is
computed for each pair of group and codeword stays small.
"""

import math

import chex
import jax
import jax.numpy as jnp

# Pairs of group and codeword at a time: 64 MB of float32.
_MAX_PAIRS = 2**24


def _split(x: jax.Array, num_codewords: int) -> jax.Array:
  """Rows in blocks, `[blocks, rows, d]`, the last one filled with zeros."""
  num_blocks = max(math.ceil(len(x) * num_codewords / _MAX_PAIRS), 1)
  num_rows = math.ceil(len(x) / num_blocks)
  padded = jnp.pad(x, ((0, num_blocks * num_rows - len(x)), (0, 0)))
  return padded.reshape(num_blocks, num_rows, -1)


def assign(x: jax.Array, codewords: jax.Array) -> jax.Array:
  """The nearest codeword of each group: `argmin_k ||c_k||^2 - 2 <x, c_k>`."""
  squares = jnp.sum(jnp.square(codewords), axis=-1)[None]

  def find(rows):
    products = jnp.matmul(rows, codewords.T, precision='highest')
    return jnp.argmin(squares - 2.0 * products, axis=-1).astype(jnp.uint8)

  return jax.lax.map(find, _split(x, len(codewords))).ravel()[: len(x)]


def get_sums(
  x: jax.Array, indices: jax.Array, num_codewords: int
) -> tuple[jax.Array, jax.Array]:
  """The sum of the groups of each codeword, and how many they are."""

  def add(rows):
    # As a product of matrices: a scatter adds in any order on some devices.
    one_hot = (rows[:, -1:] == jnp.arange(num_codewords)[None]).astype(
      jnp.float32
    )
    return jnp.matmul(one_hot.T, rows[:, :-1], precision='highest')

  # With a column of ones, which counts, and is zero in the rows that fill up.
  ones = jnp.ones((len(x), 1), jnp.float32)
  rows = jnp.concatenate(
    [x, ones, indices.astype(jnp.float32)[:, None]], axis=-1
  )
  sums = jax.lax.map(add, _split(rows, num_codewords)).sum(0)
  return sums[:, :-1], sums[:, -1]


def get_means(
  x: jax.Array, indices: jax.Array, codewords: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The mean of the groups of each codeword, and how many they are."""
  sums, counts = get_sums(x, indices, len(codewords))
  means = sums / jnp.maximum(counts, 1.0)[:, None]
  return jnp.where(counts[:, None] > 0, means, codewords), counts


def revive(x: jax.Array, indices: jax.Array, codewords: jax.Array) -> jax.Array:
  """Gives each codeword without groups the one that is worst off.

  The groups are those farthest from their codewords, a different one for each.
  """
  num_codewords = len(codewords)
  _, counts = get_sums(x, indices, num_codewords)
  empty = counts == 0
  distances = jnp.sum(jnp.square(x - codewords[indices]), axis=-1)
  _, farthest = jax.lax.top_k(distances, num_codewords)
  # The others write behind the end, which is dropped.
  places = jnp.where(empty, farthest[jnp.cumsum(empty) - 1], len(x))
  names = jnp.arange(num_codewords, dtype=indices.dtype)
  return indices.at[places].set(names, mode='drop')


def find_codewords(
  x: jax.Array, key: chex.PRNGKey, num_codewords: int, num_rounds: int
) -> jax.Array:
  """Codewords by Lloyd's rounds, which start from groups drawn at random."""
  drawn = jax.random.choice(key, len(x), (num_codewords,), replace=False)

  def refine(_, codewords):
    indices = revive(x, assign(x, codewords), codewords)
    return get_means(x, indices, codewords)[0]

  return jax.lax.fori_loop(0, num_rounds, refine, x[drawn])
