"""Curves over the epochs of a run, as SVG; the page's style colours them."""

from collections.abc import Callable, Sequence
import html
import itertools
import math
from typing import Any, NamedTuple

_WIDTH, _HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 450, 24, 222
_LETTER = 6.5  # the width of one, about


class Curve(NamedTuple):
  """A line: a value for each epoch, None or NaN where there is none."""

  name: str
  values: Sequence[float | None]


class Axis(NamedTuple):
  """The values between the lower and the upper end of a chart."""

  low: float
  high: float
  is_log: bool = False

  def place(self, value: float) -> float:
    """The height of a value; of one beyond an end, that of the end."""
    low, high, value = self.low, self.high, min(max(value, self.low), self.high)
    if self.is_log:
      low, high, value = math.log(low), math.log(high), math.log(value)
    return _BOTTOM - (_BOTTOM - _TOP) * (value - low) / (high - low)


def draw(
  title: str,
  phases: Sequence[str],
  curves: Sequence[Curve],
  axis: Axis,
  *,
  first_epoch: int = 1,
  format_value: Callable[[float], str] = '{:.3g}'.format,
  levels: Sequence[tuple[str, float]] = (),
  band: Sequence[tuple[float, float]] = (),
) -> str:
  """An `<svg>` of curves; their names are classes, as `curve-test`.

  Behind them are the phases, one for each epoch; `levels` are lines across, and
  `band` is an area, low and high for each epoch.
  """
  count = len(phases)
  step = (_RIGHT - _LEFT) / max(count, 1)
  place = lambda i: _LEFT + step * (i + 0.5)  # The middle of an epoch.
  parts = [
    f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
    f'<title>{html.escape(title)}</title>',
    *_draw_phases(phases, step),
    *_draw_axes(axis, format_value, first_epoch, count, place),
  ]
  for name, value in levels:
    y = axis.place(value)
    parts.append(
      f'<path class="level curve-{name}" d="M{_LEFT} {y:.1f}H{_RIGHT}"/>'
    )
  points = [(place(i), ends) for i, ends in enumerate(band)]
  for run in _split(points, lambda point: all(map(math.isfinite, point[1]))):
    there = [f'{x:.1f} {axis.place(low):.1f}' for x, (low, _) in run]
    back = [f'{x:.1f} {axis.place(high):.1f}' for x, (_, high) in run[::-1]]
    parts.append(f'<path class="band" d="M{"L".join(there + back)}Z"/>')
  for curve in curves:
    parts += _draw_curve(curve, axis, place)
  return '\n'.join([*parts, '</svg>'])


def fit_axis(
  values: Sequence[float | None], *, from_zero: bool = False
) -> Axis:
  """Ends for values; of powers of ten where they range over more than one."""
  found = [x for x in values if x is not None and math.isfinite(x)]
  low, high = min(found, default=0.0), max(found, default=1.0)
  if from_zero:
    return Axis(0.0, 1.05 * high if high > 0 else 1.0)
  if low > 0 and high > 10 * low:
    return Axis(low / 1.2, high * 1.2, True)
  margin = 0.05 * (high - low) or 0.5 * abs(high) or 0.5
  return Axis(low - margin, high + margin)


def find_ticks(axis: Axis) -> list[float]:
  """Round numbers on an axis, about five."""
  low, high = axis.low, axis.high
  if axis.is_log:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    wide = high / low > 1e3
    ticks = [f * 10.0**p for p in powers for f in ((1,) if wide else (1, 2, 5))]
    return [tick for tick in ticks if low <= tick <= high]
  unit = 10.0 ** math.floor(math.log10((high - low) / 4))
  unit *= next(f for f in (1, 2, 5, 10) if (high - low) / (f * unit) <= 5.5)
  first, last = math.ceil(low / unit), math.floor(high / unit)
  return [i * unit for i in range(first, last + 1)]


def _draw_phases(phases: Sequence[str], step: float) -> list[str]:
  parts, begin = [], 0
  for name, rows in itertools.groupby(phases):
    count = len(list(rows))
    x, width = _LEFT + step * begin, step * count
    begin += count
    name = html.escape(name)
    parts.append(
      f'<rect class="phase phase-{name}" x="{x:.1f}" y="{_TOP}"'
      f' width="{width:.1f}" height="{_BOTTOM - _TOP}"/>'
    )
    if width > _LETTER * len(name):
      parts.append(
        f'<text class="middle" x="{x + width / 2:.1f}" y="{_TOP - 7}">'
        f'{name}</text>'
      )
  return parts


def _draw_axes(axis, format_value, first_epoch, count, place) -> list[str]:
  parts = []
  for tick in find_ticks(axis):
    y = axis.place(tick)
    parts += [
      f'<path class="grid" d="M{_LEFT} {y:.1f}H{_RIGHT}"/>',
      f'<text class="end" x="{_LEFT - 5}" y="{y + 4:.1f}">'
      f'{html.escape(format_value(tick))}</text>',
    ]
  last = first_epoch + count - 1
  epochs = find_ticks(Axis(first_epoch, last)) if count > 1 else [first_epoch]
  for epoch in sorted({int(x) for x in epochs if x == int(x)} if count else ()):
    parts.append(
      f'<text class="middle" x="{place(epoch - first_epoch):.1f}"'
      f' y="{_BOTTOM + 16}">{epoch}</text>'
    )
  if not count:
    middle = (_LEFT + _RIGHT) / 2
    parts.append(
      f'<text class="middle" x="{middle}" y="{(_TOP + _BOTTOM) / 2}">'
      'no epochs</text>'
    )
  return parts


def _draw_curve(curve: Curve, axis: Axis, place: Any) -> list[str]:
  parts = []
  points = [(place(i), value) for i, value in enumerate(curve.values)]
  is_there = lambda point: point[1] is not None and math.isfinite(point[1])
  for run in _split(points, is_there):
    places = [f'{x:.1f} {axis.place(value):.1f}' for x, value in run]
    if len(places) == 1:
      x, y = places[0].split()
      parts.append(
        f'<circle class="curve-{curve.name}" cx="{x}" cy="{y}" r="3"/>'
      )
    else:
      parts.append(
        f'<path class="curve curve-{curve.name}" d="M{"L".join(places)}"/>'
      )
  return parts


def _split(points: Sequence[Any], is_there: Any) -> list[list[Any]]:
  """The runs of points that are there."""
  groups = itertools.groupby(points, is_there)
  return [list(run) for there, run in groups if there]
