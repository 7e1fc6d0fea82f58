"""Rate control: what is adjusted until a file has the bytes of its target.

How many bytes codes take is known only once they are there: contexts save a
part that grows while ternary weights are trained. A plan, made before, counts
on none. So while training goes on, the file is made now and then, and the
density of all kernels is scaled to what the bytes that are left can hold.
"""

from collections.abc import Callable, Mapping
import math
from typing import Any

import numpy as np
from scipy import optimize

from hq_jax import artifact as artifact_lib
from hq_jax.core import sparsity_distributions
from hq_jax.core import trees

# Of the target: what is left free for the changes of the last epoch.
MARGIN = 0.002

_MIN_DENSITY_SCALE = 0.25
_TOLERANCE = 1e-12
_MAX_ROUNDS = 6  # of files that are made to fit one


def entropy_bytes(size: int, num_nonzero: int) -> float:
  """The order-0 entropy of ternary codes whose signs are balanced, in bytes.

  `n (-s log2 s - (1 - s) log2 (1 - s) + (1 - s)) / 8`, with `s` the fraction
  of zeros.

  >>> entropy_bytes(16, 8)
  3.0

  Args:
    size: the number of codes.
    num_nonzero: how many are not zero, 0 to `size`.

  Returns:
    Bytes, not rounded.
  """
  if num_nonzero in (0, size):
    return num_nonzero / 8
  p = num_nonzero / size
  bits = -p * np.log2(p) - (1 - p) * np.log2(1 - p) + p
  return float(size * bits / 8)


def find_least(fits: Callable[[float], bool], low: float, high: float) -> float:
  """The least number from `low` to `high` that fits, or `high` if none does.

  What is larger than a number that fits has to fit, too.
  """
  if fits(low):
    return low
  if not fits(high):
    return high
  root = optimize.bisect(
    lambda x: 1.0 if fits(x) else -1.0, low, high, xtol=_TOLERANCE
  )
  # The last middle: what fits is there, or a tolerance above.
  return root if fits(root) else root + 2 * _TOLERANCE


def get_wanted_bytes(dense_bytes: int, target_ratio: float) -> int:
  """The bytes that training aims at, a little below its target.

  `floor(dense_bytes / target_ratio * (1 - MARGIN))`
  """
  return math.floor(dense_bytes / target_ratio * (1 - MARGIN))


def find_density_scale(
  exported: artifact_lib.Artifact,
  data: bytes,
  sparsities: Mapping[str, float],
  wanted_bytes: float,
) -> float:
  """The factor on the density of all kernels at which the file has its bytes.

  With `k_l` of the `n_l` weights of kernel `l` not zero now, and the density
  `d_l(f)` at a factor `f`, of `sparsity_distributions.scale_density`, the codes
  are to take

  `stream / sum_l H(n_l, k_l) * sum_l H(n_l, k_l d_l(f) / d_l(g))`

  bytes, `H` the order-0 entropy, `g` the factor of as many weights as there are
  now, and all else what it takes now: the largest such `f`. Where no `f` would
  take as many bytes, it is the least that gives every kernel its most.
  """
  tensors: Mapping[str, Any] = exported.tensors  # Ternary where planned so.
  kernels = [tensors[path].codes for path in trees.in_params(sparsities)]
  sizes = np.array([codes.size for codes in kernels])
  counts = np.array([np.count_nonzero(codes) for codes in kernels])
  planned = np.array(list(sparsities.values()))
  if not counts.any():
    return 1.0
  get_density = lambda scale: (
    1 - sparsity_distributions.scale_density(planned, scale)
  )
  most = float((get_density(np.inf) / get_density(1.0)).max())
  now = find_least(
    lambda scale: (sizes * get_density(scale)).sum() >= counts.sum(), 0.0, most
  )

  def predict(scale: float) -> float:
    scaled = np.rint(counts * (get_density(scale) / get_density(now)))
    return sum(map(entropy_bytes, sizes, np.minimum(scaled, sizes)))

  stream = artifact_lib.sizes(data)['ternary_codes']
  # Codes of one sign without a zero take no bytes at all.
  fraction = stream / predict(now) if stream else 1.0
  wanted = (wanted_bytes - (len(data) - stream)) / fraction
  return -find_least(
    lambda x: predict(-x) <= wanted, -most, -_MIN_DENSITY_SCALE
  )


def fit(
  encode: Callable[[float], artifact_lib.Artifact],
  most_bytes: float,
  first_budget: float,
  min_fill: float = 0.0,
) -> tuple[artifact_lib.Artifact, int]:
  """The largest file that fits of a few, or the smallest if none does.

  What a file takes more or less than it may goes off or onto the budget of the
  next, until one has `min_fill` of `most_bytes` or no other comes.

  Args:
    encode: from the bytes that a file is planned for to the file.
    most_bytes: that fit.
    first_budget: of the first file.
    min_fill: a fraction in [0, 1].

  Returns:
    The file, and its bytes.
  """
  found: dict[int, artifact_lib.Artifact] = {}
  budget = first_budget
  for _ in range(_MAX_ROUNDS):
    exported = encode(budget)
    num_bytes = len(artifact_lib.dumps(exported))
    is_new = num_bytes not in found
    found[num_bytes] = exported
    if num_bytes <= most_bytes and (
      not is_new or num_bytes >= min_fill * most_bytes
    ):
      break
    budget += most_bytes * (1 - MARGIN) - num_bytes
  fitting = [num_bytes for num_bytes in found if num_bytes <= most_bytes]
  best = max(fitting) if fitting else min(found)
  return found[best], best
