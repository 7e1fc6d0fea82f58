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
_MOST_PAIRS = 2**24


def _split(x: jax.Array, num_codewords: int) -> jax.Array:
  """Rows in blocks, `[blocks, rows, d]`, the last one filled with zeros."""
  num_blocks = max(math.ceil(len(x) * num_codewords / _MOST_PAIRS), 1)
  num_rows = math.ceil(len(x) / num_blocks)
  padded = jnp.pad(x, ((0, num_blocks * num_rows - len(x)), (0, 0)))
  return padded.reshape(num_blocks, num_rows, -1)


def assign(x: jax.Array, codewords: jax.Array) -> jax.Array:
  """The nearest codeword of each group: `argmin_k ||c_k||^2 - 2 <x, c_k>`.

  >>> import jax.numpy as jnp
  >>> assign(jnp.array([[0.9], [-2.0]]), jnp.array([[1.0], [-1.0]])).tolist()
  [0, 1]

  Args:
    x: groups, float32 `[num_groups, d]`.
    codewords: float32 `[K, d]`, at most 256.

  Returns:
    uint8 `[num_groups]`; of codewords that are equally near, the first.
  """
  squares = jnp.sum(jnp.square(codewords), axis=-1)

  def find(rows):
    products = jnp.matmul(rows, codewords.T, precision='highest')
    return jnp.argmin(squares - 2.0 * products, axis=-1).astype(jnp.uint8)

  return jax.lax.map(find, _split(x, len(codewords))).ravel()[: len(x)]


def get_sums(
  x: jax.Array, indices: jax.Array, num_codewords: int
) -> tuple[jax.Array, jax.Array]:
  """The sum of the groups of each codeword, and how many they are.

  >>> import jax.numpy as jnp
  >>> x, indices = jnp.array([[1.0], [2.0]]), jnp.array([0, 0])
  >>> sums, counts = get_sums(x, indices, 2)
  >>> sums.ravel().tolist(), counts.tolist()
  ([3.0, 0.0], [2.0, 0.0])

  Args:
    x: groups, float32 `[num_groups, d]`; a NaN shows in every sum.
    indices: whole numbers `[num_groups]`, below K.
    num_codewords: K.

  Returns:
    float32 `[K, d]` and `[K]`.
  """

  def add(rows):
    # As a product of matrices: a scatter adds in any order on some devices.
    one_hot = (rows[:, -1:] == jnp.arange(num_codewords)).astype(jnp.float32)
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
  """The mean of the groups of each codeword, and how many they are.

  >>> import jax.numpy as jnp
  >>> means, counts = get_means(
  ...   jnp.array([[1.0], [2.0]]), jnp.array([0, 0]), jnp.array([[0.0], [7.0]])
  ... )
  >>> means.ravel().tolist(), counts.tolist()
  ([1.5, 7.0], [2.0, 0.0])

  Args:
    x: groups, float32 `[num_groups, d]`; a NaN shows in every mean.
    indices: whole numbers `[num_groups]`, below K.
    codewords: float32 `[K, d]`: one without groups stays as it is.

  Returns:
    float32 `[K, d]` and `[K]`.
  """
  sums, counts = get_sums(x, indices, len(codewords))
  means = sums / jnp.maximum(counts, 1.0)[:, None]
  return jnp.where(counts[:, None] > 0, means, codewords), counts


def revive(x: jax.Array, indices: jax.Array, codewords: jax.Array) -> jax.Array:
  """Gives each codeword without groups the one that is worst off.

  The groups are those farthest from their codewords, a different one for each.

  >>> import jax.numpy as jnp
  >>> x, codewords = jnp.array([[1.0], [5.0]]), jnp.array([[1.0], [9.0]])
  >>> revive(x, jnp.zeros(2, jnp.uint8), codewords).tolist()
  [0, 1]

  Args:
    x: groups, float32 `[num_groups, d]`, at least K.
    indices: uint8 `[num_groups]`.
    codewords: float32 `[K, d]`.

  Returns:
    uint8 `[num_groups]`.
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
  """Codewords by Lloyd's rounds, which start from groups drawn at random.

  >>> import jax
  >>> import jax.numpy as jnp
  >>> x = jnp.array([[1.0], [3.0], [-8.0], [-8.5]])
  >>> sorted(find_codewords(x, jax.random.key(0), 2, 5).ravel().tolist())
  [-8.25, 2.0]

  Args:
    x: groups, float32 `[num_groups, d]`.
    key: which groups are drawn.
    num_codewords: at most the number of groups.
    num_rounds: of assignment and mean.

  Returns:
    float32 `[K, d]`.
  """
  drawn = jax.random.choice(key, len(x), (num_codewords,), replace=False)

  def refine(_, codewords):
    indices = revive(x, assign(x, codewords), codewords)
    return get_means(x, indices, codewords)[0]

  return jax.lax.fori_loop(0, num_rounds, refine, x[drawn])
