"""From a target ratio to the sparsity that reaches it, or a refusal."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

# The coder's own overhead over the entropy, and the difference between a count
# of zeros rounded in float32 and in float64.
_CODER_OVERHEAD = 1.0005
_SLACK_BYTES = 16

# Below a third of zeros, more zeros make a file larger: codes are most random
# when -1, 0 and 1 are equally frequent.
_LEAST_SPARSITY = 1 / 3
_MOST_SPARSITY = 0.995


class Plan(NamedTuple):
  """What a target takes.

  Attributes:
    sparsity: the fraction of zeros in every kernel.
    predicted_bytes: of the file, an upper bound.
    dense_bytes: float32 bytes of all parameters and statistics.
  """

  sparsity: float
  predicted_bytes: int
  dense_bytes: int


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


def predict_bytes(
  kernel_sizes: Mapping[str, int], fixed_bytes: int, sparsity: float
) -> int:
  """Bytes of the file at a sparsity that is the same in every kernel.

  >>> predict_bytes({'a': 16}, 100, 0.5)
  120

  Args:
    kernel_sizes: weights in each ternary kernel.
    fixed_bytes: what the file has besides the codes.
    sparsity: the fraction of zeros.

  Returns:
    An upper bound, within 0.1% and 20 bytes of the file that results.
  """
  codes = sum(
    entropy_bytes(n, min(n, max(1, round((1 - sparsity) * n) + (n > 1000))))
    for n in kernel_sizes.values()
  )
  return fixed_bytes + int(np.ceil(codes * _CODER_OVERHEAD)) + _SLACK_BYTES


def plan_uniform(
  kernel_sizes: Mapping[str, int],
  *,
  fixed_bytes: int,
  dense_bytes: int,
  target_ratio: float,
) -> Plan:
  """The least sparsity, the same in every kernel, that reaches a ratio.

  Solves `predict_bytes(s) <= dense_bytes / target_ratio` by bisection.

  >>> plan = plan_uniform({'a': 100_000}, fixed_bytes=500,
  ...                     dense_bytes=400_000, target_ratio=30.0)
  >>> round(plan.sparsity, 2), plan.dense_bytes / plan.predicted_bytes > 30
  (0.76, True)

  Args:
    kernel_sizes: weights in each ternary kernel.
    fixed_bytes: what the file has besides the codes: header, scales, norms.
    dense_bytes: float32 bytes of all parameters and statistics.
    target_ratio: `dense_bytes` over the bytes of the file, above 1.

  Returns:
    A `Plan`; its sparsity is at least 1/3, where codes are most random.

  Raises:
    ValueError: where no sparsity up to 99.5% reaches the ratio, with the
      reason in bytes.
  """
  wanted = int(dense_bytes / target_ratio)
  predict = lambda s: predict_bytes(kernel_sizes, fixed_bytes, s)
  if predict(_MOST_SPARSITY) > wanted:
    raise ValueError(
      f'target_ratio is {target_ratio:g}, which leaves {wanted:,} bytes of'
      f' {dense_bytes:,}; header, scales and norms alone take'
      f' {fixed_bytes:,}, and codes with {_MOST_SPARSITY:.1%} zeros'
      f' {predict(_MOST_SPARSITY) - fixed_bytes:,} more, wanted a ratio of at'
      f' most {int(10 * dense_bytes / predict(_MOST_SPARSITY)) / 10:g}'
    )
  low, high = _LEAST_SPARSITY, _MOST_SPARSITY
  if predict(low) <= wanted:
    high = low
  for _ in range(40):
    middle = (low + high) / 2
    low, high = (low, middle) if predict(middle) <= wanted else (middle, high)
  return Plan(high, predict(high), dense_bytes)
