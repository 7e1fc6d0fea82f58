"""The allocation of a target's bytes to the kernels of a network."""

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any

import numpy as np

from hq_jax.compression import rate_control
from hq_jax.compression.planner import costs
from hq_jax.compression.planner import lagrangian
from hq_jax.compression.planner import overhead
from hq_jax.compression.planner import records
from hq_jax.compression.planner import size_prediction
from hq_jax.core import sparsity_distributions
from hq_jax.core import trees

_ENCODINGS = ('ternary', 'int8', 'float16')
ALLOCATIONS = ('cosine_distance', *sparsity_distributions.DISTRIBUTIONS)
_NUM_LISTED = 3  # of the largest kernels, where a ratio is refused


def plan(
  variables: Any,
  target_ratio: float,
  *,
  allocation: str = 'cosine_distance',
  encodings: Sequence[str] = _ENCODINGS,
  select: trees.Selector = trees.kernels,
  channel_axis: trees.ChannelAxis = trees.channel_axis,
  layer_axes: trees.LayerAxes = (),
  make_artifact: overhead.MakeArtifact | None = None,
  code_fraction: float = 1.0,
  int8: Sequence[str] = (),
) -> records.Plan:
  """Finds what reaches a ratio: how many zeros, and which encodings.

  With the allocation 'cosine_distance' it is the least `sum_l D_l` over the
  kernels, each ternary at some sparsity in [1/3, 0.995], int8 or float16 (see
  `costs` and `lagrangian`), such that the file has at most `dense_bytes /
  target_ratio` bytes. With 'uniform' and 'erdos_renyi_kernel' every kernel but
  those of `int8` is ternary, and the least overall sparsity from 1/3 on is
  found that reaches the ratio (see `sparsity_distributions`).

  >>> import numpy as np
  >>> kernel = np.random.default_rng(0).normal(size=(256, 512))
  >>> found = plan({'a': {'kernel': kernel}}, 30.0)
  >>> found.layers['a/kernel'].encoding, found.predicted_bytes <= 4 * 2**17 / 30
  ('ternary', True)

  Args:
    variables: a Flax model's, or a tree of parameters alone; of arrays, or of
      shapes and types, whose kernels count as Gaussian.
    target_ratio: float32 bytes of all variables over the bytes of the file,
      above 1.
    allocation: 'cosine_distance', 'uniform' or 'erdos_renyi_kernel'.
    encodings: what 'cosine_distance' may choose from.
    select: which parameters are kernels, by path; see `trees.select`.
    channel_axis: where their output channels are; see `trees.find_axes`.
    layer_axes: along which axes layers are stacked in them; see
      `trees.find_axes`. Layers of a stack have one sparsity.
    make_artifact: from variables, ternary and int8 kernels by path inside
      params, to the artifact; by default one without a header or folding. It is
      called with codes that are all zero, and parts of other large arrays: it
      has to keep their paths.
    code_fraction: the bytes that ternary codes take over their order-0 entropy,
      in (0, 2]: below 1 where contexts are known to save more.
    int8: layers whose kernels are int8, by the paths that these begin with;
      none with 'cosine_distance', which finds its own.

  Returns:
    A plan whose `predicted_bytes` reach the ratio.

  Raises:
    ValueError: where the ratio cannot be reached, with the reason in bytes; for
      arguments out of range; and as `overhead.measure`.
  """
  check_target(target_ratio)
  if allocation not in ALLOCATIONS:
    raise ValueError(
      f'allocation is {allocation!r}, wanted one of: {", ".join(ALLOCATIONS)}'
    )
  if not encodings or not set(encodings) <= set(_ENCODINGS):
    raise ValueError(
      f'encodings is {encodings!r}, wanted some of: {", ".join(_ENCODINGS)}'
    )
  if int8 and allocation == 'cosine_distance':
    raise ValueError(
      f'int8 is {tuple(int8)!r}, wanted none with cosine_distance, which finds'
      ' its own'
    )
  size_prediction.check_fraction(code_fraction)
  network = overhead.measure(
    variables,
    select=select,
    channel_axis=channel_axis,
    layer_axes=layer_axes,
    make_artifact=make_artifact,
  )
  wanted = int(network.dense_bytes / target_ratio)
  found = allocate(
    network,
    wanted,
    allocation=allocation,
    encodings=encodings,
    code_fraction=code_fraction,
    int8=int8,
  )
  if found.predicted_bytes > wanted:
    raise ValueError(explain(found, target_ratio))
  return found


def check_target(target_ratio: Any) -> None:
  """Refuses what is no finite number above 1."""
  if (
    not size_prediction.is_number(target_ratio)
    or not 1 < target_ratio < math.inf
  ):
    raise ValueError(
      f'target_ratio is {target_ratio!r:.40}, wanted a number above 1'
    )


def allocate(
  network: overhead.Network,
  wanted: int,
  *,
  allocation: str = 'cosine_distance',
  encodings: Sequence[str] = _ENCODINGS,
  code_fraction: float = 1.0,
  int8: Sequence[str] = (),
) -> records.Plan:
  """The plan for a number of bytes, or the smallest where none has so few."""
  if allocation == 'cosine_distance':
    found = _minimise_distance(network, wanted, encodings, code_fraction)
  else:
    found = _distribute(network, wanted, allocation, code_fraction, int8)
  return found._replace(target_bytes=wanted)


def _distribute(
  network: overhead.Network,
  wanted: int,
  distribution: str,
  code_fraction: float,
  int8: Sequence[str],
) -> records.Plan:
  """The least overall sparsity of the ternary kernels that fits."""
  encodings = size_prediction.encode_all(list(network.kernels), 'ternary', int8)
  fixed = overhead.fixed_bytes(network, encodings)
  shapes = {
    path: kernel.shape
    for path, kernel in network.kernels.items()
    if encodings[path] == 'ternary'
  }
  layer_axes = {path: axes.layer for path, axes in network.axes.items()}
  make = lambda sparsity: size_prediction.make_plan(
    network,
    fixed,
    encodings,
    sparsity_distributions.distribute(
      distribution, shapes, sparsity, layer_axes
    ),
    code_fraction,
  )
  return _find_least(
    make, sparsity_distributions.MIN_SPARSITY, costs.MAX_SPARSITY, wanted
  )


def _minimise_distance(
  network: overhead.Network,
  wanted: int,
  encodings: Sequence[str],
  code_fraction: float,
) -> records.Plan:
  """The least sum of distances that fits.

  The encodings are those of `lagrangian.minimise`. Because they jump, those
  that fit stay and the sparsities of ternary kernels use up what is left.
  """
  paths = list(network.kernels)
  options = lagrangian.get_options(
    list(network.costs.values()),
    encodings,
    code_fraction * size_prediction.CODER_OVERHEAD,
  )

  @functools.cache
  def measure(names: tuple[str, ...]) -> int:
    return overhead.fixed_bytes(network, dict(zip(paths, names, strict=True)))

  def make(
    choice: np.ndarray, sparsities: np.ndarray | None = None
  ) -> records.Plan:
    names = tuple(options.encodings[choice].tolist())
    if sparsities is None:
      sparsities = options.sparsities[choice]
    return size_prediction.make_plan(
      network,
      measure(names),
      dict(zip(paths, names, strict=True)),
      dict(zip(paths, sparsities.tolist(), strict=True)),
      code_fraction,
    )

  smallest = make(lagrangian.smallest(options))
  if smallest.predicted_bytes > wanted:
    return smallest
  # Encodings differ in their scales and headers, which are measured: what they
  # take goes off the budget until the encodings that are chosen fit.
  budget = wanted - smallest.fixed_bytes
  while True:
    choice = lagrangian.minimise(options, budget)
    kept = lagrangian.keep_encodings(options, choice)
    least = make(lagrangian.smallest(kept))
    if least.predicted_bytes <= wanted:
      break
    budget = min(budget - 1, wanted - least.fixed_bytes)
  # The encodings stay; their sparsities use up what is left, less what is lost
  # by rounding to whole bytes.
  budget = wanted - least.fixed_bytes - len(paths)
  loose, tight = lagrangian.bracket(kept, budget)
  ends = options.sparsities[loose], options.sparsities[tight]
  mix = lambda t: make(tight, ends[0] + t * (ends[1] - ends[0]))
  return _find_least(mix, 0.0, 1.0, wanted)


def _find_least(
  make: Callable[[float], records.Plan], low: float, high: float, wanted: int
) -> records.Plan:
  """The plan at the least value that fits, or at `high` if none does."""
  return make(
    rate_control.find_least(
      lambda value: make(value).predicted_bytes <= wanted, low, high
    )
  )


def explain(least: records.Plan, target_ratio: float) -> str:
  """Why the smallest plan does not reach a ratio, and which ratio it has."""
  kernels = least.layers.items()
  largest = sorted(kernels, key=lambda item: -item[1].num_bytes)
  listed = ', '.join(
    f'{path} {layer.num_bytes:,}' for path, layer in largest[:_NUM_LISTED]
  )
  names = sorted({layer.encoding for layer in least.layers.values()})
  form = ' and '.join(names)
  if 'ternary' in names:
    form = f'{form} with {costs.MAX_SPARSITY:.1%} zeros'
  best = int(10 * least.dense_bytes / least.predicted_bytes) / 10
  return (
    f'target_ratio is {target_ratio:g}, which leaves {least.target_bytes:,}'
    f' bytes of {least.dense_bytes:,}; header, scales and norms alone take'
    f' {least.fixed_bytes:,}, and kernels that are {form}'
    f' {least.predicted_bytes - least.fixed_bytes:,} more (most of them'
    f' {listed}), wanted a ratio of at most {best:g}'
  )
