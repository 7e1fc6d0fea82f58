"""The classes on a page: their accuracy, and what they are taken for."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hq_jax.report import answers as answers_lib
from hq_jax.report import elements

_MAX_MATRIX = 25  # classes


def show(
  answers: answers_lib.Answers | None,
  report: Mapping[str, Any],
  class_names: Sequence[str],
) -> str:
  """The accuracy of each class, and what it is taken for."""
  if answers is None:
    return ''
  worst_first = sorted(
    report['classes'],
    key=lambda x: 2.0 if x['accuracy'] is None else x['accuracy'],
  )
  heads = 'class', 'test images', 'accuracy', '', 'mostly taken for'
  rows = [
    [
      elements.name(row['name']),
      f'{row["num_examples"]:,}',
      elements.percent(row['accuracy']),
      elements.bar(row['accuracy']),
      elements.name(row['mostly_taken_for']),
    ]
    for row in worst_first
  ]
  left = len(class_names) - len(rows)
  parts = [
    '<section>\n<h2>Classes</h2>',
    '<p class="note">Of the model read back from the file, the least accurate'
    f' first{f"; {left:,} more accurate ones are left out" if left else ""}.'
    '</p>',
    elements.tabulate_html([heads, *rows], kind='sortable'),
  ]
  if not report['confusions']:
    parts.append('<p>Not one test image is taken for another class.</p>')
  elif len(class_names) <= _MAX_MATRIX:
    parts += ['<h3>Confusion matrix</h3>', _draw_matrix(answers, class_names)]
  else:
    parts += ['<h3>The pairs that are confused most</h3>', _list_pairs(report)]
  return '\n'.join([*parts, '</section>'])


def _draw_matrix(
  answers: answers_lib.Answers, class_names: Sequence[str]
) -> str:
  matrix = answers_lib.count_matrix(answers, len(class_names))
  long = ' long' if max(map(len, class_names)) > 3 else ''
  most = max(int((matrix - np.diag(np.diag(matrix))).max()), 1)
  heads = ''.join(f'<th>{elements.name(name)}</th>' for name in class_names)
  lines = [f'<thead><tr><th></th>{heads}</tr></thead>', '<tbody>']
  for label, counts in enumerate(matrix.tolist()):
    cells = []
    for guess, count in enumerate(counts):
      is_right = guess == label
      shade = 0.12 + 0.5 * count / max(sum(counts) if is_right else most, 1)
      colour = f'var({"--right" if is_right else "--heat"}),{shade:.2f}'
      style = f' style="background:rgba({colour})"' if count else ''
      cells.append(f'<td{style}>{count or ""}</td>')
    lines.append(
      f'<tr><th>{elements.name(class_names[label])}</th>{"".join(cells)}</tr>'
    )
  return '\n'.join(
    [
      '<p class="note">A row for each class, a column for what its test images'
      ' are taken for.</p>',
      f'<div class="scroll"><table class="wide matrix{long}">',
      *lines,
      '</tbody></table></div>',
    ]
  )


def _list_pairs(report: Mapping[str, Any]) -> str:
  rows = [
    [
      elements.name(x['label']),
      elements.name(x['prediction']),
      f'{x["num_examples"]:,}',
    ]
    for x in report['confusions']
  ]
  return elements.tabulate_html([['class', 'taken for', 'test images'], *rows])
