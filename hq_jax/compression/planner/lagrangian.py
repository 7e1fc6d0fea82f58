"""The encodings whose distances add up to least within a number of bytes.

`min sum_l D_l(o_l)  such that  sum_l B_l(o_l) <= budget`, each kernel `l`
taking one of its options `o_l`. For a price `lambda` of a byte every kernel
takes by itself what has the least `D + lambda B`; the more a byte costs, the
fewer are taken.
"""

from collections.abc import Sequence
import functools
from typing import NamedTuple

import numpy as np

from hq_jax.compression import rate_control
from hq_jax.compression.planner import costs
from hq_jax.core import sparsity_distributions

# log2 of the price of a byte: below, bytes count for nothing against the last
# bit of a distance of 1; above, distances for nothing against a bit of a byte.
_PRICE_RANGE = (-100.0, 60.0)
_SAME_PRICE = 1e-9


class Options(NamedTuple):
  """What each kernel may become; the smaller file first where equally good.

  Attributes:
    encodings: `[options]`, the names.
    sparsities: float64 `[options]`, 0 where it is not ternary.
    num_bytes: float64 `[kernels, options]`.
    distances: float64 `[kernels, options]`, of stacked layers their sum;
      infinite for what is not allowed.
  """

  encodings: np.ndarray
  sparsities: np.ndarray
  num_bytes: np.ndarray
  distances: np.ndarray


def get_options(
  kernels: Sequence[costs.Costs],
  encodings: Sequence[str],
  code_scale: float = 1.0,
) -> Options:
  """All sparsities from 1/3 to 99.5%, and the other encodings."""
  count_bytes = functools.cache(costs.ternary_bytes)  # Many are alike.
  names, sparsities, num_bytes, distances = [], [], [], []
  if 'ternary' in encodings:
    grid = costs.SPARSITIES
    chosen = np.flatnonzero(
      (grid >= sparsity_distributions.MIN_SPARSITY)
      & (grid <= costs.MAX_SPARSITY)
    )[::-1]
    for i in chosen:
      names.append('ternary')
      sparsities.append(grid[i])
      num_bytes.append(
        [
          code_scale * count_bytes(k.size, grid[i], k.num_layers)
          for k in kernels
        ]
      )
      distances.append([k.num_layers * k.ternary[i] for k in kernels])
  for name in ('int8', 'float16'):
    if name in encodings:
      found = [getattr(kernel, name) for kernel in kernels]
      names.append(name)
      sparsities.append(0.0)
      num_bytes.append([round(cost.num_bytes) for cost in found])
      distances.append(
        [
          kernel.num_layers * cost.cosine_distance
          for kernel, cost in zip(kernels, found, strict=True)
        ]
      )
  return Options(
    np.array(names),
    np.array(sparsities),
    np.array(num_bytes, np.float64).T,
    np.array(distances, np.float64).T,
  )


def keep_encodings(options: Options, choice: np.ndarray) -> Options:
  """Allows each kernel no encoding but the chosen one, at any sparsity."""
  same = options.encodings[choice][:, None] == options.encodings
  return options._replace(distances=np.where(same, options.distances, np.inf))


def smallest(options: Options) -> np.ndarray:
  """The allowed option of fewest bytes."""
  allowed = np.isfinite(options.distances)
  return np.argmin(np.where(allowed, options.num_bytes, np.inf), axis=1)


def bracket(options: Options, budget: float) -> tuple[np.ndarray, np.ndarray]:
  """The choices at a price of a byte too low to fit, and at one just enough."""
  rows = np.arange(len(options.num_bytes))
  choose = lambda price: np.argmin(
    options.distances + price * options.num_bytes, axis=1
  )
  fits = lambda choice: options.num_bytes[rows, choice].sum() <= budget
  if fits(choose(0.0)):
    return choose(0.0), choose(0.0)
  low, high = _PRICE_RANGE
  price = rate_control.find_least(lambda x: fits(choose(2.0**x)), low, high)
  return choose(2.0 ** (price - _SAME_PRICE)), choose(2.0**price)


def minimise(options: Options, budget: float) -> np.ndarray:
  """The choices at the price that just fits, and what else there is room for.

  Many kernels may change at the same price, all of them together too much:
  those of equal shape do, where only shapes are known. The best bargains are
  taken first.
  """
  loose, choice = bracket(options, budget)
  rows = np.arange(len(choice))
  more_bytes = options.num_bytes[rows, loose] - options.num_bytes[rows, choice]
  gain = options.distances[rows, choice] - options.distances[rows, loose]
  left = budget - options.num_bytes[rows, choice].sum()
  for row in np.argsort(-gain / np.maximum(more_bytes, 1e-9), kind='stable'):
    if 0 < more_bytes[row] <= left:
      choice[row] = loose[row]
      left -= more_bytes[row]
  return choice
