"""The pictures of a report, one function for each."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import axes as axes_lib
from matplotlib import cm
from matplotlib import colors
from matplotlib import figure as figure_lib
from matplotlib import ticker
import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.core import qtensors
from hq_jax.report import drawing
from hq_jax.report import results
from hq_jax.report import run_record
from hq_jax.report import tables
from hq_jax.report import wording

# More names than these do not fit beside a plot; a colour bar does.
_MAX_NAMES = 14
_MAX_HISTOGRAMS = 4


def draw_all(
  inputs: run_record.Inputs,
  report: Mapping[str, Any],
  artifact: artifact_lib.Artifact,
) -> dict[str, bytes]:
  """Draws every picture; the bytes of PNGs by their names."""
  with drawing.style():
    figures = {
      'cosine_distance.png': draw_cosine_distance(inputs),
      'training.png': draw_training(inputs),
      'sizes.png': draw_sizes(report),
      'weights.png': draw_weights(inputs, artifact),
      'summary.png': draw_summary(report, inputs.history),
    }
    return {name: drawing.to_png(figure) for name, figure in figures.items()}


def draw_cosine_distance(inputs: run_record.Inputs) -> figure_lib.Figure:
  """The cosine distance of every kernel over the epochs, and their mean."""
  history, quantizer = inputs.history, wording.get_quantizer(inputs.config)
  paths = _sort_paths(inputs.dense_kernels)
  distances = results.get_distances(history, paths)
  colours = drawing.layer_colours(len(paths))
  named = len(paths) <= _MAX_NAMES
  figure = drawing.make_figure(1000, 540)
  axes = figure.add_subplot()
  drawing.shade_phases(axes, history, quantizer)
  for index, path in enumerate(paths):
    axes.plot(
      [row['epoch'] for row in history],
      distances[:, index],
      color=colours[index],
      linewidth=1.4 if named else 0.8,
      linestyle='--' if named and index % 2 else '-',
      label=path.removesuffix('/kernel') if named else None,
    )
  drawing.plot_epochs(
    axes,
    history,
    distances.mean(axis=1),
    color='black',
    linewidth=2.6,
    label='mean',
    path_effects=drawing.outline(),
  )
  axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
  axes.grid(axis='y')
  axes.set_ylabel('cosine distance, 1 - cos')
  axes.set_title(
    f'From latent weights to their {quantizer} projection', pad=26, loc='left'
  )
  if named:
    axes.legend(loc='center left', bbox_to_anchor=(1.01, 0.5))
  else:
    axes.legend(loc='upper right')
    scale = cm.ScalarMappable(
      colors.Normalize(0.5, len(paths) + 0.5), colors.ListedColormap(colours)
    )
    bar = figure.colorbar(scale, ax=axes, ticks=[1, len(paths)], pad=0.01)
    bar.set_label(f'kernel, first to last of {len(paths)}', labelpad=-8)
  return figure


def _sort_paths(kernels: Mapping[str, np.ndarray]) -> list[str]:
  shapes = {path: kernel.shape for path, kernel in kernels.items()}
  return results.sort_kernels(shapes)


def draw_training(inputs: run_record.Inputs) -> figure_lib.Figure:
  """Accuracy and loss over the epochs."""
  history = inputs.history
  get = lambda name: [results.to_float(row[name]) for row in history]
  watched = run_record.get_split(history[0]) if history else 'test'
  figure = drawing.make_figure(1000, 640)
  upper, lower = figure.subplots(2, 1, sharex=True)
  drawing.shade_phases(upper, history, wording.get_quantizer(inputs.config))
  drawing.shade_phases(lower, history, None)
  upper.set_xlabel('')
  for axes, name in ((upper, 'accuracy'), (lower, 'loss')):
    for split, colour, width in (
      ('train', drawing.BLUE, 1.2),
      (watched, drawing.VERMILION, 2.0),
    ):
      line = {'color': colour, 'linewidth': width, 'label': split}
      values = get(f'{split}_{name}')
      drawing.plot_epochs(axes, history, values, **line)
    axes.set_ylabel(name)
    axes.grid(axis='y')
  ends = [inputs.dense['accuracy'], inputs.file['accuracy']]
  for accuracy, name, colour in zip(
    ends, ('dense network', '.hq file'), (drawing.GREEN, 'black'), strict=True
  ):
    label = f'{name}{", test" * (watched != "test")}\n{accuracy:.2%}'
    line = {'linestyle': '--', 'linewidth': 1.2, 'label': label}
    upper.axhline(accuracy, color=colour, **line)
  # The first epochs, which are far below the rest, are left out.
  tests = [x for x in get(f'{watched}_accuracy') if np.isfinite(x)]
  low = min([*ends, *([np.quantile(tests, 0.1)] if tests else [])])
  high = max([*ends, *tests])
  margin = max(0.5 * (high - low), 0.02)
  upper.set_ylim(max(low - margin, 0), min(high + 0.2 * margin, 1) + 0.002)
  upper.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
  upper.legend(loc='center left', bbox_to_anchor=(1.01, 0.5))
  losses = [loss for loss in get(f'{watched}_loss') if 0 < loss < np.inf]
  if losses and max(losses) > 10 * min(losses):
    lower.set_yscale('log')
  return figure


def draw_sizes(report: Mapping[str, Any]) -> figure_lib.Figure:
  """The dense size beside the file's, and the file's by part."""
  figure = drawing.make_figure(1000, 400)
  left, right = figure.subplots(1, 2, width_ratios=[1, 1.2])
  sizes = {
    'dense, float32': report['dense_bytes'],
    f'{wording.get_quantizer(report["config"])} in memory': report[
      'resident_bytes'
    ],
    '.hq file': report['file_bytes'],
  }
  labels = [_format_bytes(size) for size in sizes.values()]
  colours = [drawing.GREY, drawing.BLUE, drawing.VERMILION]
  _draw_bars(left, sizes, labels, colours, 1.5)
  left.set_title(f'{report["ratio"]:.2f} times smaller', loc='left')
  parts = {
    tables.name_part(part).split(':')[0]: size
    for part, size in sorted(report['parts'].items(), key=lambda x: -x[1])
    if size
  }
  labels = [
    f'{_format_bytes(size)} ({size / report["file_bytes"]:.2%})'
    for size in parts.values()
  ]
  _draw_bars(right, parts, labels, drawing.VERMILION, 1.8)
  right.set_title('The file, by part', loc='left')
  return figure


def _draw_bars(
  axes: axes_lib.Axes,
  sizes: Mapping[str, int],
  labels: Sequence[str],
  colours: Any,
  room: float,
) -> None:
  """Draws bars, with room for the labels at their ends."""
  bars = axes.barh(list(sizes), list(sizes.values()), 0.62, color=colours)
  axes.bar_label(bars, labels, padding=4)
  axes.invert_yaxis()
  axes.tick_params(axis='y', length=0)
  axes.xaxis.set_visible(False)
  axes.spines['bottom'].set_visible(False)
  axes.set_xlim(0, room * max(sizes.values()))


def _format_bytes(num_bytes: float) -> str:
  """Bytes in words: kB = 1e3 bytes, MB = 1e6 bytes."""
  text = ticker.EngFormatter('B', places=1)(num_bytes)
  return text.replace('.0 B', ' B')


def draw_weights(
  inputs: run_record.Inputs, artifact: artifact_lib.Artifact
) -> figure_lib.Figure:
  """Histograms of the weights on the sphere, before and after.

  A column per kernel (the first, the last, and some between), above it the
  dense weights, below it the latents at the end, each `sqrt(m) w_j /
  ||w_j||`, and the points of ternary or binary codes that the file holds.
  """
  paths = _sort_paths(inputs.dense_kernels)
  num_columns = min(len(paths), _MAX_HISTOGRAMS)
  places = np.linspace(0, len(paths) - 1, num_columns).round().astype(int)
  figure = drawing.make_figure(1000 if num_columns > 1 else 480, 520)
  grid = figure.subplots(2, num_columns, sharex='col', squeeze=False)
  label = 'weight / norm of its channel x sqrt(weights per channel)'
  for column, path in enumerate(paths[place] for place in places):
    tensor = artifact.tensors[f'{results.PREFIX}{path}']
    points, summed = find_points(tensor), find_summed_axes(tensor)
    limit = max(3.5, 1.7 * points[1]) if points else 3.5
    for axes, kernel, colour in (
      (grid[0, column], inputs.dense_kernels[path], drawing.GREY),
      (grid[1, column], inputs.latent_kernels[path], drawing.BLUE),
    ):
      _draw_histogram(axes, scale_to_sphere(kernel, summed), limit, colour)
      if points:
        _mark_points(axes, *points)
    name = path.removesuffix('/kernel').replace('/', '\n')
    grid[0, column].set_title(name, fontsize=10)
    if points and '\n' not in label:
      quantizer = wording.get_quantizer(inputs.config)
      label += f'\ndashed: the {quantizer} points of the file'
  grid[0, 0].set_ylabel('dense weights\n% per bin')
  grid[1, 0].set_ylabel('latent weights, end\n% per bin')
  figure.supxlabel(label, fontsize=10)
  return figure


def find_summed_axes(tensor: artifact_lib.Tensor) -> tuple[int, ...]:
  """The axes along which lie the weights of one channel."""
  num_axes = len(artifact_lib.shape_of(tensor))
  if not isinstance(tensor, qtensors.TernaryTensor) or tensor.scale is None:
    return tuple(range(num_axes - 1))
  return tuple(i for i in range(num_axes) if tensor.scale.shape[i] == 1)


def scale_to_sphere(
  kernel: np.ndarray, summed: tuple[int, ...] | None = None
) -> np.ndarray:
  """Divides each channel by its norm, times `sqrt(m)`: of mean square 1."""
  summed = tuple(range(kernel.ndim - 1)) if summed is None else summed
  squares = np.square(kernel, dtype=np.float64)
  means = np.mean(squares, summed, keepdims=True)
  return kernel / np.sqrt(np.where(means == 0, 1.0, means))


def find_points(
  tensor: artifact_lib.Tensor,
) -> tuple[float, float, float] | None:
  """Where the non-zero codes lie in the units of `scale_to_sphere`.

  The codes of a channel with `k_j` non-zeros among `m` lie at `+-sqrt(m /
  k_j)`; the 10%, 50% and 90% quantiles over channels.
  """
  if not isinstance(tensor, qtensors.TernaryTensor):
    return None
  fractions = np.mean(tensor.codes != 0, find_summed_axes(tensor))
  if not fractions.any():
    return None
  points = np.sqrt(1 / fractions[fractions > 0])
  low, median, high = np.quantile(points, [0.1, 0.5, 0.9]).tolist()
  return low, median, high


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


def _mark_points(
  axes: axes_lib.Axes, low: float, median: float, high: float
) -> None:
  # Where no channel has a zero, there is no point at 0.
  for point in (-median, 0, median) if high > 1 else (-median, median):
    axes.axvline(point, color=drawing.VERMILION, linestyle='--', linewidth=1)
  for sign in (-1, 1):
    axes.axvspan(
      sign * low, sign * high, color=drawing.VERMILION, alpha=0.12, linewidth=0
    )


def draw_summary(
  report: Mapping[str, Any], history: Sequence[Mapping[str, Any]]
) -> figure_lib.Figure:
  """Accuracy against bytes, and the cosine distance over training."""
  figure = drawing.make_figure(1000, 480)
  left, right = figure.subplots(1, 2)
  figure.suptitle(
    f'{report["ratio"]:.2f} times smaller: test accuracy '
    f'{report["dense_accuracy"]:.2%} dense, {report["file_accuracy"]:.2%} file',
    fontsize=14,
    fontweight='bold',
  )
  _draw_accuracy(left, report)
  quantizer = wording.get_quantizer(report['config'])
  right.set_title(f'Cosine distance to {quantizer}', loc='left', pad=18)
  drawing.shade_phases(right, history, quantizer)
  if history:
    values = results.get_distances(history, list(history[0]['cosine_distance']))
    right.fill_between(
      [row['epoch'] for row in history],
      values.min(axis=1),
      values.max(axis=1),
      color=drawing.BLUE,
      alpha=0.22,
      linewidth=0,
      label='range over kernels',
    )
    line = {'color': drawing.BLUE, 'linewidth': 2.6, 'label': 'mean'}
    drawing.plot_epochs(right, history, values.mean(axis=1), **line)
    right.set_ylim(0, 1.05 * right.get_ylim()[1])
    right.set_ylabel(f'1 - cos(latent, {quantizer})')
    right.legend(loc='best')
    right.grid(axis='y')
  return figure


def _draw_accuracy(axes: axes_lib.Axes, report: Mapping[str, Any]) -> None:
  """An arrow from the dense network to the file: accuracy against bytes."""
  dense = report['dense_bytes'], report['dense_accuracy']
  file = report['file_bytes'], report['file_accuracy']
  arrow = {'arrowstyle': '-|>', 'color': drawing.GREY, 'linewidth': 1.5}
  axes.annotate(
    '', file, dense, arrowprops=arrow | {'shrinkA': 10, 'shrinkB': 10}
  )
  for (size, accuracy), name, colour, marker, above in (
    (dense, 'dense, float32', drawing.GREY, 'o', dense[1] >= file[1]),
    (file, '.hq file', drawing.VERMILION, 'D', dense[1] < file[1]),
  ):
    axes.plot(size, accuracy, marker, color=colour, markersize=11)
    # The arrow leaves on the other side.
    axes.annotate(
      f'{name}\n{_format_bytes(size)}\n{accuracy:.2%}',
      (size, accuracy),
      xytext=(0, 12 if above else -12),
      textcoords='offset points',
      ha='center',
      va='bottom' if above else 'top',
      path_effects=drawing.outline(),
    )
  axes.set_title('Accuracy against size', loc='left', pad=18)
  axes.set_xscale('log')
  small, large = sorted((dense[0], file[0]))
  margin = max(large / small, 10.0) ** 0.3
  axes.set_xlim(small / margin, large * margin)
  # A quarter of the height above and below is for the names.
  middle = (dense[1] + file[1]) / 2
  height = max(abs(dense[1] - file[1]) / 0.46, 0.05)
  axes.set_ylim(middle - height / 2, middle + height / 2)
  axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= 1])
  axes.set_ylim(middle - height / 2, middle + height / 2)
  axes.xaxis.set_major_formatter(ticker.EngFormatter('B'))
  axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
  axes.set_xlabel('size (log scale)')
  axes.set_ylabel('test accuracy')
  axes.grid()
