"""Figures, their style and colours, the phases of a run, and PNG files.

Figures are made without pyplot: no window, no backend chosen for the process,
nothing that stays in memory.
"""

from collections.abc import Mapping, Sequence
import contextlib
import io
import itertools
from typing import Any

from matplotlib import axes as axes_lib
from matplotlib import colormaps
from matplotlib import figure as figure_lib
from matplotlib import layout_engine
from matplotlib import patheffects
from matplotlib import style as style_lib
from matplotlib import ticker
from matplotlib.backends import backend_agg
import numpy as np
from PIL import Image

# The palette of Okabe and Ito, which colour-blind readers can tell apart.
BLUE = '#0072B2'
VERMILION = '#D55E00'
GREEN = '#009E73'
GREY = '#8A8A8A'

_DPI = 120
_STYLE = {
  'font.size': 10,
  'axes.titlesize': 11,
  'axes.titleweight': 'bold',
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.axisbelow': True,
  'grid.color': '#D5D5D5',
  'grid.linewidth': 0.6,
  'legend.frameon': False,
  'legend.fontsize': 9,
}
_PHASES = {'dense': '#EEEEEE', 'prune': '#DCEAF5', 'ternary': '#FCEBD2'}


def style() -> contextlib.AbstractContextManager[Any]:
  """The style of all pictures; what the user has set is back after it."""
  return style_lib.context(['default', _STYLE])


def make_figure(width: int, height: int) -> figure_lib.Figure:
  """A blank figure of so many pixels."""
  engine = layout_engine.ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
  size = (width / _DPI, height / _DPI)
  return figure_lib.Figure(figsize=size, dpi=_DPI, layout=engine)


def to_png(figure: figure_lib.Figure) -> bytes:
  """Renders a figure, with a palette of 256 colours."""
  canvas = backend_agg.FigureCanvasAgg(figure)
  canvas.draw()
  pixels = np.asarray(canvas.buffer_rgba())[..., :3]
  # With a palette a picture takes a third of the bytes; areas of one colour
  # keep it exactly.
  image = Image.fromarray(np.ascontiguousarray(pixels)).quantize(
    256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
  )
  buffer = io.BytesIO()
  image.save(buffer, 'PNG', optimize=True, dpi=(_DPI, _DPI))
  return buffer.getvalue()


def layer_colours(num_layers: int) -> list[Any]:
  """Colours from the first layer, dark, to the last, bright."""
  # The end of the map is too pale on white.
  return list(colormaps['viridis'](np.linspace(0, 0.9, num_layers)))


def outline() -> list[patheffects.AbstractPathEffect]:
  """A white edge, which keeps a line or a text legible on top of others."""
  return [patheffects.withStroke(linewidth=4.5, foreground='white')]


def plot_epochs(
  axes: axes_lib.Axes,
  history: Sequence[Mapping[str, Any]],
  values: Any,
  **line: Any,
) -> None:
  """Plots a line over the epochs; a single epoch is a dot."""
  if len(history) == 1:
    line |= {'marker': 'o', 'clip_on': False}
  axes.plot([row['epoch'] for row in history], values, **line)


def shade_phases(
  axes: axes_lib.Axes,
  history: Sequence[Mapping[str, Any]],
  quantizer: str | None,
) -> None:
  """Shades the phases behind a plot over epochs; names them for a quantizer."""
  axes.set_xlabel('epoch')
  if not history:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(
      0.5,
      0.5,
      'no epoch was recorded',
      transform=axes.transAxes,
      ha='center',
      bbox={'facecolor': 'white', 'linewidth': 0},
    )
    return
  start = first = history[0]['epoch'] - 1
  last = history[-1]['epoch']
  axes.set_xlim(first, last)
  locator = ticker.MaxNLocator('auto', steps=[1, 2, 5, 10], integer=True)
  axes.xaxis.set_major_locator(locator)
  raised = False
  for phase, rows in itertools.groupby(history, lambda row: row['phase']):
    end = list(rows)[-1]['epoch']
    axes.axvspan(start, end, color=_PHASES[phase], linewidth=0, zorder=0)
    # Two short phases side by side: their names would touch.
    raised = end - start < 0.12 * (last - first) and not raised
    if quantizer is not None:
      axes.annotate(
        quantizer if phase == 'ternary' else phase,
        ((start + end) / 2, 1),
        xycoords=axes.get_xaxis_transform(),
        xytext=(0, 14 if raised else 3),
        textcoords='offset points',
        ha='center',
        fontsize=9,
        color='#444444',
      )
    start = end
