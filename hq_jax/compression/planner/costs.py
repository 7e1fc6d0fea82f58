"""Costs of a kernel in each encoding: bytes, and cosine distance.

Everything here is NumPy and closed form: a cost is known before a weight is
trained or a byte written. Where layers are stacked in a kernel, each is ranked
by itself; the output channel is the last axis, where no axes are given.
"""

import math
import statistics
from typing import Any, NamedTuple

import numpy as np

from hq_jax import artifact
from hq_jax.compression import rate_control
from hq_jax.compression.planner import ranking
from hq_jax.core import sparsity_distributions
from hq_jax.core import trees

# The overhead of deflate's Huffman codes over the entropy of bytes.
_DEFLATE_OVERHEAD = 1.01
_NORMAL = statistics.NormalDist()
# At which scales are taken.
_USUAL_SPARSITY = 0.9
# Weights that stand for those of a kernel that has more.
NUM_IN_PART = 1 << 17

MAX_SPARSITY = 0.995
# Where the curves are evaluated: what is kept falls by 3.6% from each to the
# next, from all to one in 10,000.
SPARSITIES = np.unique(
  [
    sparsity_distributions.MIN_SPARSITY,
    MAX_SPARSITY,
    *(1 - np.geomspace(1, 1e-4, 256)),
  ]
)


class Cost(NamedTuple):
  """What an encoding takes.

  Attributes:
    num_bytes: in the file, without scales.
    cosine_distance: the mean over the output channels, 0 to 1.
  """

  num_bytes: float
  cosine_distance: float


class Costs(NamedTuple):
  """What a kernel costs.

  Attributes:
    size: the number of weights.
    ternary: float64 `[len(SPARSITIES)]`, the cosine distance by sparsity.
    int8: with eight bits each, less what deflate saves.
    float16: with sixteen, less what deflate saves.
    num_layers: how many layers are stacked in it.
    scales: float64, one for each channel of each layer, as of ternary codes
      with 90% zeros; None where only its shape is known.
  """

  size: int
  ternary: np.ndarray
  int8: Cost
  float16: Cost
  num_layers: int = 1
  scales: np.ndarray | None = None


def ternary_bytes(size: int, sparsity: float, num_layers: int = 1) -> float:
  """The order-0 entropy of a kernel's codes at a sparsity, in bytes."""
  size //= num_layers
  # One more than wanted: training rounds the number in float32.
  kept = round((1 - sparsity) * size) + (size > 1000)
  kept = min(size, max(1, kept))
  return num_layers * rate_control.entropy_bytes(size, kept)


def gaussian_distances() -> np.ndarray:
  """The cosine distance of Gaussian weights, by sparsity.

  With `1 - s = 2 (1 - Phi(d))`, `D(s) = 1 - 2 phi(d) / sqrt(1 - s)`.
  """
  kept = 1 - SPARSITIES
  ends = [_NORMAL.inv_cdf(1 - p / 2) if p < 1 else 0.0 for p in kept]
  density = np.array([_NORMAL.pdf(end) for end in ends])
  return 1 - 2 * density / np.sqrt(kept)


def to_matrices(
  values: np.ndarray, axes: trees.Axes | None = None
) -> np.ndarray:
  """A kernel as `[layers, weights of a channel, channels]`."""
  last = values.ndim - 1
  layer, channel = (axes.layer, axes.channel) if axes else ((), (last,))
  summed = [i for i in range(last + 1) if i not in (*layer, *channel)]
  get_size = lambda found: math.prod(values.shape[axis] for axis in found)
  return values.transpose(*layer, *summed, *channel).reshape(
    get_size(layer), get_size(summed), get_size(channel)
  )


def _measure_ternary(
  kernel: np.ndarray, axes: trees.Axes
) -> tuple[np.ndarray, np.ndarray]:
  """Cosine distances by sparsity, and scales: see `Costs`.

  `D(s) = mean_j (1 - sum_{i kept} abs(u_ij) / sqrt(k_j))`, with `u_j` the
  channel `j` divided by its norm, and kept the `k = max(1, round((1 - s) n))`
  largest `abs(u)` of the whole kernel, `k_j` of them in channel `j`; ties are
  kept in the order of their flat index. A channel of which nothing is kept is
  at distance 1. Of stacked layers, which have such an order each, it is the
  mean.
  """
  found = [_measure_layer(layer) for layer in to_matrices(kernel, axes)]
  distances, scales = zip(*found, strict=True)
  return np.mean(distances, axis=0), np.concatenate(scales)


def _measure_layer(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Those of a matrix of inputs by channels."""
  # How many are kept at the last sparsity, at the one before, ...
  kept = np.rint((1 - SPARSITIES[::-1]) * weights.size)
  kept = np.clip(kept, 1, weights.size).astype(int)
  kernel = ranking.make_kernel(weights)
  classify = ranking.make_classifier(kernel, kept)
  usual = np.searchsorted(-SPARSITIES[::-1], -_USUAL_SPARSITY)
  cosines, scales = np.zeros(len(kept)), []
  for block in kernel.get_blocks():
    num_channels = block.magnitudes.shape[1]
    cells = classify(block).reshape(block.magnitudes.shape)
    cells *= num_channels
    cells += np.arange(num_channels)
    counts, sums = (
      np.bincount(cells.ravel(), values, len(kept) * num_channels)
      .reshape(len(kept), num_channels)
      .cumsum(axis=0)
      for values in (None, block.magnitudes.ravel())
    )
    roots = np.sqrt(np.maximum(counts, 1))
    cosines += (sums / roots).sum(axis=1)
    norms = kernel.norms[block.channels] * (counts[usual] > 0)
    scales.append(norms / roots[usual])
  return 1 - cosines[::-1] / weights.shape[1], np.concatenate(scales)


def measure(kernel: Any, axes: trees.Axes | None = None) -> Costs:
  """What a kernel costs in each encoding.

  Of a large one, a part says what it costs in int8 and in float16.
  """
  size = math.prod(kernel.shape)
  axes = axes or trees.Axes((len(kernel.shape) - 1,))
  num_layers = math.prod(kernel.shape[axis] for axis in axes.layer)
  values = get_part(kernel, axes, np.random.default_rng(0))
  scales: np.ndarray | None = None
  if hasattr(kernel, '__array__'):
    distances, scales = _measure_ternary(np.asarray(kernel, np.float32), axes)
  else:
    distances, axes = gaussian_distances(), None
  with np.errstate(over='ignore'):
    floats: np.ndarray = values.astype(np.float16)
  if not np.isfinite(floats).all():
    floats = values  # As the file holds it.
  codes = artifact.quantize_int8(values).codes
  return Costs(
    size,
    distances,
    int8=_measure_cost(values, codes, size, axes),
    float16=_measure_cost(values, floats, size, axes),
    num_layers=num_layers,
    scales=scales,
  )


def get_part(
  kernel: Any, axes: trees.Axes, rng: np.random.Generator
) -> np.ndarray:
  """Weights that stand for all, where there are many: float32.

  Of the places along the last axis, some are left out; or where only a shape is
  known, they are drawn as weights are at first, with that axis and one more.
  """
  shape, size = kernel.shape, math.prod(kernel.shape)
  if hasattr(kernel, '__array__'):
    step = max(1, -(-size // NUM_IN_PART))
    return np.asarray(kernel)[..., ::step].astype(np.float32, copy=False)
  num_rows = size // shape[-1]
  num_columns = min(shape[-1], max(1, NUM_IN_PART // num_rows))
  drawn = rng.standard_normal(
    (min(num_rows, NUM_IN_PART), num_columns), np.float32
  )
  fan_in = size // math.prod(shape[axis] for axis in axes.kept)
  return drawn / np.float32(fan_in) ** 0.5


def _measure_cost(
  values: np.ndarray, encoded: np.ndarray, size: int, axes: trees.Axes | None
) -> Cost:
  """Of `size` numbers like these: the top byte is deflated, as in the file."""
  itemsize = encoded.dtype.itemsize
  top = encoded.astype(encoded.dtype.newbyteorder('<')).view(np.uint8)
  counts = np.bincount(top.ravel()[itemsize - 1 :: itemsize])
  p = counts[counts > 0] / encoded.size
  top_bytes = _DEFLATE_OVERHEAD * float(-(p * np.log2(p)).sum()) / 8
  values, encoded = to_matrices(values, axes), to_matrices(encoded, axes)
  cosines = _dot(values, encoded) / np.sqrt(
    np.maximum(_dot(values, values) * _dot(encoded, encoded), 1e-300)
  )
  return Cost(size * (itemsize - 1 + top_bytes), float(1 - cosines.mean()))


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """The inner product of each channel, in float64."""
  return np.einsum('...ij,...ij->...j', a, b, dtype=np.float64)
