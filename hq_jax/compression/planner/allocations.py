"""How a number of bytes is shared out among the kernels of a network."""

from collections.abc import Callable, Sequence
import functools

import numpy as np

from hq_jax.compression.planner import costs
from hq_jax.compression.planner import lagrangian
from hq_jax.compression.planner import overhead
from hq_jax.compression.planner import records
from hq_jax.core import sparsity_distributions

_NUM_BISECTIONS = 40
_MAX_ATTEMPTS = 8


def share_out(
  network: overhead.Network,
  wanted: int,
  distribution: str,
  code_fraction: float = 1.0,
) -> records.Plan:
  """The least overall sparsity whose file is small enough, by bisection.

  Every kernel is ternary.
  """
  share = sparsity_distributions.DISTRIBUTIONS[distribution]
  shapes = {path: kernel.shape for path, kernel in network.kernels.items()}
  encodings = dict.fromkeys(shapes, 'ternary')
  fixed = overhead.fixed_bytes(network, encodings)
  make = lambda sparsity: records.make_plan(
    network, fixed, encodings, share(shapes, sparsity), code_fraction
  )
  return _bisect(make, costs.MIN_SPARSITY, costs.MAX_SPARSITY, wanted)


def minimise_distance(
  network: overhead.Network,
  wanted: int,
  encodings: Sequence[str],
  code_fraction: float = 1.0,
) -> records.Plan:
  """The encodings of least distance whose file is small enough.

  `min sum_l D_l` by `lagrange`. Because encodings jump, those that fit stay and
  the sparsities of the ternary kernels use up what is left.
  """
  paths = list(network.kernels)
  options = lagrangian.get_options(
    list(network.prices.values()),
    encodings,
    code_fraction * records.CODER_OVERHEAD,
  )

  @functools.cache
  def measure(names: tuple[str, ...]) -> int:
    return overhead.fixed_bytes(network, dict(zip(paths, names, strict=True)))

  def make(choice: np.ndarray, zeros: np.ndarray | None = None) -> records.Plan:
    names = tuple(options.encodings[choice].tolist())
    zeros = options.sparsities[choice] if zeros is None else zeros
    return records.make_plan(
      network,
      measure(names),
      dict(zip(paths, names, strict=True)),
      dict(zip(paths, zeros.tolist(), strict=True)),
      code_fraction,
    )

  smallest = lagrangian.smallest(options)
  least = make(smallest)
  if least.predicted_bytes > wanted:
    return least
  # Encodings differ in their scales and headers, which are measured: what they
  # take more than was thought goes off the budget.
  budget = wanted - least.fixed_bytes
  kept = lagrangian.keep_encodings(options, smallest)
  for _ in range(_MAX_ATTEMPTS):
    choice = lagrangian.solve(options, budget)
    chosen = lagrangian.keep_encodings(options, choice)
    found = make(lagrangian.smallest(chosen))
    if found.predicted_bytes <= wanted:
      kept, least = chosen, found
      break
    budget -= found.predicted_bytes - wanted
  # The encodings stay; their sparsities use up what is left, less what is lost
  # by rounding to whole bytes.
  budget = wanted - least.fixed_bytes - len(paths)
  loose, tight = lagrangian.minimise(kept, budget)
  ends = options.sparsities[loose], options.sparsities[tight]
  mix = lambda t: make(tight, ends[0] + t * (ends[1] - ends[0]))
  return _bisect(mix, 0.0, 1.0, wanted)


def _bisect(
  make: Callable[[float], records.Plan], low: float, high: float, wanted: int
) -> records.Plan:
  """The plan at the least value that fits, or at `high` if none does."""
  fits = lambda value: make(value).predicted_bytes <= wanted
  if fits(low):
    return make(low)
  if fits(high):
    for _ in range(_NUM_BISECTIONS):
      middle = (low + high) / 2
      low, high = (low, middle) if fits(middle) else (middle, high)
  return make(high)
