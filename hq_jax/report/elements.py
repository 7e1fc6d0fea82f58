"""Elements of a page: text that is only text, names, bars, tables."""

from collections.abc import Sequence
import html
import math

from hq_jax.runtime import terminal

_MAX_NAME = 60  # characters


def text(text: str, kept: str = '') -> str:
  """Text that nothing can break out of, or turn the direction of."""
  shown = (c if c in kept else terminal.escape(c) for c in text)
  return html.escape(''.join(shown))


def name(name: str | None) -> str:
  """The name of a class, cut where it is long."""
  if name is None:
    return '-'
  cut = name if len(name) <= _MAX_NAME else f'{name[: _MAX_NAME - 1]}…'
  return f'<bdi class="name" title="{text(cut)}">{text(cut)}</bdi>'


def percent(fraction: float | None) -> str:
  """A fraction in percent; - where there is none."""
  is_there = fraction is not None and math.isfinite(fraction)
  return f'{fraction:.2%}' if is_there else '-'


def bar(fraction: float | None) -> str:
  """A bar of which a fraction is filled."""
  width = 100 * min(max(fraction or 0.0, 0.0), 1.0)
  return f'<span class="bar"><i style="width:{width:.1f}%"></i></span>'


def tabulate(
  rows: Sequence[Sequence[str]], foot: int = 0, kind: str = ''
) -> str:
  """A table whose first row is the head, and the last `foot` rows the foot."""
  cells = [[text(cell) for cell in row] for row in rows]
  return tabulate_html(cells, foot, kind)


def tabulate_html(
  rows: Sequence[Sequence[str]], foot: int = 0, kind: str = ''
) -> str:
  """The same of cells that are HTML."""
  head, *rest = rows
  join = lambda row, tag: (
    '<tr>' + ''.join(f'<{tag}>{cell}</{tag}>' for cell in row) + '</tr>'
  )
  body = [join(row, 'td') for row in rest]
  parts = [
    f'<div class="scroll"><table class="{kind}">',
    f'<thead>{join(head, "th")}</thead>',
    f'<tbody>{"".join(body[: len(body) - foot])}</tbody>',
    f'<tfoot>{"".join(body[len(body) - foot :])}</tfoot>' if foot else '',
    '</table></div>',
  ]
  return '\n'.join(filter(None, parts))
