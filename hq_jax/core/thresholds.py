"""Exact thresholds between the weights that are kept and the others.

A *scope* says among which weights the largest are kept: those of a `layer`
(kernel), of the whole `tree`, of each output `channel`, or, as `N:M`, each M
consecutive ones along the input axis. What is compared is `abs(u)`, each
channel divided by its norm, or `abs(w)`.

Magnitudes are counted, not sorted or gathered, and norms are summed as
integers: thresholds are the same bits however the kernels are sharded.
"""

from collections.abc import Mapping, Sequence
import functools
import re
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from hq_jax.core import sparsity_distributions
from hq_jax.core import sphere
from hq_jax.core import trees

_MAX_INT = 2**31 - 1
_SMALLEST_NORMAL_BITS = 0x00800000
_SCOPES = ('layer', 'tree', 'channel')
# Comparisons within a group grow with its square.
_MAX_IN_GROUP = 64


class Threshold(NamedTuple):
  """Where the dead zone of one kernel ends.

  A weight `w` of channel `j` at flat index `i` has the magnitude `a = abs(w)
  inverse_norms[j]`, or `abs(w)` where they are None. It is kept where `a >
  magnitude`, or `a == magnitude` and `i < tie_index`: the second rule splits
  ties, so that exactly the wanted number of weights is kept.
  """

  magnitude: jax.Array  # shape=() or, by channel, [out, 1, ..], float32
  tie_index: jax.Array  # the same shape, int32
  inverse_norms: jax.Array | None = None  # shape=[out, 1, ..], float32


class Quota(NamedTuple):
  """How many weights of each group are kept, in an N:M scope."""

  num_kept: jax.Array  # shape=(), dtype=int32


def _is_record(node: object) -> bool:
  return isinstance(node, Threshold | Quota)


def parse_scope(scope: str) -> tuple[int, int] | None:
  """N and M of an N:M scope, or None for one that is named.

  >>> parse_scope('2:4'), parse_scope('layer')
  ((2, 4), None)

  Args:
    scope: 'layer', 'tree', 'channel' or 'N:M' with 1 <= N <= M <= 64.

  Returns:
    Two numbers, or None.

  Raises:
    ValueError: for anything else.
  """
  if scope in _SCOPES:
    return None
  match = re.fullmatch(r'(\d{1,2}):(\d{1,2})', str(scope))
  if match:
    num, size = int(match[1]), int(match[2])
    if 1 <= num <= size <= _MAX_IN_GROUP:
      return num, size
  raise ValueError(
    f'scope is {scope!r}, wanted layer, tree, channel, or N:M with 1 <= N <='
    f' M <= {_MAX_IN_GROUP}'
  )


def num_kept(size: int, sparsity: jax.Array | float) -> jax.Array:
  """The number of weights that a sparsity leaves, at least one.

  `k = max(1, round((1 - sparsity) * size))`

  >>> int(num_kept(200, 0.85))
  30

  Args:
    size: the number of weights.
    sparsity: a fraction in [0, 1); may be traced.

  Returns:
    int32, between 1 and `size`.

  Note: it is computed in float32, exact to its rounding: above 10^7 weights
    it may be off by a few.
  """
  kept = jnp.round((1.0 - jnp.asarray(sparsity, jnp.float32)) * size)
  return jnp.clip(kept.astype(jnp.int32), 1, size)


@functools.partial(jax.jit, static_argnums=0)
def _flat_index(shape: tuple[int, ...]) -> jax.Array:
  """The flat index of each element, built without a reshape.

  A reshape of a sharded kernel would gather it; this does not.
  """
  index = jnp.zeros(shape, jnp.int32)
  stride = 1
  for axis in reversed(range(len(shape))):
    index += stride * jax.lax.broadcasted_iota(jnp.int32, shape, axis)
    stride *= shape[axis]
  return index


def _bisect(accepts, shapes: Sequence[tuple[int, ...]]) -> list[jax.Array]:
  """The largest ints in [0, 2^31) that decreasing predicates accept."""

  def step(i, values):
    candidates = [v | (jnp.int32(1) << (30 - i)) for v in values]
    return [
      jnp.where(accepted, candidate, value)
      for accepted, candidate, value in zip(
        accepts(candidates), candidates, values, strict=True
      )
    ]

  zeros = [jnp.zeros(shape, jnp.int32) for shape in shapes]
  return jax.lax.fori_loop(0, 31, step, zeros)


def _ordered_bits(magnitudes: jax.Array) -> jax.Array:
  """Integers in the order of the magnitudes; subnormal ones count as zero.

  Whether `a > b` is true of subnormal floats depends on the processor; integers
  are compared alike everywhere. A NaN comes out above infinity.
  """
  bits = jax.lax.bitcast_convert_type(
    jnp.abs(magnitudes).astype(jnp.float32), jnp.int32
  )
  return jnp.where(bits < _SMALLEST_NORMAL_BITS, 0, bits)


def _count(condition: jax.Array) -> jax.Array:
  # Row by row first: a sum over all axes at once is slow on CPU.
  rows = jnp.sum(
    condition, axis=tuple(range(condition.ndim - 1)), dtype=jnp.int32
  )
  return jnp.sum(rows, dtype=jnp.int32)


def _check_sizes(sizes: Sequence[int]) -> None:
  for size in sizes:
    if size >= _MAX_INT:
      raise ValueError(
        f'magnitudes has {size} elements, wanted below 2**31 - 1'
      )


def find_thresholds(
  magnitudes: Sequence[jax.Array],
  kept: Sequence[jax.Array | int],
  axes: Sequence[int] | None = None,
) -> list[Threshold]:
  """The thresholds that keep exactly the `kept` largest of each kernel.

  Ties are kept in the order of their flat index. The magnitude is found by
  bisection on the bits of the float, exact in 31 counts, and so is the tie
  index where there is one to split: no sort and no gather, so it works on
  sharded kernels and gives the same answer on any number of devices. All
  kernels share one loop, which compiles faster than one for each.

  >>> import jax.numpy as jnp
  >>> x = jnp.array([[3., 1.], [2., 2.]])
  >>> (found,) = find_thresholds([x], [2])
  >>> keep_mask(x, found)
  Array([[ True, False],
         [ True, False]], dtype=bool)

  Args:
    magnitudes: one array for each kernel, non-negative; subnormal ones count
      as zero, NaN as the largest.
    kept: how many to keep of each, in [0, size]; may be traced.
    axes: the channel axis of each kernel, if each of its channels is to keep
      that many by itself.

  Returns:
    A `Threshold` for each kernel, with one magnitude for each channel where
    `axes` are given; it is infinite where none is kept.

  Raises:
    ValueError: where a kernel has 2^31 - 1 elements or more.
  """
  _check_sizes([array.size for array in magnitudes])
  wanted = [jnp.asarray(k, jnp.int32) for k in kept]
  bits = [_ordered_bits(array) for array in magnitudes]
  index = [_flat_index(array.shape) for array in magnitudes]
  kernels = range(len(magnitudes))

  def count(i, condition):
    if axes is None:
      return _count(condition)
    return sphere.sum_by_channel(condition, axes[i], dtype=jnp.int32)

  shapes = [
    jax.eval_shape(functools.partial(count, i), bits[i]).shape for i in kernels
  ]
  kth = _bisect(
    lambda b: [count(i, bits[i] >= b[i]) >= wanted[i] for i in kernels], shapes
  )
  tied = [bits[i] == kth[i] for i in kernels]
  num_wanted = [wanted[i] - count(i, bits[i] > kth[i]) for i in kernels]
  split = [jnp.any(count(i, tied[i]) > num_wanted[i]) for i in kernels]
  tie_index = jax.lax.cond(
    jnp.any(jnp.stack(split)),
    lambda: _bisect(
      lambda m: [
        count(i, tied[i] & (index[i] < m[i])) <= num_wanted[i] for i in kernels
      ],
      shapes,
    ),
    lambda: [jnp.full(shape, _MAX_INT, jnp.int32) for shape in shapes],
  )
  found = []
  for i in kernels:
    magnitude = jax.lax.bitcast_convert_type(kth[i], jnp.float32)
    is_any = wanted[i] > 0
    found.append(
      Threshold(
        jnp.where(is_any, magnitude, jnp.inf),
        jnp.where(is_any, tie_index[i], 0),
      )
    )
  return found


def find_shared_threshold(
  magnitudes: Sequence[jax.Array], kept: jax.Array | int
) -> list[Threshold]:
  """One threshold over all kernels, which keeps the `kept` largest of all.

  Ties are kept in the order of the kernels, then of their flat index. A kernel
  that would lose everything keeps its largest weight, and all others together
  that much less: the number that is kept is `max(kept, number of kernels)`.

  >>> import jax.numpy as jnp
  >>> arrays = [jnp.array([5., 4., 3.]), jnp.array([2., 1.])]
  >>> for x, threshold in zip(arrays, find_shared_threshold(arrays, 3)):
  ...   print(keep_mask(x, threshold))
  [ True  True False]
  [ True False]

  Args:
    magnitudes: one array for each kernel, none of them empty, with fewer than
      2^31 - 1 elements in all.
    kept: how many to keep; may be traced.

  Returns:
    A `Threshold` for each kernel: the shared one, or where it would leave
    nothing, one that leaves the kernel's largest weight.

  Raises:
    ValueError: where there are too many elements.
  """
  sizes = [array.size for array in magnitudes]
  _check_sizes([sum(sizes)])
  wanted = jnp.maximum(jnp.asarray(kept, jnp.int32), len(sizes))
  bits = [_ordered_bits(array) for array in magnitudes]
  index = [_flat_index(array.shape) for array in magnitudes]
  offsets = [sum(sizes[:i]) for i in range(len(sizes))]

  def count(conditions):
    counts = jnp.stack([_count(condition) for condition in conditions])
    return jnp.sum(jnp.maximum(counts, 1)), counts

  (kth,) = _bisect(
    lambda b: [count(x >= b[0] for x in bits)[0] >= wanted], [()]
  )

  def kept_before(m):
    return [
      (x > kth) | ((x == kth) & (i + offset < m))
      for x, i, offset in zip(bits, index, offsets, strict=True)
    ]

  (shared,) = _bisect(lambda m: [count(kept_before(m[0]))[0] <= wanted], [()])
  found = []
  counts = count(kept_before(shared))[1]
  for i, offset in enumerate(offsets):
    largest = jnp.max(bits[i])
    first = jnp.min(jnp.where(bits[i] == largest, index[i], _MAX_INT))
    alone = counts[i] == 0
    found.append(
      Threshold(
        jax.lax.bitcast_convert_type(
          jnp.where(alone, largest, kth), jnp.float32
        ),
        jnp.where(alone, first + 1, jnp.maximum(shared - offset, 0)),
      )
    )
  return found


def get_thresholds(
  latents: chex.ArrayTree,
  sparsity: jax.Array | float | Mapping[str, jax.Array | float],
  *,
  axes: chex.ArrayTree | None = None,
  scope: str = 'layer',
  unit_norm: bool = True,
) -> chex.ArrayTree:
  """The thresholds of all kernels of a tree.

  >>> import jax.numpy as jnp
  >>> found = get_thresholds({'kernel': jnp.array([[3.0], [4.0]])}, 0.5)
  >>> round(float(found['kernel'].magnitude), 6)
  0.8

  Args:
    latents: kernels; others may be masked.
    sparsity: the fraction of zeros, in [0, 1), may be traced: one for all
      kernels, or one for each by its path
      (see `sparsity_distributions.resolve`).
    axes: the channel axis of each kernel, see `trees.find_axes`; None for the
      last.
    scope: see the head of this file. In an N:M scope each group keeps `max(N,
      round((1 - sparsity) M))`, so that a ramp may lead there.
    unit_norm: whether `abs(u)` is ranked, or `abs(w)`.

  Returns:
    The tree with a `Threshold` (or a `Quota`, for N:M) for each kernel.

  Raises:
    ValueError: where scope and sparsity do not fit.
  """
  group = parse_scope(scope)
  leaves, treedef = jax.tree.flatten(latents)
  if axes is None:
    axes = jax.tree.map(lambda w: w.ndim - 1, latents)
  channel_axes = jax.tree.leaves(axes)
  paths = list(trees.flatten(latents))
  sparsities = list(sparsity_distributions.resolve(sparsity, paths).values())
  if group:
    num, size = group
    for path, w, axis in zip(paths, leaves, channel_axes, strict=True):
      length = w.shape[_input_axis(axis)]
      if length % size:
        raise ValueError(
          f'scope is {scope!r}, but {path} of shape {w.shape} has {length}'
          f' weights along its input axis, wanted a multiple of {size}: select'
          ' other kernels'
        )
    quotas = [Quota(jnp.maximum(num_kept(size, s), num)) for s in sparsities]
    return jax.tree.unflatten(treedef, quotas)
  inverse: list[jax.Array | None] = [None] * len(leaves)
  if unit_norm:
    inverse = [
      sphere.divide(1.0, sphere.exact_norms(w, axis))
      for w, axis in zip(leaves, channel_axes, strict=True)
    ]
  magnitudes = list(map(_magnitudes, leaves, inverse))
  if scope == 'tree':
    if isinstance(sparsity, Mapping):
      raise ValueError(
        f'sparsity is {dict(sparsity)}, wanted one number: with scope tree all'
        ' kernels share a threshold'
      )
    size = sum(w.size for w in leaves)
    found = find_shared_threshold(magnitudes, num_kept(size, sparsity))
  else:
    by_channel = scope == 'channel'
    kept = [
      num_kept(w.size // (w.shape[axis] if by_channel else 1), s)
      for w, axis, s in zip(leaves, channel_axes, sparsities, strict=True)
    ]
    found = find_thresholds(
      magnitudes, kept, channel_axes if by_channel else None
    )
  found = [
    threshold._replace(inverse_norms=norms)
    for threshold, norms in zip(found, inverse, strict=True)
  ]
  return jax.tree.unflatten(treedef, found)


def keep_everything(found: chex.ArrayTree) -> chex.ArrayTree:
  """Thresholds of the same kind that keep every weight.

  >>> import jax.numpy as jnp
  >>> w = jnp.array([[3.0], [4.0]])
  >>> loose = keep_everything(get_thresholds({'kernel': w}, 0.5))
  >>> keep_mask(w, loose['kernel']).all()
  Array(True, dtype=bool)

  Args:
    found: of `get_thresholds`; only shapes and types are looked at.

  Returns:
    A tree of the same structure, shapes and types.
  """

  def loosen(record):
    fill = lambda leaf, value: jnp.full(leaf.shape, value, leaf.dtype)
    if isinstance(record, Quota):
      return Quota(fill(record.num_kept, _MAX_IN_GROUP))
    norms = record.inverse_norms
    return Threshold(
      fill(record.magnitude, 0),
      fill(record.tie_index, _MAX_INT),
      None if norms is None else fill(norms, 0),
    )

  return jax.tree.map(loosen, found, is_leaf=_is_record)


def split(found: chex.ArrayTree) -> Threshold | Quota:
  """From a threshold for each kernel to trees of numbers, for a state.

  Wrappers of parameters, such as the variables of Flax NNX, hold one array each
  and no record.

  >>> import jax.numpy as jnp
  >>> split({'a': Quota(jnp.int32(2))})
  Quota(num_kept={'a': Array(2, dtype=int32)})

  Args:
    found: of `get_thresholds`, with at least one kernel.

  Returns:
    One record, with a tree in each field.
  """
  first, *_ = jax.tree.leaves(found, is_leaf=_is_record)
  field = lambda name: jax.tree.map(
    lambda record: getattr(record, name), found, is_leaf=_is_record
  )
  names = [name for name, x in first._asdict().items() if x is not None]
  return first._replace(**{name: field(name) for name in names})


def join(record: Threshold | Quota) -> chex.ArrayTree:
  """The inverse of `split`.

  >>> import jax.numpy as jnp
  >>> join(Quota({'a': jnp.ones(())}))
  {'a': Quota(num_kept=Array(1., dtype=float32))}

  Args:
    record: with a tree in each field that is not None.

  Returns:
    A tree with a record for each kernel.
  """
  fields = [field for field in record if field is not None]
  return jax.tree.map(lambda *values: type(record)(*values), *fields)


def _magnitudes(w: jax.Array, inverse_norms: jax.Array | None) -> jax.Array:
  magnitudes = jnp.abs(w.astype(jnp.float32))
  if inverse_norms is None:
    return magnitudes
  return magnitudes * inverse_norms


@jax.jit
def keep_mask(w: jax.Array, threshold: Threshold) -> jax.Array:
  """Which weights a threshold keeps.

  `keep = (a > magnitude) | (a == magnitude & index < tie_index)`

  >>> import jax.numpy as jnp
  >>> threshold = Threshold(jnp.float32(2), jnp.int32(2))
  >>> keep_mask(jnp.array([1., -2., 2.]), threshold)
  Array([False,  True, False], dtype=bool)

  Args:
    w: a kernel.
    threshold: of that kernel.

  Returns:
    bool, the shape of `w`, True = kept.
  """
  bits = _ordered_bits(_magnitudes(w, threshold.inverse_norms))
  threshold_bits = _ordered_bits(threshold.magnitude)
  return (bits > threshold_bits) | (
    (bits == threshold_bits) & (_flat_index(w.shape) < threshold.tie_index)
  )


def keep_n_of_m(
  w: jax.Array, num: jax.Array | int, size: int, axis: int
) -> jax.Array:
  """Keeps the `num` largest of each `size` consecutive weights along an axis.

  `keep_i = [#{j in group: abs(w_j) > abs(w_i), or equal and j < i} < num]`

  >>> import jax.numpy as jnp
  >>> keep_n_of_m(jnp.array([[1., -4., 2., 3., 5., 5., 5., 5.]]), 2, 4, axis=1)
  Array([[False,  True, False,  True,  True,  True, False, False]], dtype=bool)

  Args:
    w: a kernel.
    num: how many to keep; may be traced.
    size: the weights of a group.
    axis: along which groups lie; its length is a multiple of `size`.

  Returns:
    bool, the shape of `w`, True = kept.

  Raises:
    ValueError: where the length is no multiple.
  """
  length = w.shape[axis]
  if length % size:
    raise ValueError(
      f'w has {length} weights along axis {axis}, wanted a multiple of {size}'
    )
  axis %= w.ndim
  grouped = (*w.shape[:axis], length // size, size, *w.shape[axis + 1 :])
  bits = _ordered_bits(w).reshape(grouped)
  place = jax.lax.broadcasted_iota(jnp.int32, grouped, axis + 1)
  rank = jnp.zeros(grouped, jnp.int32)
  for j in range(size):
    other = jax.lax.slice_in_dim(bits, j, j + 1, axis=axis + 1)
    rank += (other > bits) | ((other == bits) & (j < place))
  return (rank < num).reshape(w.shape)


def _input_axis(channel_axis: int) -> int:
  return channel_axis - 1 if channel_axis else 1


def get_keep_mask(
  w: jax.Array,
  threshold: Threshold | Quota,
  *,
  axis: int = -1,
  scope: str = 'layer',
) -> jax.Array:
  """Which weights are kept, in any scope.

  >>> import jax.numpy as jnp
  >>> w = jnp.array([[1.], [-4.], [2.], [3.]])
  >>> get_keep_mask(w, Quota(jnp.int32(1)), scope='1:2').ravel()
  Array([False,  True, False,  True], dtype=bool)

  Args:
    w: a kernel.
    threshold: of `get_thresholds` with the same scope.
    axis: the channel axis. In an N:M scope, groups lie along the axis before
      it, or where it is the first, along the one behind it: the input axis.
    scope: see the head of this file.

  Returns:
    bool, the shape of `w`, True = kept.

  Raises:
    ValueError: where an N:M scope does not fit the kernel.
  """
  if isinstance(threshold, Threshold):
    return keep_mask(w, threshold)
  _, size = parse_scope(scope) or (1, 1)
  input_axis = _input_axis(axis % w.ndim)
  return keep_n_of_m(w, threshold.num_kept, size, input_axis)
