"""Exact thresholds between the weights that are kept and the others.

A *scope* says among which weights the largest are kept: those of a `layer` (a
kernel, or one of those stacked in it), of the whole `tree`, of each output
`channel`, or, as `N:M`, each M consecutive ones along the input axis. What is
compared is `abs(u)`, each channel divided by its norm, or `abs(w)`.

Magnitudes are counted, not sorted or gathered, and norms are summed as
integers: thresholds are the same bits however the kernels are sharded.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import itertools
import math
import operator
import re
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from hq_jax.core import branches
from hq_jax.core import sparsity_distributions
from hq_jax.core import sphere
from hq_jax.core import trees

_NUM_BITS = 31
_MAX_INT = 2**31 - 1
_SMALLEST_NORMAL_BITS = 0x00800000
# Up to here every integer is a float32.
_MAX_FLOAT_COUNT = 2**24
_SCOPES = ('layer', 'tree', 'channel')
# Comparisons within a group grow with its square.
_MAX_IN_GROUP = 64


class Threshold(NamedTuple):
  """Where the dead zone of one kernel ends.

  A weight `w` of channel `j` at flat index `i` has the magnitude `a = abs(w)
  inverse_norms[j]`, or `abs(w)` where they are None. It is kept where `a >
  magnitude`, or `a == magnitude` and `i < tie_index`: the second rule splits
  ties, so that exactly the wanted number of weights is kept. Where layers are
  stacked, each has its numbers, and `i` counts in each by itself.
  """

  magnitude: jax.Array  # float32, shape=(); [L, 1, ..] by layer, or by channel
  tie_index: jax.Array  # the same shape, int32
  inverse_norms: jax.Array | None = None  # shape=[1, .., out], float32


class Quota(NamedTuple):
  """How many weights of each group are kept, in an N:M scope."""

  num_kept: jax.Array  # shape=(), dtype=int32


def is_record(node: object) -> bool:
  """Whether a node of a tree is what is known of one kernel.

  >>> is_record(Threshold(0.1, 3, 1.0)), is_record({'kernel': 0.1})
  (True, False)

  Args:
    node: of any tree.

  Returns:
    Whether it is a `Threshold` or a `Quota`.
  """
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


def _flat_index(shape: tuple[int, ...], own: tuple[int, ...] = ()) -> jax.Array:
  """The flat index of each element, in its place along some axes.

  Built without a reshape, which would gather a sharded kernel.
  """
  index = jnp.zeros(shape, jnp.int32)
  stride = 1
  for axis in reversed(range(len(shape))):
    if axis not in own and shape[axis] > 1:
      iota = jax.lax.broadcasted_iota(jnp.int32, shape, axis)
      index = index + iota * stride
      stride *= shape[axis]
  return index


def _bits(magnitudes: jax.Array) -> jax.Array:
  """Integers in the order of the magnitudes; a NaN is above infinity."""
  return jax.lax.bitcast_convert_type(magnitudes, jnp.int32)


def _ordered_bits(magnitudes: jax.Array) -> jax.Array:
  """The same, with subnormal ones counting as zero.

  Whether `a > b` is true of subnormal floats depends on the processor; integers
  are compared alike everywhere.
  """
  bits = _bits(magnitudes)
  return jnp.where(bits < _SMALLEST_NORMAL_BITS, 0, bits)


def _count(condition: jax.Array, axes: tuple[int, ...] = ()) -> jax.Array:
  """How often it is true: in all, or for each place along some axes."""
  # In float32 as far as that is exact: XLA compiles and runs it faster.
  others = [axis for axis in range(condition.ndim) if axis not in axes]
  lengths = itertools.accumulate(
    [condition.shape[axis] for axis in others], operator.mul
  )
  num = sum(length <= _MAX_FLOAT_COUNT for length in lengths)
  total = jnp.sum(
    condition, axis=tuple(others[:num]), dtype=jnp.float32, keepdims=True
  )
  total = total.astype(jnp.int32)
  if num < len(others):
    total = jnp.sum(total, axis=tuple(others[num:]), keepdims=True)
  return total if axes else total.reshape(())


def _size(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  """What `_count` gives where all is true, sharded as that is."""
  counted = jax.eval_shape(lambda: _count(x >= 0, axes))
  size = x.size // max(counted.size, 1)
  return branches.place_like(jnp.full(counted.shape, size, jnp.int32), counted)


def _check_sizes(sizes: Sequence[int]) -> None:
  for size in sizes:
    if size >= _MAX_INT:
      raise ValueError(
        f'magnitudes has {size} elements, wanted below 2**31 - 1'
      )


def find_thresholds(
  magnitudes: Sequence[jax.Array],
  kept: Sequence[jax.Array | int],
  axes: Sequence[tuple[int, ...]] | None = None,
) -> list[Threshold]:
  """The thresholds that keep exactly the `kept` largest of each kernel.

  Ties are kept in the order of their flat index. The magnitude is found by
  bisection on the bits of the float, exact in 31 counts, and then so is the tie
  index, if there is one to split: no sort and no gather, so it works on
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
    kept: how many to keep of each, in [0, size]; may be traced. Scalars, or
      arrays that broadcast against the thresholds.
    axes: of each kernel, those along which each place keeps that many by
      itself, such as its channel axis, or that of stacked layers.

  Returns:
    A `Threshold` for each kernel: scalars, or where it has such axes, arrays
    with as many axes as the kernel, with a one for each other axis; it is
    infinite where none is kept.

  Raises:
    ValueError: where a kernel has 2^31 - 1 elements or more.
  """
  _check_sizes([array.size for array in magnitudes])
  own = axes or [()] * len(magnitudes)
  bits = [_ordered_bits(_magnitudes(array, None)) for array in magnitudes]
  totals = [_size(x, o) for x, o in zip(bits, own, strict=True)]
  wanted = [
    jnp.broadcast_to(jnp.asarray(k, jnp.int32), total.shape)
    for k, total in zip(kept, totals, strict=True)
  ]

  def find(carry):
    place, _, found = carry
    # First the largest `least` with a count of at least what is wanted, all
    # ties kept; then the largest `cut` off the tie index with more than that.
    is_tie = place >= _NUM_BITS
    bit = jnp.int32(1) << (_NUM_BITS - 1 - place % _NUM_BITS)
    least_bit, cut_bit, spare = bit * ~is_tie, bit * is_tie, is_tie * 1

    def refine(x, axes, k, last):
      least, cut = last.least | least_bit, last.cut | cut_bit
      # A tie that is kept counts as above it.
      ties = _flat_index(x.shape, axes) < _MAX_INT - cut
      total = _count(x + ties > least, axes)
      pick = functools.partial(jax.lax.select, total >= k + spare)
      return _Found(*map(pick, (least, cut, total), last))

    # Kernels by themselves: XLA compiles once what is the same for several.
    found = list(map(refine, bits, own, wanted, found))
    are_ties = [
      jnp.any(x.total > k) for x, k in zip(found, wanted, strict=True)
    ]
    return place + 1, functools.reduce(jnp.logical_or, are_ties), found

  def is_unfinished(carry):
    place, are_ties, _ = carry
    return (place < _NUM_BITS) | (are_ties & (place < 2 * _NUM_BITS))

  # Zeros that are sharded, and vary, as the counts do.
  start = [_Found(total * 0, total * 0, total) for total in totals]
  no_ties = functools.reduce(jnp.logical_or, [jnp.any(x < 0) for x in totals])
  _, _, found = jax.lax.while_loop(
    is_unfinished, find, (jnp.int32(0), no_ties, start)
  )
  return [
    Threshold(
      jnp.where(
        k > 0, jax.lax.bitcast_convert_type(least, jnp.float32), jnp.inf
      ),
      jnp.where(k > 0, _MAX_INT - cut - (total > k), 0),
    )
    for k, (least, cut, total) in zip(wanted, found, strict=True)
  ]


class _Found(NamedTuple):
  """What is known of a threshold."""

  least: jax.Array  # the bits of its magnitude, so far
  cut: jax.Array  # how far its tie index is below the largest, so far
  total: jax.Array  # how many weights it keeps


def _bisect(accepts: Callable[[jax.Array], jax.Array]) -> jax.Array:
  """The largest int in [0, 2^31) that a decreasing predicate accepts."""

  def step(i, value):
    candidate = value | (jnp.int32(1) << (_NUM_BITS - 1 - i))
    return jnp.where(accepts(candidate), candidate, value)

  zero = jnp.int32(0)
  start = branches.place_like(zero, jax.eval_shape(accepts, zero))
  return jax.lax.fori_loop(0, _NUM_BITS, step, start)


def find_shared_threshold(
  magnitudes: Sequence[jax.Array],
  kept: jax.Array | int,
  axes: Sequence[tuple[int, ...]] | None = None,
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
    axes: of each kernel, those along which layers are stacked, each of which
      counts as a kernel by itself.

  Returns:
    A `Threshold` for each kernel: the shared one, or where it would leave
    nothing, one that leaves the kernel's largest weight. It has the shapes of
    `find_thresholds`.

  Raises:
    ValueError: where there are too many elements.
  """
  _check_sizes([sum(array.size for array in magnitudes)])
  own = axes or [()] * len(magnitudes)
  bits = [_ordered_bits(_magnitudes(array, None)) for array in magnitudes]
  index = list(map(_flat_index, [x.shape for x in bits], own))
  sizes = list(map(_size, bits, own))
  wanted = jnp.maximum(
    jnp.asarray(kept, jnp.int32), sum(size.size for size in sizes)
  )
  before = itertools.accumulate((x.size for x in bits), initial=0)
  # Of each layer, how many weights come before it.
  offsets = [
    num + size * _flat_index(size.shape)
    for num, size in zip(before, sizes, strict=False)
  ]

  def count(conditions):
    counts = list(map(_count, conditions, own))
    return sum(jnp.sum(jnp.maximum(x, 1)) for x in counts), counts

  kth = _bisect(lambda b: count([x >= b for x in bits])[0] >= wanted)

  def kept_before(m):
    return [
      (x > kth) | ((x == kth) & (i + offset < m))
      for x, i, offset in zip(bits, index, offsets, strict=True)
    ]

  shared = _bisect(lambda m: count(kept_before(m))[0] <= wanted)
  found = []
  for x, i, offset, axes_of, num in zip(
    bits, index, offsets, own, count(kept_before(shared))[1], strict=True
  ):
    largest = _reduce(jnp.max, x, axes_of)
    first = _reduce(jnp.min, jnp.where(x == largest, i, _MAX_INT), axes_of)
    found.append(
      Threshold(
        jax.lax.bitcast_convert_type(
          jnp.where(num == 0, largest, kth), jnp.float32
        ),
        jnp.where(num == 0, first + 1, jnp.maximum(shared - offset, 0)),
      )
    )
  return found


def _reduce(
  reduce: Callable[..., jax.Array], x: jax.Array, axes: tuple[int, ...]
) -> jax.Array:
  """One number of all of it, or of each place along some axes."""
  others = tuple(axis for axis in range(x.ndim) if axis not in axes)
  return reduce(x, axis=others, keepdims=bool(axes))


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
    axes: the `trees.Axes` of each kernel, see `trees.find_axes`; None for
      output channels on the last one.
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
    axes = jax.tree.map(lambda w: trees.Axes((w.ndim - 1,)), latents)
  axes_of = jax.tree.leaves(axes)
  paths = list(trees.flatten(latents))
  sparsities = list(sparsity_distributions.resolve(sparsity, paths).values())
  if group:
    num, size = group
    for path, w, of_one in zip(paths, leaves, axes_of, strict=True):
      length = w.shape[_input_axis(of_one, w.ndim)]
      if length % size:
        raise ValueError(
          f'scope is {scope!r}, but {path} of shape {w.shape} has {length}'
          f' weights along its input axis, wanted a multiple of {size}: select'
          ' other kernels'
        )
    quotas = [Quota(jnp.maximum(num_kept(size, s), num)) for s in sparsities]
    return jax.tree.unflatten(treedef, quotas)
  inverse = [
    _inverse_norms(w, of_one.kept, unit_norm)
    for w, of_one in zip(leaves, axes_of, strict=True)
  ]
  magnitudes = list(map(_magnitudes, leaves, inverse))
  layers = [of_one.layer for of_one in axes_of]
  if scope == 'tree':
    if isinstance(sparsity, Mapping):
      raise ValueError(
        f'sparsity is {dict(sparsity)}, wanted one number: with scope tree all'
        ' kernels share a threshold'
      )
    total = num_kept(sum(w.size for w in leaves), sparsity)
    found = find_shared_threshold(magnitudes, total, layers)
  else:
    own = layers
    if scope == 'channel':
      own = [of_one.kept for of_one in axes_of]
    kept = []
    for w, alone, s in zip(leaves, own, sparsities, strict=True):
      others = [n for axis, n in enumerate(w.shape) if axis not in alone]
      kept.append(num_kept(math.prod(others), s))
    found = find_thresholds(magnitudes, kept, own)
  found = [
    threshold._replace(inverse_norms=norms)
    for threshold, norms in zip(found, inverse, strict=True)
  ]
  return jax.tree.unflatten(treedef, found)


def _magnitudes(w: jax.Array, inverse_norms: jax.Array | None) -> jax.Array:
  w = w.astype(jnp.float32)
  # Last of all: infinity times zero has a sign on some processors.
  return jnp.abs(w if inverse_norms is None else w * inverse_norms)


def _inverse_norms(
  w: jax.Array, axes: tuple[int, ...], unit_norm: bool
) -> jax.Array | None:
  if not unit_norm:
    return None
  return sphere.divide(1.0, sphere.exact_norms(w, axes))


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

  return jax.tree.map(loosen, found, is_leaf=is_record)


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
  first, *_ = jax.tree.leaves(found, is_leaf=is_record)
  field = lambda name: jax.tree.map(
    lambda record: getattr(record, name), found, is_leaf=is_record
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
  bits = _bits(_magnitudes(w, threshold.inverse_norms))
  least = _ordered_bits(threshold.magnitude)
  # Subnormal magnitudes are zeros: none is above zero, and each ties with it.
  above = jnp.maximum(least, _SMALLEST_NORMAL_BITS - 1)
  own = tuple(axis for axis, n in enumerate(least.shape) if n > 1)
  index = _flat_index(w.shape, own)
  return (bits > above) | ((bits >= least) & (index < threshold.tie_index))


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
  bits = _ordered_bits(_magnitudes(w, None)).reshape(grouped)
  place = jax.lax.broadcasted_iota(jnp.int32, grouped, axis + 1)
  rank = jnp.zeros(grouped, jnp.int32)
  for j in range(size):
    other = jax.lax.slice_in_dim(bits, j, j + 1, axis=axis + 1)
    rank += (other > bits) | ((other == bits) & (j < place))
  return (rank < num).reshape(w.shape)


def _input_axis(axes: trees.Axes, num_axes: int) -> int:
  """The axis before the channels, or where they are first, the one behind."""
  others = [axis for axis in range(num_axes) if axis not in axes.kept]
  before = [axis for axis in others if axis < axes.channel[0]]
  return before[-1] if before else others[0]


def get_keep_mask(
  w: jax.Array,
  threshold: Threshold | Quota,
  *,
  axes: trees.Axes | None = None,
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
    axes: of the kernel; None for output channels on the last one. In an N:M
      scope, groups lie along the axis before the channels, or where they are
      first, along the one behind them: the input axis.
    scope: see the head of this file.

  Returns:
    bool, the shape of `w`, True = kept.

  Raises:
    ValueError: where an N:M scope does not fit the kernel.
  """
  if isinstance(threshold, Threshold):
    return keep_mask(w, threshold)
  _, size = parse_scope(scope) or (1, 1)
  axes = axes or trees.Axes((w.ndim - 1,))
  input_axis = _input_axis(axes, w.ndim)
  return keep_n_of_m(w, threshold.num_kept, size, input_axis)
