"""The bytes of a file whose kernels have given encodings and sparsities."""

from collections.abc import Mapping, Sequence
import math
import numbers
from typing import Any

import numpy as np

from hq_jax.compression.planner import costs
from hq_jax.compression.planner import overhead
from hq_jax.compression.planner import records
from hq_jax.core import sparsity_distributions
from hq_jax.core import trees

# The coder's own overhead over the entropy, and the difference between a count
# of zeros rounded in float32 and in float64.
CODER_OVERHEAD = 1.0005
_SLACK_BYTES = 16


def predict(
  variables: Any,
  sparsity: float | Mapping[str, float],
  *,
  select: trees.Selector = trees.kernels,
  channel_axis: trees.ChannelAxis = trees.channel_axis,
  layer_axes: trees.LayerAxes = (),
  make_artifact: overhead.MakeArtifact | None = None,
  code_fraction: float = 1.0,
  int8: Sequence[str] = (),
) -> records.Plan:
  """What file results where kernels are ternary, at a given sparsity.

  >>> import numpy as np
  >>> params = {'a': {'kernel': np.ones((64, 64))}}
  >>> predict(params, 0.5).layers['a/kernel'].num_bytes  # 1.5 bits each
  769

  Args:
    variables: see `plan`.
    sparsity: the fraction of zeros, in [0, 1): one for all kernels, or by path
      or regular expression; see `sparsity_distributions.resolve`.
    select: see `plan`.
    channel_axis: see `plan`.
    layer_axes: see `plan`.
    make_artifact: see `plan`.
    code_fraction: see `plan`.
    int8: see `plan`.

  Returns:
    A plan.

  Raises:
    ValueError: for a sparsity that is no fraction or does not fit the kernels,
      and as `overhead.measure`.
  """
  network = overhead.measure(
    variables,
    select=select,
    channel_axis=channel_axis,
    layer_axes=layer_axes,
    make_artifact=make_artifact,
  )
  encodings = encode_all(list(network.kernels), 'ternary', int8)
  ternary = [path for path, name in encodings.items() if name == 'ternary']
  found = resolve_sparsity(sparsity, ternary)
  check_fraction(code_fraction)
  fixed = overhead.fixed_bytes(network, encodings)
  return make_plan(network, fixed, encodings, found, code_fraction)


def make_plan(
  network: overhead.Network,
  fixed_bytes: int,
  encodings: Mapping[str, str],
  sparsities: Mapping[str, float],
  code_fraction: float = 1.0,
) -> records.Plan:
  """Adds up what a file takes, with `overhead.fixed_bytes` of its encodings."""
  layers, codes, others = {}, 0.0, 0
  for path, encoding in encodings.items():
    cost = network.costs[path]
    if encoding == 'ternary':
      sparsity = sparsities[path]
      num_bytes = code_fraction * costs.ternary_bytes(
        cost.size, sparsity, cost.num_layers
      )
      codes += num_bytes
      num_bytes *= CODER_OVERHEAD
      distance = np.interp(sparsity, costs.SPARSITIES, cost.ternary)
    else:
      sparsity = 0.0
      num_bytes, distance = getattr(cost, encoding)
      others += round(num_bytes)
    layers[path] = records.LayerPlan(
      encoding,
      float(sparsity),
      round(num_bytes),
      float(distance),
      network.axes[path].layer,
    )
  predicted = fixed_bytes + others + math.ceil(codes * CODER_OVERHEAD)
  predicted += _SLACK_BYTES
  rest = predicted - sum(layer.num_bytes for layer in layers.values())
  return records.Plan(layers, predicted, rest, network.dense_bytes)


def encode_all(
  paths: Sequence[str], encoding: str, int8: Sequence[str]
) -> dict[str, str]:
  """The encoding of each kernel: int8 for those of the named layers.

  Raises:
    ValueError: a name of no layer that has kernels.
  """
  for name in int8:
    if not any(is_named(path, (name,)) for path in paths):
      raise ValueError(
        f'int8 is {name!r}, wanted layers of: {", ".join(paths)}'
      )
  return {path: 'int8' if is_named(path, int8) else encoding for path in paths}


def is_named(path: str, layers: Sequence[str]) -> bool:
  """Whether a kernel is in one of the layers that paths begin with."""
  return any(f'{path}/'.startswith(f'{name}/') for name in layers)


def resolve_sparsity(
  sparsity: float | Mapping[str, float], paths: Sequence[str]
) -> dict[str, float]:
  """A fraction for each kernel, from one for all or from a map."""
  found = sparsity_distributions.resolve(sparsity, paths)
  for path, value in found.items():
    if not is_number(value) or not 0 <= value < 1:
      raise ValueError(
        f'sparsity is {value!r:.40} for {path}, wanted a number in [0, 1)'
      )
  return found


def check_fraction(code_fraction: Any) -> None:
  """Refuses what is no fraction of the entropy."""
  if not is_number(code_fraction) or not 0 < code_fraction <= 2:
    raise ValueError(
      f'code_fraction is {code_fraction!r:.40}, wanted a number in (0, 2]'
    )


def is_number(value: Any) -> bool:
  """Whether a value is a real number, and no bool."""
  return isinstance(value, numbers.Real) and not isinstance(value, bool)
