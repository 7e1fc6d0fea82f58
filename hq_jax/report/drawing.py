"""What all pictures share: style, colours, and the way to a PNG.

Figures are made without pyplot: no window, no backend chosen for the process,
nothing that stays in memory.
"""

import contextlib
import io
from typing import Any

from matplotlib import axes as axes_lib
from matplotlib import colormaps
from matplotlib import figure as figure_lib
from matplotlib import layout_engine
from matplotlib import patheffects
from matplotlib import style as style_lib
from matplotlib.backends import backend_agg
import numpy as np
from PIL import Image

DPI = 120
# The palette of Okabe and Ito, which colour-blind readers can tell apart.
BLUE = '#0072B2'
VERMILION = '#D55E00'
GREEN = '#009E73'
GREY = '#8A8A8A'

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


def style() -> contextlib.AbstractContextManager[Any]:
  """The style of all pictures; what the user has set is back after it."""
  return style_lib.context(['default', _STYLE])


def make_figure(width: int, height: int) -> figure_lib.Figure:
  """A blank figure."""
  size = (width / DPI, height / DPI)
  engine = layout_engine.ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
  return figure_lib.Figure(figsize=size, dpi=DPI, layout=engine)


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
  image.save(buffer, 'PNG', optimize=True, dpi=(DPI, DPI))
  return buffer.getvalue()


def format_bytes(num_bytes: float) -> str:
  """Bytes in words: kB = 1e3 bytes, MB = 1e6 bytes."""
  if num_bytes < 1e3:
    return f'{num_bytes:.0f} B'
  if num_bytes < 1e6:
    return f'{num_bytes / 1e3:.1f} kB'
  return f'{num_bytes / 1e6:.{2 if num_bytes < 1e7 else 1}f} MB'


def start_at_zero(axes: axes_lib.Axes, values: np.ndarray) -> None:
  """Lets the y axis go from 0 to a little above the greatest value."""
  finite = values[np.isfinite(values)]
  highest = float(finite.max()) if finite.size else 0.0
  axes.set_ylim(0, 1.08 * highest if highest > 0 else 1.0)


def layer_colours(num_layers: int) -> list[Any]:
  """Colours from the first layer, dark, to the last, bright."""
  # The end of the map is too pale on white.
  most = 0.9 / max(num_layers - 1, 1)
  return [colormaps['viridis'](most * index) for index in range(num_layers)]


def outline() -> list[patheffects.AbstractPathEffect]:
  """A white edge, which keeps a line or a text legible on top of others."""
  return [
    patheffects.Stroke(linewidth=4.5, foreground='white'),
    patheffects.Normal(),
  ]
