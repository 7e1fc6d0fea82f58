"""Accuracy against bytes; cosine distance and bias over training."""

from collections.abc import Mapping, Sequence
import itertools
import math
from typing import Any

from matplotlib import axes as axes_lib
from matplotlib import figure as figure_lib
from matplotlib import ticker

from benchmarks.accuracy import tables
from benchmarks.accuracy import tasks
from hq_jax.report import drawing

_COLOURS = {
  'hq': 'black',
  'plain': '#F0A080',
  'plain_int8': '#D55E00',
  'plain_erk': '#A0522D',
  'plain_planned': '#8B0000',
  'vector': '#0072B2',
  'binary': '#009E73',
  'uniform': '#CC79A7',
  'uniform_4': '#9370DB',
  'uniform_8': '#6A5ACD',
  'twn': '#E69F00',
  'ttq': '#B8860B',
  'parq': '#556B2F',
}
_MARKERS = dict(zip(_COLOURS, 'ossssD^vvvPPP', strict=True))
_GREY = '#777777'  # dense
_BYTES = ticker.StrMethodFormatter('{x:,.0f}')
# Bytes, mean and standard error by method.
_Lines = dict[str, list[tuple[float, float, float | None]]]


def draw_accuracy(
  summaries: Mapping[tables.Key, tables.Summary],
) -> figure_lib.Figure:
  """A plot for each set and network: ours, baselines, and dense as a line."""
  cells: dict[tuple[str, str], _Lines] = {}
  for (*where, method, _), found in summaries.items():
    if method in _COLOURS:
      lines = cells.setdefault((where[0], where[1]), {})
      lines.setdefault(method, []).append(
        (found.file_bytes, found.mean, found.standard_error)
      )
  figure, panels = _draw_panels(cells)
  for cell, axes in panels.items():
    dense = summaries.get((*cell, 'dense', 0.0))
    if dense is not None:
      axes.axhline(100 * dense.mean, color=_GREY, linestyle='--', label='dense')
  _add_legend(figure)
  return figure


def draw_sizes(rows: Sequence[Mapping[str, Any]]) -> figure_lib.Figure:
  """A plot for each set and family of networks, from `tables.make_sizes`."""
  cells: dict[tuple[str, str], _Lines] = {}
  for row in rows:
    if row['method'] in {'dense', *_COLOURS}:
      lines = cells.setdefault((row['set'], row['family']), {})
      lines.setdefault(row['method'], []).append(
        (row['file_bytes'], row['mean'], row['se'])
      )
  figure, panels = _draw_panels(cells)
  for axes in panels.values():
    axes.set_xscale('log')
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.xaxis.set_major_formatter(_BYTES)
  _add_legend(figure)
  return figure


def _draw_panels(
  cells: Mapping[tuple[str, str], _Lines],
) -> tuple[figure_lib.Figure, dict[tuple[str, str], axes_lib.Axes]]:
  """A plot for each cell, with a line for each of its methods."""
  columns = min(len(cells), 2)
  rows = math.ceil(len(cells) / columns)
  figure = drawing.make_figure(480 * columns + 200, 420 * rows)
  panels = {}
  for index, (cell, lines) in enumerate(sorted(cells.items())):
    panels[cell] = axes = figure.add_subplot(rows, columns, index + 1)
    for method in filter(lines.get, ('hq', *tasks.RIVALS, 'dense')):
      num_bytes, means, errors = zip(*sorted(lines[method]), strict=True)
      axes.errorbar(
        num_bytes,
        [100 * mean for mean in means],
        [100 * (error or 0.0) for error in errors],
        color=_COLOURS.get(method, _GREY),
        marker=_MARKERS.get(method, 'x'),
        linewidth=2.2 if method == 'hq' else 1.2,
        capsize=3,
        label=tables.NAMES[method],
        zorder=3 if method == 'hq' else 2,
      )
    axes.set_title(', '.join(cell), loc='left')
    axes.set_xlabel('bytes of the file')
    axes.xaxis.set_major_formatter(_BYTES)
    axes.tick_params(axis='x', labelrotation=30)
    axes.grid(axis='y')
    if index % columns == 0:
      axes.set_ylabel('test accuracy, %')
  return figure, panels


def _add_legend(figure: figure_lib.Figure) -> None:
  """One for all plots."""
  named: dict[str, Any] = {}
  for axes in figure.axes:
    named |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
  figure.legend(named.values(), named, loc='outside right upper')


def draw_bias(results: Sequence[Mapping[str, Any]]) -> figure_lib.Figure:
  """Distance and bias of every kernel over the epochs, plain beside ours.

  The first seed of each method, set and network is drawn.
  """
  first: dict[tuple[str, str, str], Mapping[str, Any]] = {}
  for result in sorted(results, key=lambda found: found['seed']):
    key = result['set'], result['network'], result['method']
    first.setdefault(key, result)
  cells = sorted({key[:2] for key in first})
  methods = sorted({key[2] for key in first}, key=lambda name: name == 'hq')
  labels = {
    'cosine_distance': 'cosine distance',
    'ste_bias': 'bias of the gradient',
  }
  columns = list(itertools.product(labels, methods))
  figure = drawing.make_figure(340 * len(columns), 300 * len(cells))
  panels = figure.subplots(len(cells), len(columns), squeeze=False)
  for row, cell in enumerate(cells):
    for column, (name, method) in enumerate(columns):
      axes = panels[row, column]
      axes.sharey(panels[0, column - column % len(methods)])
      axes.grid(axis='y')
      if (*cell, method) in first:
        _draw_kernels(axes, first[*cell, method]['history'], name)
      if row == 0:
        axes.set_title(f'{tables.NAMES[method]}:\n{labels[name]}', loc='left')
      if column == 0:
        axes.set_ylabel(', '.join(cell))
      axes.set_xlabel('epoch')
  return figure


def _draw_kernels(
  axes: axes_lib.Axes, history: Sequence[Mapping[str, Any]], name: str
) -> None:
  """A line for each kernel, and their mean."""
  epochs = [found['epoch'] for found in history]
  paths = list(history[0][name])
  colours = drawing.layer_colours(len(paths))
  for path, colour in zip(paths, colours, strict=True):
    values = [found[name][path] for found in history]
    axes.plot(epochs, values, color=colour, linewidth=1.2)
  axes.plot(
    epochs,
    [sum(found[name].values()) / len(paths) for found in history],
    color='black',
    linewidth=2.6,
    path_effects=drawing.outline(),
  )
