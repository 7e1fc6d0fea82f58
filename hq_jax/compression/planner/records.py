"""What a file is to be made of, and how many bytes that takes."""

from collections.abc import Mapping
import math
from typing import NamedTuple

import numpy as np

from hq_jax.compression.planner import costs
from hq_jax.compression.planner import overhead

# The coder's own overhead over the entropy, and the difference between a count
# of zeros rounded in float32 and in float64.
CODER_OVERHEAD = 1.0005
_SLACK_BYTES = 16

_NUM_LISTED = 3  # of the largest kernels, where a ratio is refused


class LayerPlan(NamedTuple):
  """What becomes of one kernel.

  Attributes:
    encoding: 'ternary', 'int8' or 'float16'; or another quantizer's name.
    sparsity: the fraction of zeros that is wanted; 0 where none is.
    num_bytes: of its codes or values in the file, predicted.
    cosine_distance: between the kernel and what the file holds of it, the mean
      over its output channels.
  """

  encoding: str
  sparsity: float
  num_bytes: int
  cosine_distance: float


class Plan(NamedTuple):
  """What a file is made of.

  `predicted_bytes = fixed_bytes + sum(layer.num_bytes)`.

  Attributes:
    layers: by path of the kernel inside params.
    predicted_bytes: of the file: with codes that are drawn independently an
      upper bound, within 1% of the file that results.
    fixed_bytes: what is no kernel: header, scales, norms, container.
    dense_bytes: float32 bytes of all parameters and statistics.
  """

  layers: dict[str, LayerPlan]
  predicted_bytes: int
  fixed_bytes: int
  dense_bytes: int


def sparsities(plan: Plan) -> dict[str, float]:
  """The fraction of zeros in each kernel that is to be ternary.

  >>> layers = {'a': LayerPlan('ternary', 0.5, 3, 0.2),
  ...           'b': LayerPlan('int8', 0.0, 9, 0.0)}
  >>> sparsities(Plan(layers, 20, 8, 100))
  {'a': 0.5}

  Args:
    plan: of `plan` or `predict`.

  Returns:
    Fractions by path.
  """
  return {
    path: plan.layers[path].sparsity for path in with_encoding(plan, 'ternary')
  }


def with_encoding(plan: Plan, encoding: str) -> tuple[str, ...]:
  """The kernels that are to have an encoding.

  >>> layers = {'a': LayerPlan('ternary', 0.5, 3, 0.2),
  ...           'b': LayerPlan('int8', 0.0, 9, 0.0)}
  >>> with_encoding(Plan(layers, 20, 8, 100), 'int8')
  ('b',)

  Args:
    plan: of `plan` or `predict`.
    encoding: 'ternary', 'int8' or 'float16'.

  Returns:
    Their paths, in the order of the plan.
  """
  return tuple(
    path for path, layer in plan.layers.items() if layer.encoding == encoding
  )


def describe(plan: Plan) -> str:
  """A line about a plan.

  >>> layers = {'a': LayerPlan('ternary', 0.5, 3, 0.2),
  ...           'b': LayerPlan('ternary', 0.75, 3, 0.2),
  ...           'c': LayerPlan('int8', 0.0, 9, 0.0)}
  >>> describe(Plan(layers, 4000, 8, 100_000))
  '50.0% to 75.0% zeros in 2 ternary kernels, 1 in int8; at most 4,000 of \
100,000 bytes (25.0x)'

  Args:
    plan: with a kernel or more.

  Returns:
    Text without a line break.
  """
  parts = []
  if zeros := sparsities(plan).values():
    parts = [f'{max(zeros):.1%} zeros in {len(zeros)} ternary kernels']
    if min(zeros) < max(zeros):
      parts = [f'{min(zeros):.1%} to {parts[0]}']
  others = {layer.encoding for layer in plan.layers.values()} - {'ternary'}
  for encoding in sorted(others, reverse=True):
    parts.append(f'{len(with_encoding(plan, encoding))} in {encoding}')
  return (
    f'{", ".join(parts)}; at most {plan.predicted_bytes:,} of'
    f' {plan.dense_bytes:,} bytes'
    f' ({plan.dense_bytes / plan.predicted_bytes:.1f}x)'
  )


def make_plan(
  network: overhead.Network,
  fixed_bytes: int,
  encodings: Mapping[str, str],
  zeros: Mapping[str, float],
  code_fraction: float = 1.0,
) -> Plan:
  """Adds up what a file takes.

  >>> network = overhead.measure({'a': {'kernel': np.ones((4, 4))}})
  >>> found = make_plan(network, 100, {'a/kernel': 'ternary'},
  ...                   {'a/kernel': 0.5})
  >>> found.predicted_bytes, found.layers['a/kernel'].num_bytes
  (120, 3)

  Args:
    network: of `overhead.measure`.
    fixed_bytes: of `overhead.fixed_bytes`, for these encodings.
    encodings: by path of every kernel.
    zeros: the sparsity of the ternary ones, by path.
    code_fraction: bytes of ternary codes over their order-0 entropy.

  Returns:
    A plan.
  """
  layers, codes, others = {}, 0.0, 0
  for path, encoding in encodings.items():
    price = network.prices[path]
    if encoding == 'ternary':
      sparsity = zeros[path]
      num_bytes = code_fraction * costs.ternary_bytes(price.size, sparsity)
      codes += num_bytes
      num_bytes *= CODER_OVERHEAD
      distance = np.interp(sparsity, costs.SPARSITIES, price.ternary)
    else:
      sparsity = 0.0
      num_bytes, distance = getattr(price, encoding)
      others += round(num_bytes)
    layers[path] = LayerPlan(
      encoding, float(sparsity), round(num_bytes), float(distance)
    )
  predicted = fixed_bytes + others + math.ceil(codes * CODER_OVERHEAD)
  predicted += _SLACK_BYTES
  rest = predicted - sum(layer.num_bytes for layer in layers.values())
  return Plan(layers, predicted, rest, network.dense_bytes)


def explain(least: Plan, target_ratio: float, wanted: int) -> str:
  """Why a ratio cannot be reached.

  >>> layers = {'a': LayerPlan('int8', 0.0, 9, 0.0)}
  >>> explain(Plan(layers, 20, 11, 100), 9, 11)[:54]
  'target_ratio is 9, which leaves 11 bytes of 100; heade'

  Args:
    least: the smallest plan there is.
    target_ratio: what was wanted.
    wanted: the bytes that it leaves.

  Returns:
    One line, in bytes, with the highest ratio there is.
  """
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
    f'target_ratio is {target_ratio:g}, which leaves {wanted:,} bytes of'
    f' {least.dense_bytes:,}; header, scales and norms alone take'
    f' {least.fixed_bytes:,}, and kernels that are {form}'
    f' {least.predicted_bytes - least.fixed_bytes:,} more (most of them'
    f' {listed}), wanted a ratio of at most {best:g}'
  )
