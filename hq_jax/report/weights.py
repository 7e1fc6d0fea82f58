"""The picture of the weights before and after compression."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib import axes as axes_lib
from matplotlib import figure as figure_lib
import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax import config as config_lib
from hq_jax.core import qtensors
from hq_jax.report import drawing
from hq_jax.report import results

_MAX_LAYERS = 4


class Points(NamedTuple):
  """Where the non-zero codes of a kernel lie, `sqrt(m / k_j)`.

  Attributes:
    median: over channels.
    low: the 10% quantile over channels.
    high: the 90% quantile.
  """

  median: float
  low: float
  high: float


def draw(
  dense: Mapping[str, np.ndarray],
  latent: Mapping[str, np.ndarray],
  found: Mapping[str, artifact_lib.Tensor],
  quantizer: str = config_lib.OURS,
) -> figure_lib.Figure:
  """Histograms of the weights on the sphere, before and after.

  A column per kernel (the first, the last, and some between), above it the
  dense weights, below it the latents at the end, each `sqrt(m) w_j /
  ||w_j||`, and the points of ternary or binary codes that the file holds.
  """
  shapes = {path: np.shape(kernel) for path, kernel in dense.items()}
  paths = choose(results.sort_kernels(shapes), _MAX_LAYERS)
  figure = drawing.make_figure(1000 if len(paths) > 1 else 480, 520)
  grid = figure.subplots(2, len(paths), sharex='col', squeeze=False)
  marks = {path: find_points(found[path]) for path in paths}
  for column, path in enumerate(paths):
    points = marks[path]
    limit = max(3.5, 1.7 * points.median if points else 0.0)
    for axes, kernel, colour in (
      (grid[0, column], dense[path], drawing.GREY),
      (grid[1, column], latent[path], drawing.BLUE),
    ):
      _draw_histogram(axes, scale_to_sphere(kernel), limit, colour)
      if points:
        _mark(axes, points)
    name = path.removesuffix('/kernel').replace('/', '\n')
    grid[0, column].set_title(name, fontsize=10)
  grid[0, 0].set_ylabel('dense weights\n% per bin')
  grid[1, 0].set_ylabel('latent weights, end\n% per bin')
  label = 'weight / norm of its channel x sqrt(weights per channel)'
  if any(marks.values()):
    label += f'\ndashed: the {quantizer} points of the file'
  figure.supxlabel(label, fontsize=10)
  return figure


def scale_to_sphere(kernel: np.ndarray) -> np.ndarray:
  """Divides each channel by its norm, times `sqrt(m)`: of mean square 1."""
  columns = np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])
  norms = np.linalg.norm(columns, axis=0)
  norms[norms == 0] = 1.0
  return np.sqrt(len(columns)) * columns / norms


def find_points(tensor: artifact_lib.Tensor) -> Points | None:
  """Where the non-zero codes lie in the units of `scale_to_sphere`.

  A code of a channel with `k_j` non-zeros among `m` lies at `+-sqrt(m / k_j)`.
  """
  if not isinstance(tensor, qtensors.TernaryTensor):
    return None
  codes = tensor.codes.reshape(-1, tensor.codes.shape[-1])
  counts = np.count_nonzero(codes, axis=0)
  if not counts.any():
    return None
  found = np.sqrt(len(codes) / counts[counts > 0])
  low, median, high = np.quantile(found, [0.1, 0.5, 0.9])
  return Points(float(median), float(low), float(high))


def choose(paths: Sequence[str], most: int) -> list[str]:
  """Evenly spaced paths, the first and the last among them."""
  if len(paths) <= most:
    return list(paths)
  places = np.linspace(0, len(paths) - 1, most).round().astype(int)
  return [paths[place] for place in places]


def _draw_histogram(
  axes: axes_lib.Axes, values: np.ndarray, limit: float, colour: str
) -> None:
  # Odd, so that zero is in the middle of a bin.
  num_bins = int(np.clip(2 * np.cbrt(values.size), 31, 101)) | 1
  counts, edges = np.histogram(values, num_bins, (-limit, limit))
  percent = 100 * counts / values.size
  axes.stairs(percent, edges, fill=True, color=colour)
  axes.set_xlim(-limit, limit)
  axes.grid(axis='y')
  # A spike at zero would flatten everything else.
  centre = num_bins // 2
  rest = float(np.delete(percent, centre).max())
  if percent[centre] > 3 * rest > 0:
    axes.set_ylim(0, 1.6 * rest)
    axes.annotate(
      f'{percent[centre]:.0f}% at 0',
      (0, 1.5 * rest),
      xytext=(6, 0),
      textcoords='offset points',
      fontsize=9,
      va='center',
      bbox={'facecolor': 'white', 'linewidth': 0, 'pad': 1.5},
    )


def _mark(axes: axes_lib.Axes, points: Points) -> None:
  if points.high > 1:  # At 1 a channel has no zeros.
    axes.axvline(0, color=drawing.VERMILION, linestyle='--', linewidth=1)
  for sign in (-1, 1):
    axes.axvline(
      sign * points.median,
      color=drawing.VERMILION,
      linestyle='--',
      linewidth=1,
    )
    axes.axvspan(
      sign * points.low,
      sign * points.high,
      color=drawing.VERMILION,
      alpha=0.12,
      linewidth=0,
    )
