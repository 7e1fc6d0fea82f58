"""Groups of weights share codewords that are trained: product quantization."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from hq_jax import sphere
from hq_jax import tensors
from hq_jax import ternary
from hq_jax.quantizers import _base
from hq_jax.quantizers import _clusters

_NUM_ROUNDS = 10
_GROUPS_PER_CODEWORD = 8
# Codewords are multiples of 2^-14, below 1, and scales have 8 bits: products,
# and their sums and differences, are exact in float32.
_CODEWORD_UNIT = 2.0**-14
_SCALE_BITS = 8


class Codebook(NamedTuple):
  """How one kernel is written: `q_j = codewords[indices_j] * scales_j`."""

  codewords: jax.Array  # [K, d] float32, each of them a float16
  indices: jax.Array  # [.., in / d, out] uint8
  scales: jax.Array  # [out] float32, the norms of the channels


class VectorState(NamedTuple):
  """State of `vector`."""

  vector_count: jax.Array  # shape=(), dtype=int32: updates so far
  codebooks: chex.ArrayTree  # a `Codebook` for each kernel, as last used


def vector(
  group_size: int = 4,
  num_codewords: int = 16,
  refresh_steps: int = 50,
  seed: int = 0,
) -> _base.Quantizer:
  """Product quantization with codewords that are trained.

  Forward: the kernel `[.., in, out]` is cut into groups of `d` consecutive
  input channels of an output channel, `d` the largest divisor of `in` up to
  `group_size`. With `r_j = ||w_j||` and `x_gj = w_gj / r_j`,

  `q_gj = r_j c_k`, `k = k(g, j)`, and `c_k` the mean of its `n_k` groups `x`.

  The means are taken at every update, the nearest codewords are found again
  every `refresh_steps`; a codeword without groups then gets the one that is
  farthest from its own. At first `k` is found by k-means. There are `K`
  codewords, `num_codewords` or, in a small kernel, the power of two that leaves
  each 8 groups (at least 2).

  Backward, to the latents: see `transforms.straight_through`. The codewords
  follow: with the straight-through step `w' = w - rate g`, `g = dL/dq`,

  `c_k' = c_k - rate / n_k sum(g_gj / r_j)` over the groups of `c_k`,

  as far as the norms stay, which is gradient descent on the codewords: of
  `dL/dc_k = sum(r_j g_gj)`, with the rate divided by `n_k` and each channel's
  share by `r_j^2`, and exactly that gradient where the norms are 1.

  A kernel that holds a NaN becomes NaN.

  >>> import jax.numpy as jnp
  >>> w = {'kernel': jnp.array([[3.0, 0.75], [4.0, 1.0], [0.0, 0.0]])}
  >>> quantizer, axes = vector(group_size=3), {'kernel': 1}
  >>> quantized, state = quantizer.update(w, quantizer.init(w, axes), w, axes)
  >>> state.codebooks['kernel'].scales.tolist()
  [5.0, 1.25]
  >>> quantized['kernel'].round(2).tolist()
  [[3.0, 0.75], [4.0, 1.0], [0.0, 0.0]]

  Args:
    group_size: weights that a codeword stands for, at most; 1 or more.
    num_codewords: of a kernel, at most; 2 to 256.
    refresh_steps: updates between two assignments, at least 1.
    seed: of the groups that k-means starts from.

  Returns:
    A `Quantizer` of kernels whose output channels are on the last axis, with
    records `tensors.CodebookTensor`. Its state has a byte for each group, the
    codewords, and a number for each channel.

  Raises:
    ValueError: where a number is out of range.

  Note: codewords and scales are rounded so that float16 holds them. That the
    channels have the norms divided out is ours: they fold into the
    normalization that follows, and one codebook does for all of them.

  Reference: Stock, Joulin, Gribonval, Graham and Jegou, And the Bit Goes Down:
    Revisiting the Quantization of Neural Networks, ICLR 2020
    (arXiv:1907.05686), which trains codewords by the mean gradient of their
    groups; Jegou, Douze and Schmid, Product Quantization for Nearest Neighbor
    Search, 2011.
  """
  if group_size < 1 or refresh_steps < 1:
    raise ValueError(
      f'group_size is {group_size} and refresh_steps {refresh_steps}, wanted at'
      ' least 1'
    )
  if not 2 <= num_codewords <= 256:
    raise ValueError(f'num_codewords is {num_codewords}, wanted 2 to 256')

  def init_fn(latents, axes):
    _base.check_last_axes(latents, axes)
    leaves, treedef = jax.tree.flatten(latents)
    keys = jax.random.split(jax.random.key(seed), len(leaves))

    codebooks = [
      _make_codebook(w, key, group_size, num_codewords)
      for w, key in zip(leaves, keys, strict=True)
    ]
    return VectorState(
      jnp.zeros([], jnp.int32), jax.tree.unflatten(treedef, codebooks)
    )

  def update_fn(latents, state, params, axes):
    refresh = state.vector_count % refresh_steps == 0
    codebooks = jax.tree.map(
      lambda w, book: _follow(w, book, refresh), latents, state.codebooks
    )
    quantized = jax.tree.map(
      lambda w, p, book: _get_value(book).astype(p.dtype),
      latents,
      params,
      codebooks,
    )
    return quantized, VectorState(state.vector_count + 1, codebooks)

  def encode_fn(latents, state, axes):
    return jax.tree.map(
      lambda w, book: tensors.CodebookTensor(
        book.indices, book.codewords.astype(jnp.float16), book.scales
      ),
      latents,
      state.codebooks,
    )

  return _base.Quantizer(init_fn, update_fn, encode=encode_fn)


# Compiled always: one program for all kernels of a shape.
@functools.partial(jax.jit, static_argnums=(2, 3))
def _make_codebook(
  w: jax.Array, key: chex.PRNGKey, group_size: int, num_codewords: int
) -> Codebook:
  """The codebook to start from."""
  *outer, num_inputs, num_channels = w.shape
  size = _get_group_size(num_inputs, group_size)
  scales = _get_scales(w)
  x = _to_groups(w, scales, size)
  num_codewords = _get_num_codewords(len(x), num_codewords)
  codewords = _round(
    _clusters.find_codewords(x, key, num_codewords, _NUM_ROUNDS)
  )
  indices = _clusters.assign(x, codewords)
  shape = (*outer, num_inputs // size, num_channels)
  return Codebook(codewords, indices.reshape(shape), scales)


def _get_group_size(num_inputs: int, most: int) -> int:
  sizes = range(1, min(most, num_inputs) + 1)
  return max(size for size in sizes if num_inputs % size == 0)


def _get_num_codewords(num_groups: int, most: int) -> int:
  share = max(num_groups // _GROUPS_PER_CODEWORD, 1)
  power = 2 ** (share.bit_length() - 1)
  return min(most, max(power, 2), num_groups)


def _get_scales(w: jax.Array) -> jax.Array:
  return ternary.round_significand(sphere.norms(w), _SCALE_BITS)


def _to_groups(w: jax.Array, scales: jax.Array, size: int) -> jax.Array:
  """`[.., in, out]` to `[.. in / d out, d]`, the channels divided."""
  x = w * sphere.divide(1.0, scales)
  x = x.reshape(*w.shape[:-2], -1, size, w.shape[-1])
  return jnp.swapaxes(x, -1, -2).reshape(-1, size)


def _get_value(book: Codebook) -> jax.Array:
  """The kernel that a codebook stands for."""
  *outer, num_groups, num_channels = book.indices.shape
  groups = jnp.swapaxes(book.codewords[book.indices], -1, -2)
  kernel = groups.reshape(
    *outer, num_groups * book.codewords.shape[-1], num_channels
  )
  return kernel * book.scales


def _round(codewords: jax.Array) -> jax.Array:
  exact = jnp.round(codewords / _CODEWORD_UNIT) * _CODEWORD_UNIT
  return ternary.round_significand(exact, 11)


def _follow(w: jax.Array, book: Codebook, refresh: jax.Array) -> Codebook:
  """The codebook after the latents moved."""
  scales = _get_scales(w)
  x = _to_groups(w, scales, book.codewords.shape[-1])
  indices = jax.lax.cond(
    refresh,
    lambda: _clusters.revive(
      x, _clusters.assign(x, book.codewords), book.codewords
    ),
    lambda: book.indices.ravel(),
  )
  means, _ = _clusters.get_means(x, indices, book.codewords)
  return Codebook(_round(means), indices.reshape(book.indices.shape), scales)
