"""From a target ratio to an encoding of each kernel, or a refusal."""

from collections.abc import Mapping, Sequence
import math
import numbers
from typing import Any

from hq_jax.compression.planner import allocations
from hq_jax.compression.planner import overhead
from hq_jax.compression.planner import records
from hq_jax.core import sparsity_distributions
from hq_jax.core import trees

_ENCODINGS = ('ternary', 'int8', 'float16')
ALLOCATIONS = ('cosine_distance', *sparsity_distributions.DISTRIBUTIONS)


def plan(
  variables: Any,
  target_ratio: float,
  *,
  allocation: str = 'cosine_distance',
  encodings: Sequence[str] = _ENCODINGS,
  select: trees.Selector = trees.kernels,
  make_artifact: overhead.MakeArtifact | None = None,
  code_fraction: float = 1.0,
) -> records.Plan:
  """Finds what reaches a ratio: how many zeros, and which encodings.

  With the allocation 'cosine_distance' it is the least `sum_l D_l` over the
  kernels, each ternary at some sparsity in [1/3, 0.995], int8 or float16 (see
  `prices` and `lagrange`), such that the file has at most `dense_bytes /
  target_ratio` bytes. With 'uniform' and 'erdos_renyi_kernel' every kernel is
  ternary, and the least overall sparsity from 1/3 on is found that reaches the
  ratio (see `distributions`).

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
    select: which parameters are kernels, by path; see `trees.select`. Their
      output channel is the last axis.
    make_artifact: from variables, ternary and int8 kernels by path inside
      params, to the artifact; by default one without a header or folding.
    code_fraction: the bytes that ternary codes take over their order-0 entropy,
      in (0, 2]: below 1 where contexts are known to save more.

  Returns:
    A plan whose `predicted_bytes` reach the ratio.

  Raises:
    ValueError: where the ratio cannot be reached, with the reason in bytes; for
      arguments out of range; and as `overhead.measure`.
  """
  check_target(target_ratio)
  network = overhead.measure(
    variables, select=select, make_artifact=make_artifact
  )
  return allocate(
    network,
    target_ratio,
    allocation=allocation,
    encodings=encodings,
    code_fraction=code_fraction,
  )


def predict(
  variables: Any,
  sparsity: float | Mapping[str, float],
  *,
  select: trees.Selector = trees.kernels,
  make_artifact: overhead.MakeArtifact | None = None,
  code_fraction: float = 1.0,
) -> records.Plan:
  """What file results where every kernel is ternary, at a given sparsity.

  >>> import numpy as np
  >>> params = {'a': {'kernel': np.ones((64, 64))}}
  >>> predict(params, 0.5).layers['a/kernel'].num_bytes  # 1.5 bits each
  769

  Args:
    variables: see `plan`.
    sparsity: the fraction of zeros, in [0, 1): one for all kernels, or by path
      or regular expression; see `sparsity_distributions.resolve`.
    select: see `plan`.
    make_artifact: see `plan`.
    code_fraction: see `plan`.

  Returns:
    A plan.

  Raises:
    ValueError: for a sparsity that is no fraction or does not fit the kernels,
      and as `overhead.measure`.
  """
  network = overhead.measure(
    variables, select=select, make_artifact=make_artifact
  )
  found = resolve_sparsity(sparsity, list(network.kernels))
  _check_fraction(code_fraction)
  encodings = dict.fromkeys(network.kernels, 'ternary')
  fixed = overhead.fixed_bytes(network, encodings)
  return records.make_plan(network, fixed, encodings, found, code_fraction)


def resolve_sparsity(
  sparsity: float | Mapping[str, float], paths: Sequence[str]
) -> dict[str, float]:
  """A fraction for each kernel, from one for all or from a map.

  >>> resolve_sparsity({'a': 0.5, '.*': 0.9}, ['a', 'b'])
  {'a': 0.5, 'b': 0.9}

  Args:
    sparsity: see `predict`.
    paths: of the kernels.

  Returns:
    Fractions by path.

  Raises:
    ValueError: see `predict`.
  """
  found = sparsity_distributions.resolve(sparsity, paths)
  for path, value in found.items():
    if not _is_number(value) or not 0 <= value < 1:
      raise ValueError(
        f'sparsity is {value!r:.40} for {path}, wanted a number in [0, 1)'
      )
  return found


def check_target(target_ratio: Any) -> None:
  """Refuses what is no ratio.

  >>> check_target(30)

  Args:
    target_ratio: anything.

  Raises:
    ValueError: for what is no finite number above 1.
  """
  if not _is_number(target_ratio) or not 1 < target_ratio < math.inf:
    raise ValueError(
      f'target_ratio is {target_ratio!r:.40}, wanted a number above 1'
    )


def allocate(
  network: overhead.Network,
  target_ratio: float,
  *,
  allocation: str = 'cosine_distance',
  encodings: Sequence[str] = _ENCODINGS,
  code_fraction: float = 1.0,
) -> records.Plan:
  """As `plan`, of a network that was measured.

  >>> import numpy as np
  >>> kernel = np.random.default_rng(0).normal(size=(64, 64))
  >>> network = overhead.measure({'a': {'kernel': kernel}})
  >>> [allocate(network, ratio).layers['a/kernel'].encoding
  ...  for ratio in (2.0, 3.5, 20.0)]
  ['float16', 'int8', 'ternary']

  Args:
    network: of `overhead.measure`.
    target_ratio: see `plan`.
    allocation: see `plan`.
    encodings: see `plan`.
    code_fraction: see `plan`.

  Returns:
    A plan whose `predicted_bytes` reach the ratio.

  Raises:
    ValueError: as `plan`.
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
  _check_fraction(code_fraction)
  wanted = int(network.dense_bytes / target_ratio)
  if allocation == 'cosine_distance':
    found = allocations.minimise_distance(
      network, wanted, encodings, code_fraction
    )
  else:
    found = allocations.share_out(network, wanted, allocation, code_fraction)
  if found.predicted_bytes > wanted:
    raise ValueError(records.explain(found, target_ratio, wanted))
  return found


def _is_number(value: Any) -> bool:
  return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _check_fraction(code_fraction: Any) -> None:
  if not _is_number(code_fraction) or not 0 < code_fraction <= 2:
    raise ValueError(
      f'code_fraction is {code_fraction!r:.40}, wanted a number in (0, 2]'
    )
