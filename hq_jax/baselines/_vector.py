"""Groups of weights share codewords that are trained: product quantization."""

import functools
import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from hq_jax.baselines import _kmeans
from hq_jax.core import qtensors
from hq_jax.core import sphere
from hq_jax.core import ternary
from hq_jax.transforms import _quantizer

_NUM_ROUNDS = 10
_GROUPS_PER_CODEWORD = 8
# Codewords are multiples of 2^-14, at most 1, and scales have 8 bits: products,
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
  unit_codewords: chex.ArrayTree  # [K, d] float32 for each kernel: `u`
  codebooks: chex.ArrayTree  # a `Codebook` for each kernel, as last used
  codeword_opt_state: Any  # of the optimizer of the codewords


def vector(
  group_size: int = 4,
  num_codewords: int = 16,
  refresh_steps: int = 1,
  optimizer: optax.GradientTransformation | None = None,
  seed: int = 0,
) -> _quantizer.Quantizer:
  """Product quantization with codewords that are learnt by gradient descent.

  Forward: the kernel `[.., in, out]` is cut into groups of `d` consecutive
  input channels of an output channel, `d` the largest divisor of `in` up to
  `group_size`. With `r_j = ||w_j||`, over the `n` inputs of a channel,

  `q_gj = r_j c_k`, `k = k(g, j)`, and `c_k` the codeword nearest to `w_gj /
  r_j`,

  which is found again every `refresh_steps`. At first codewords are found by
  k-means. There are `K`, `num_codewords` or, in a small kernel, the power of
  two that leaves each 8 groups (at least 2).

  Backward, to the codewords: `c_k = u_k / sqrt(n)`, in a unit in which weights
  are about 1 whatever their number, and the optimizer moves `u` with

  `dL/du_k = 1 / sqrt(n) sum(r_j dL/dq_gj)` over the groups of `c_k`.

  To the latents, which decide which codeword is nearest: see
  `transforms.straight_through`.

  A channel that holds a NaN becomes NaN.

  >>> import jax.numpy as jnp
  >>> from hq_jax.core import trees
  >>> w = {'kernel': jnp.array([[3.0, 0.75], [4.0, 1.0], [0.0, 0.0]])}
  >>> quantizer, axes = vector(group_size=3), trees.find_axes(w)
  >>> quantized, state = quantizer.update(w, quantizer.init(w, axes), w, axes)
  >>> state.codebooks['kernel'].scales.tolist()
  [5.0, 1.25]
  >>> quantized['kernel'].round(2).tolist()
  [[3.0, 0.75], [4.0, 1.0], [0.0, 0.0]]

  Args:
    group_size: weights that a codeword stands for, at most; 1 or more.
    num_codewords: of a kernel, at most; 2 to 256.
    refresh_steps: updates between two assignments, at least 1.
    optimizer: of the codewords, with a rate like that of the latents; by
      default `optax.adam(1e-3)`.
    seed: of the groups that k-means starts from.

  Returns:
    A `Quantizer` of kernels whose output channels are on the last axis, which
    encodes to `qtensors.CodebookTensor`. Its state has a byte for each group,
    the codewords and what their optimizer keeps, and a number for each channel.

  Raises:
    ValueError: where a number is out of range.

  Note: codewords and scales are rounded so that float16 holds them, codewords
    to 1 at most. That the channels have the norms divided out is ours: they
    fold into the normalization that follows, and one codebook does for all of
    them. The references keep the assignments; here they follow the latents,
    and training is better for it. It is much worse where a codeword becomes
    the mean of its groups at each update, in place of a step of its own.

  Reference: Stock, Joulin, Gribonval, Graham and Jegou, And the Bit Goes Down:
    Revisiting the Quantization of Neural Networks, ICLR 2020
    (arXiv:1907.05686), and Han, Mao and Dally, Deep Compression, ICLR 2016
    (arXiv:1510.00149), which train codewords by the gradients of their groups;
    Jegou, Douze and Schmid, Product Quantization for Nearest Neighbor Search,
    2011.
  """
  if group_size < 1 or refresh_steps < 1:
    raise ValueError(
      f'group_size is {group_size} and refresh_steps {refresh_steps}, wanted at'
      ' least 1'
    )
  if not 2 <= num_codewords <= 256:
    raise ValueError(f'num_codewords is {num_codewords}, wanted 2 to 256')
  codeword_optimizer = optax.adam(1e-3) if optimizer is None else optimizer

  def init_fn(latents, axes):
    _quantizer.check_last_axes(latents, axes)
    leaves, treedef = jax.tree.flatten(latents)
    keys = jax.random.split(jax.random.key(seed), len(leaves))

    codebooks = jax.tree.unflatten(
      treedef,
      [
        _make_codebook(w, key, group_size, num_codewords)
        for w, key in zip(leaves, keys, strict=True)
      ],
    )
    unit_codewords = jax.tree.map(
      lambda w, book: book.codewords / _get_unit(w), latents, codebooks
    )
    return VectorState(
      jnp.zeros([], jnp.int32),
      unit_codewords,
      codebooks,
      codeword_optimizer.init(unit_codewords),
    )

  def learn_fn(grads, latents, state, axes):
    moves, opt_state = codeword_optimizer.update(
      jax.tree.map(_get_gradient, grads, state.codebooks),
      state.codeword_opt_state,
      state.unit_codewords,
    )
    return state._replace(
      unit_codewords=optax.apply_updates(state.unit_codewords, moves),
      codeword_opt_state=opt_state,
    )

  def update_fn(latents, state, params, axes):
    refresh = state.vector_count % refresh_steps == 0
    codebooks = jax.tree.map(
      lambda w, u, book: _follow(w, u, book, refresh),
      latents,
      state.unit_codewords,
      state.codebooks,
    )
    quantized = jax.tree.map(
      lambda w, p, book: _get_value(book).astype(p.dtype),
      latents,
      params,
      codebooks,
    )
    return quantized, state._replace(
      vector_count=state.vector_count + 1, codebooks=codebooks
    )

  def encode_fn(latents, state, axes):
    return jax.tree.map(
      lambda w, book: qtensors.CodebookTensor(
        book.indices, book.codewords.astype(jnp.float16), book.scales
      ),
      latents,
      state.codebooks,
    )

  return _quantizer.Quantizer(init_fn, update_fn, learn_fn, encode_fn)


# Compiled always: one program for all kernels of a shape.
@functools.partial(jax.jit, static_argnums=(2, 3))
def _make_codebook(
  w: jax.Array, key: chex.PRNGKey, group_size: int, num_codewords: int
) -> Codebook:
  """The codebook to start from."""
  *outer, num_inputs, num_channels = w.shape
  size = _get_group_size(num_inputs, group_size)
  scales = _get_scales(w)
  x = _to_groups(_scale(w, sphere.divide(1.0, scales)), size)
  num_codewords = _get_num_codewords(len(x), num_codewords)
  codewords = _round(_kmeans.find_codewords(x, key, num_codewords, _NUM_ROUNDS))
  indices = _kmeans.assign(x, codewords)
  shape = (*outer, num_inputs // size, num_channels)
  return Codebook(codewords, indices.reshape(shape), scales)


def _scale(w: jax.Array, scales: jax.Array) -> jax.Array:
  """Each channel times its number."""
  return w * jnp.expand_dims(scales, range(w.ndim - 1))


def _get_group_size(num_inputs: int, most: int) -> int:
  sizes = range(1, min(most, num_inputs) + 1)
  return max(size for size in sizes if num_inputs % size == 0)


def _get_num_codewords(num_groups: int, most: int) -> int:
  share = max(num_groups // _GROUPS_PER_CODEWORD, 1)
  power = 2 ** (share.bit_length() - 1)
  return min(most, max(power, 2), num_groups)


def _get_scales(w: jax.Array) -> jax.Array:
  return ternary.round_significand(sphere.norms(w).ravel(), _SCALE_BITS)


def _get_unit(w: jax.Array) -> float:
  """What a weight is about, in a channel of norm 1."""
  return math.prod(w.shape[:-1]) ** -0.5


def _to_groups(x: jax.Array, size: int) -> jax.Array:
  """`[.., in, out]` to `[.. in / d out, d]`."""
  x = x.reshape(*x.shape[:-2], -1, size, x.shape[-1])
  return jnp.swapaxes(x, -1, -2).reshape(-1, size)


def _get_value(book: Codebook) -> jax.Array:
  """The kernel that a codebook stands for."""
  *outer, num_groups, num_channels = book.indices.shape
  groups = jnp.swapaxes(book.codewords[book.indices], -1, -2)
  kernel = groups.reshape(
    *outer, num_groups * book.codewords.shape[-1], num_channels
  )
  return _scale(kernel, book.scales)


def _round(codewords: jax.Array) -> jax.Array:
  exact = jnp.round(codewords / _CODEWORD_UNIT) * _CODEWORD_UNIT
  return jnp.clip(ternary.round_significand(exact, 11), -1.0, 1.0)


def _get_gradient(g: jax.Array, book: Codebook) -> jax.Array:
  """`dL/du` from the gradient at the kernel."""
  num_codewords, size = book.codewords.shape
  groups = _to_groups(_scale(g.astype(jnp.float32), book.scales), size)
  sums, _ = _kmeans.get_sums(groups, book.indices.ravel(), num_codewords)
  return sums * _get_unit(g)


def _follow(
  w: jax.Array, unit_codewords: jax.Array, book: Codebook, refresh: jax.Array
) -> Codebook:
  """The codebook after latents and codewords moved."""
  scales = _get_scales(w)
  codewords = _round(unit_codewords * _get_unit(w))
  indices = jax.lax.cond(
    refresh,
    lambda: _kmeans.assign(
      _to_groups(_scale(w, sphere.divide(1.0, scales)), codewords.shape[-1]),
      codewords,
    ),
    lambda: book.indices.ravel(),
  )
  return Codebook(codewords, indices.reshape(book.indices.shape), scales)
