"""Pictures of distances, training and sizes, one function for each."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import axes as axes_lib
from matplotlib import cm
from matplotlib import colors
from matplotlib import figure as figure_lib
from matplotlib import ticker
import numpy as np

from hq_jax import config as config_lib
from hq_jax.report import drawing
from hq_jax.report import epochs
from hq_jax.report import results
from hq_jax.report import tables
from hq_jax.report import wording

# More names than these do not fit beside a plot; a colour bar does.
_MAX_NAMES = 14


def draw_cosine_distance(
  history: Sequence[Mapping[str, Any]],
  shapes: Mapping[str, Sequence[int]],
  quantizer: str = config_lib.OURS,
) -> figure_lib.Figure:
  """The cosine distance of every kernel over the epochs, and their mean."""
  figure = drawing.make_figure(1000, 540)
  axes = figure.add_subplot()
  epochs.shade_phases(axes, history, quantizer=quantizer)
  paths = results.sort_kernels(shapes)
  _draw_distances(axes, history, paths)
  axes.set_ylabel('cosine distance, 1 - cos')
  axes.set_title(
    f'From latent weights to their {quantizer} projection', pad=26, loc='left'
  )
  if len(paths) <= _MAX_NAMES:
    axes.legend(loc='center left', bbox_to_anchor=(1.01, 0.5))
  else:
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[-1:], labels[-1:], loc='upper right')
    _add_layer_bar(figure, axes, len(paths))
  return figure


def _draw_distances(
  axes: axes_lib.Axes,
  history: Sequence[Mapping[str, Any]],
  paths: Sequence[str],
) -> None:
  x = [row['epoch'] for row in history]
  distances = results.get_distances(history, paths)
  colours = drawing.layer_colours(len(paths))
  named = len(paths) <= _MAX_NAMES
  for index, (path, colour) in enumerate(zip(paths, colours, strict=True)):
    axes.plot(
      x,
      distances[:, index],
      color=colour,
      linewidth=1.4 if named else 0.8,
      linestyle='--' if named and index % 2 else '-',
      label=path.removesuffix('/kernel'),
    )
  axes.plot(
    x,
    distances.mean(axis=1),
    color='black',
    linewidth=2.6,
    label='mean',
    path_effects=drawing.outline(),
    **epochs.get_marker(history),
  )
  drawing.start_at_zero(axes, distances)
  axes.grid(axis='y')


def draw_training(
  history: Sequence[Mapping[str, Any]],
  dense_accuracy: float,
  file_accuracy: float,
  quantizer: str = config_lib.OURS,
) -> figure_lib.Figure:
  """Accuracy and loss over the epochs."""
  figure = drawing.make_figure(1000, 640)
  upper, lower = figure.subplots(2, 1, sharex=True)
  epochs.shade_phases(upper, history, quantizer=quantizer)
  epochs.shade_phases(lower, history, labels=False)
  upper.set_xlabel('')
  _draw_pair(upper, history, 'accuracy')
  _draw_pair(lower, history, 'loss')
  for accuracy, name, colour in (
    (dense_accuracy, 'dense network', drawing.GREEN),
    (file_accuracy, '.hq file', 'black'),
  ):
    upper.axhline(
      accuracy,
      color=colour,
      linestyle='--',
      linewidth=1.2,
      label=f'{name}\n{accuracy:.2%}',
    )
  tests = [results.to_float(row['test_accuracy']) for row in history]
  limits = _accuracy_limits([dense_accuracy, file_accuracy], tests)
  upper.set_ylim(*limits)
  upper.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
  upper.set_ylabel('accuracy')
  upper.legend(loc='center left', bbox_to_anchor=(1.01, 0.5))
  lower.set_ylabel('loss')
  losses = [results.to_float(row['test_loss']) for row in history]
  positive = [loss for loss in losses if 0 < loss < np.inf]
  if positive and max(positive) > 10 * min(positive):
    lower.set_yscale('log')
  return figure


def draw_sizes(report: Mapping[str, Any]) -> figure_lib.Figure:
  """The dense size beside the file's, and the file's by part."""
  figure = drawing.make_figure(1000, 400)
  left, right = figure.subplots(1, 2, width_ratios=[1, 1.2])
  quantizer = wording.get_quantizer(report.get('config', {}))
  _draw_bars(
    left,
    ['dense, float32', f'{quantizer} in memory', '.hq file'],
    [report['dense_bytes'], report['resident_bytes'], report['file_bytes']],
    [drawing.GREY, drawing.BLUE, drawing.VERMILION],
  )
  left.set_title(f'{report["ratio"]:.2f} times smaller', loc='left')
  parts = sorted(report['parts'].items(), key=lambda item: -item[1])
  parts = [(part, num_bytes) for part, num_bytes in parts if num_bytes]
  _draw_bars(
    right,
    [tables.name_part(part).split(':')[0] for part, _ in parts],
    [num_bytes for _, num_bytes in parts],
    [drawing.VERMILION] * len(parts),
    total=report['file_bytes'],
  )
  right.set_title('The file, by part', loc='left')
  return figure


def _draw_bars(
  axes: axes_lib.Axes,
  names: Sequence[str],
  sizes: Sequence[int],
  colours: Sequence[str],
  total: int | None = None,
) -> None:
  axes.barh(names, sizes, color=colours, height=0.62)
  axes.invert_yaxis()
  axes.tick_params(axis='y', length=0)
  axes.xaxis.set_visible(False)
  axes.spines['bottom'].set_visible(False)
  axes.set_xlim(0, (1.8 if total else 1.5) * max(sizes))
  for index, size in enumerate(sizes):
    share = f' ({size / total:.2%})' if total else ''
    axes.annotate(
      f'{drawing.format_bytes(size)}{share}',
      (size, index),
      xytext=(4, 0),
      textcoords='offset points',
      va='center',
    )


def _draw_pair(
  axes: axes_lib.Axes, history: Sequence[Mapping[str, Any]], name: str
) -> None:
  for split, colour, width in (
    ('train', drawing.BLUE, 1.2),
    ('test', drawing.VERMILION, 2.0),
  ):
    axes.plot(
      [row['epoch'] for row in history],
      [results.to_float(row[f'{split}_{name}']) for row in history],
      color=colour,
      linewidth=width,
      label=split,
      **epochs.get_marker(history),
    )
  axes.grid(axis='y')


def _accuracy_limits(
  ends: Sequence[float], tests: Sequence[float]
) -> tuple[float, float]:
  """Limits that leave out the first epochs, which are far below the rest."""
  finite = [accuracy for accuracy in tests if np.isfinite(accuracy)]
  shown = [*ends, *([float(np.quantile(finite, 0.1))] if finite else [])]
  low, high = min(shown), max([*shown, *finite])
  margin = max(0.5 * (high - low), 0.02)
  return max(low - margin, 0.0), min(high + 0.2 * margin, 1.0) + 0.002


def _add_layer_bar(
  figure: figure_lib.Figure, axes: axes_lib.Axes, num_layers: int
) -> None:
  colours = colors.ListedColormap(drawing.layer_colours(num_layers))
  mappable = cm.ScalarMappable(colors.Normalize(0.5, num_layers + 0.5), colours)
  bar = figure.colorbar(mappable, ax=axes, ticks=[1, num_layers], pad=0.01)
  bar.set_label(f'kernel, first to last of {num_layers}', labelpad=-8)
