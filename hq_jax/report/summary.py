"""The one picture that tells what a run came to."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import axes as axes_lib
from matplotlib import figure as figure_lib
from matplotlib import ticker

from hq_jax.report import drawing
from hq_jax.report import epochs
from hq_jax.report import results
from hq_jax.report import wording


def draw(
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
  _draw_sizes(left, report)
  quantizer = wording.get_quantizer(report.get('config', {}))
  _draw_distance(right, history, quantizer)
  return figure


def _draw_sizes(axes: axes_lib.Axes, report: Mapping[str, Any]) -> None:
  points = {
    'dense': (report['dense_bytes'], report['dense_accuracy']),
    'file': (report['file_bytes'], report['file_accuracy']),
  }
  axes.annotate(
    '',
    points['file'],
    points['dense'],
    arrowprops={
      'arrowstyle': '-|>',
      'color': drawing.GREY,
      'linewidth': 1.5,
      'shrinkA': 10,
      'shrinkB': 10,
    },
  )
  dense_is_higher = report['dense_accuracy'] >= report['file_accuracy']
  for name, title, colour, marker, above in (
    ('dense', 'dense, float32', drawing.GREY, 'o', dense_is_higher),
    ('file', '.hq file', drawing.VERMILION, 'D', not dense_is_higher),
  ):
    size, accuracy = points[name]
    axes.plot(size, accuracy, marker, color=colour, markersize=11)
    # The arrow leaves on the other side.
    axes.annotate(
      f'{title}\n{drawing.format_bytes(size)}\n{accuracy:.2%}',
      (size, accuracy),
      xytext=(0, 12 if above else -12),
      textcoords='offset points',
      ha='center',
      va='bottom' if above else 'top',
      path_effects=drawing.outline(),
    )
  _set_limits(axes, *zip(*points.values(), strict=True))


def _set_limits(axes: axes_lib.Axes, sizes: Any, accuracies: Any) -> None:
  axes.set_title('Accuracy against size', loc='left', pad=18)
  axes.set_xscale('log')
  margin = max(max(sizes) / min(sizes), 10.0) ** 0.3
  axes.set_xlim(min(sizes) / margin, max(sizes) * margin)
  # A quarter of the height above and below is for the names.
  low, high = min(accuracies), max(accuracies)
  height = max((high - low) / 0.46, 0.05)
  limits = ((low + high - height) / 2, (low + high + height) / 2)
  ticks = ticker.MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]).tick_values(*limits)
  axes.set_yticks([tick for tick in ticks if 0 <= tick <= 1])
  axes.set_ylim(*limits)
  axes.xaxis.set_major_formatter(ticker.EngFormatter('B'))
  axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
  axes.set_xlabel('size (log scale)')
  axes.set_ylabel('test accuracy')
  axes.grid()


def _draw_distance(
  axes: axes_lib.Axes, history: Sequence[Mapping[str, Any]], quantizer: str
) -> None:
  axes.set_title(f'Cosine distance to {quantizer}', loc='left', pad=18)
  epochs.shade_phases(axes, history, quantizer=quantizer)
  if not history:
    return
  x = [row['epoch'] for row in history]
  values = results.get_distances(history, list(history[0]['cosine_distance']))
  axes.fill_between(
    x,
    values.min(axis=1),
    values.max(axis=1),
    color=drawing.BLUE,
    alpha=0.22,
    linewidth=0,
    label='range over kernels',
  )
  axes.plot(
    x,
    values.mean(axis=1),
    color=drawing.BLUE,
    linewidth=2.6,
    label='mean',
    **epochs.get_marker(history),
  )
  drawing.start_at_zero(axes, values)
  axes.set_ylabel(f'1 - cos(latent, {quantizer})')
  axes.legend(loc='best')
  axes.grid(axis='y')
