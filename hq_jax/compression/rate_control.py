"""From the file as it would be now to the sparsity that fills its target.

How many bytes codes take is known only once they are there: contexts save a
part that grows while ternary weights are trained. A plan, made before, counts
on none. So while training goes on, the file is made now and then, and as many
more weights live as the bytes that are left can hold.
"""

from collections.abc import Mapping
import math

import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.compression import planner
from hq_jax.core import qtensors

# Of the target: what is left free for the changes of the last epoch.
MARGIN = 0.002

_MIN_FACTOR = 0.25


def get_wanted_bytes(dense_bytes: int, target_ratio: float) -> int:
  """The bytes that a file is steered to, a little below its target.

  `floor(dense_bytes / target_ratio * (1 - MARGIN))`
  """
  return math.floor(dense_bytes / target_ratio * (1 - MARGIN))


def find_density_scale(
  exported: artifact_lib.Artifact,
  data: bytes,
  sparsities: Mapping[str, float],
  wanted_bytes: int,
) -> float:
  """The factor on the weights that live with which the file has its bytes.

  With `k_l` of the `n_l` weights of kernel `l` alive now, and `f N` of all at
  the factor `f`, `N = sum_l (1 - s_l) n_l`, the codes are to take

  `stream / sum_l H(n_l, k_l) * sum_l H(n_l, k_l f N / sum_l k_l)`

  bytes, `H` the order-0 entropy of `planner.entropy_bytes`, and all else what
  it takes now: the largest such `f`, by bisection. No kernel counts with less
  than a third of zeros.
  """
  codes = {
    path: tensor.codes
    for path, tensor in exported.tensors.items()
    if isinstance(tensor, qtensors.TernaryTensor)
  }
  counts = [(c.size, int(np.count_nonzero(c))) for c in codes.values()]
  alive = sum(kept for _, kept in counts)
  planned = sum(
    (1 - sparsity) * codes[f'params/{path}'].size
    for path, sparsity in sparsities.items()
  )
  if not alive:
    return 1.0

  def predict(factor: float) -> float:
    scale = factor * planned / alive
    return sum(
      planner.entropy_bytes(size, min(round(kept * scale), 2 * size // 3))
      for size, kept in counts
    )

  stream = artifact_lib.sizes(data)['ternary_codes']
  now = sum(planner.entropy_bytes(size, kept) for size, kept in counts)
  # Codes of one sign without a zero take no bytes at all.
  fraction = stream / now if stream else 1.0
  wanted = (wanted_bytes - (len(data) - stream)) / fraction
  size = sum(size for size, _ in counts)
  low, high = _MIN_FACTOR, size / planned
  for _ in range(30):
    middle = (low + high) / 2
    low, high = (middle, high) if predict(middle) <= wanted else (low, middle)
  return low
