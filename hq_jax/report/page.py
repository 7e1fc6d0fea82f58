"""The page of a report: one file that asks for no other."""

import base64
from collections.abc import Mapping, Sequence
import hashlib
import html
from importlib import resources
import io
import json
import math
import shlex
import string
from typing import Any

import numpy as np
from PIL import Image

from hq_jax.report import answers as answers_lib
from hq_jax.report import curves
from hq_jax.report import results
from hq_jax.report import run_record
from hq_jax.report import tables
from hq_jax.report import wording
from hq_jax.runtime import terminal

_MAX_SIDE = 96  # pixels of a picture
_MAX_MATRIX = 25  # classes
_MAX_NAME = 60  # characters


def render(
  inputs: run_record.Inputs,
  report: Mapping[str, Any],
  class_names: Sequence[str],
) -> str:
  """The whole of `report.html`."""
  read = lambda name: (
    resources.files('hq_jax.report').joinpath(name).read_text('utf-8')
  )
  script = read('page.js')
  digest = hashlib.sha256(script.encode()).digest()
  quantizer = wording.get_quantizer(inputs.config)
  return string.Template(read('page.html')).substitute(
    title=_text(f'{report["model"]}: {report["ratio"]:.2f} times smaller'),
    origin=_text(wording.describe_origin(quantizer).replace('`', '')),
    facts=_list_facts(report),
    sizes=_tabulate(tables.main_rows(report)),
    ratio_note=_text(tables.describe_numbers(report)),
    epochs=_text(wording.describe_epochs(report)),
    parts=_tabulate_parts(report),
    classes=_show_classes(inputs.answers, report, class_names),
    pictures=_show_pictures(inputs, class_names),
    curves=_draw_curves(inputs),
    layers=_tabulate_layers(report),
    layers_note=_text(wording.describe_layers(quantizer)),
    usage=_show_usage(report['file']),
    run=_tabulate_run(inputs, report),
    config=_text(json.dumps(inputs.config, indent=2, sort_keys=True), '\n'),
    style=read('page.css'),
    script=script,
    script_hash=base64.b64encode(digest).decode(),
  )


def _text(text: str, kept: str = '') -> str:
  """Text that nothing can break out of, or turn the direction of."""
  shown = (c if c in kept else terminal.escape(c) for c in text)
  return html.escape(''.join(shown))


def _name(name: str | None) -> str:
  """The name of a class, cut where it is long."""
  if name is None:
    return '-'
  cut = name if len(name) <= _MAX_NAME else f'{name[: _MAX_NAME - 1]}…'
  return f'<bdi class="name" title="{_text(cut)}">{_text(cut)}</bdi>'


def _percent(fraction: float | None) -> str:
  is_there = fraction is not None and math.isfinite(fraction)
  return f'{fraction:.2%}' if is_there else '-'


def _bar(fraction: float | None) -> str:
  width = 100 * min(max(fraction or 0.0, 0.0), 1.0)
  return f'<span class="bar"><i style="width:{width:.1f}%"></i></span>'


def _tabulate(
  rows: Sequence[Sequence[str]], foot: int = 0, kind: str = ''
) -> str:
  """A table whose first row is the head, and the last `foot` rows the foot."""
  return _tabulate_html(
    [[_text(cell) for cell in row] for row in rows], foot, kind
  )


def _tabulate_html(
  rows: Sequence[Sequence[str]], foot: int = 0, kind: str = ''
) -> str:
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


def _list_facts(report: Mapping[str, Any]) -> str:
  file_bytes, dense_bytes = report['file_bytes'], report['dense_bytes']
  facts = (
    ('bytes', f'{file_bytes:,}', f'of {dense_bytes:,} in float32'),
    ('ratio', f'{report["ratio"]:.2f}', 'times smaller'),
    (
      'test accuracy',
      _percent(report['file_accuracy']),
      f'dense network: {_percent(report["dense_accuracy"])}',
    ),
    ('bits per weight', f'{report["bits_per_weight"]:.3f}', 'of 32'),
  )
  return '\n'.join(
    f'<div><dt>{name}</dt><dd>{value}<small>{more}</small></dd></div>'
    for name, value, more in facts
  )


def _tabulate_parts(report: Mapping[str, Any]) -> str:
  head, *rows, total = tables.part_rows(report)
  shares = [size / report['file_bytes'] for size in report['parts'].values()]
  table = [[*map(_text, head), '']]
  for row, share in zip(rows, shares, strict=True):
    table.append([*map(_text, row), _bar(share)])
  return _tabulate_html([*table, [*map(_text, total), '']], foot=1)


def _show_classes(
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
      _name(row['name']),
      f'{row["num_examples"]:,}',
      _percent(row['accuracy']),
      _bar(row['accuracy']),
      _name(row['mostly_taken_for']),
    ]
    for row in worst_first
  ]
  left = len(class_names) - len(rows)
  parts = [
    '<section>\n<h2>Classes</h2>',
    '<p class="note">Of the model read back from the file, the least accurate'
    f' first{f"; {left:,} more accurate ones are left out" if left else ""}.'
    '</p>',
    _tabulate_html([heads, *rows], kind='sortable'),
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
  rows = ['', *(f'<th>{_name(name)}</th>' for name in class_names)]
  lines = [f'<thead><tr><th></th>{"".join(rows)}</tr></thead>', '<tbody>']
  for label, counts in enumerate(matrix.tolist()):
    cells = []
    for guess, count in enumerate(counts):
      colour, full = (
        ('--right', sum(counts))
        if guess == label
        else (
          '--heat',
          most,
        )
      )
      shade = 0.12 + 0.5 * count / max(full, 1) if count else 0.0
      style = f' style="background:rgba(var({colour}),{shade:.2f})"'
      cells.append(f'<td{style if count else ""}>{count or ""}</td>')
    lines.append(
      f'<tr><th>{_name(class_names[label])}</th>{"".join(cells)}</tr>'
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
    [_name(x['label']), _name(x['prediction']), f'{x["num_examples"]:,}']
    for x in report['confusions']
  ]
  return _tabulate_html([['class', 'taken for', 'test images'], *rows])


def _show_pictures(
  inputs: run_record.Inputs, class_names: Sequence[str]
) -> str:
  if inputs.answers is None or not inputs.pictures:
    return ''
  parts = ['<section>']
  for heading, note, chosen, kind in (
    (
      'The worst mistakes',
      'Test images, as the model sees them, of whose wrong class it is surest.',
      answers_lib.find_worst(inputs.answers),
      'wrong',
    ),
    (
      'Some right answers',
      'Spread over the classes.',
      answers_lib.find_right(inputs.answers),
      'right',
    ),
  ):
    figures = [
      _show_picture(inputs.pictures[place], kind, class_names, *answer)
      for place, *answer in zip(*map(np.ndarray.tolist, chosen), strict=True)
      if place in inputs.pictures
    ]
    if figures:
      parts += [
        f'<h2>{heading}</h2>\n<p class="note">{note}</p>',
        f'<div class="pictures">{"".join(figures)}</div>',
      ]
  return '\n'.join([*parts, '</section>'])


def _show_picture(
  image: np.ndarray,
  kind: str,
  class_names: Sequence[str],
  label: int,
  prediction: int,
  probability: float,
  label_probability: float,
) -> str:
  smooth = '' if max(image.shape[:2]) < _MAX_SIDE // 2 else ' class="smooth"'
  data = base64.b64encode(to_png(image)).decode()
  caption = (
    f'<span class="{kind}">{"taken for " if label != prediction else ""}'
    f'{_name(class_names[prediction])}: {_percent(probability)}</span>'
  )
  if label != prediction:
    caption += (
      f'<br>is {_name(class_names[label])}: {_percent(label_probability)}'
    )
  return (
    f'<figure><img{smooth} src="data:image/png;base64,{data}"'
    f' alt="A test image"><figcaption>{caption}</figcaption></figure>\n'
  )


def to_png(image: np.ndarray) -> bytes:
  """A picture of uint8 `[h, w, c]`, made smaller where it is large."""
  pixels = image if image.shape[-1] == 3 else image[..., 0]
  picture = Image.fromarray(np.ascontiguousarray(pixels))
  picture.thumbnail((_MAX_SIDE, _MAX_SIDE))
  buffer = io.BytesIO()
  picture.save(buffer, 'PNG', optimize=True)
  return buffer.getvalue()


def _draw_curves(inputs: run_record.Inputs) -> str:
  history, quantizer = inputs.history, wording.get_quantizer(inputs.config)
  if not history:
    return '<p>No epoch was recorded.</p>'
  phases = curves.list_phases(history, quantizer)
  first_epoch = history[0]['epoch']
  get = lambda name: [row[name] for row in history]
  both = lambda name: [
    curves.Curve(split, get(f'{split}_{name}')) for split in ('train', 'test')
  ]
  levels = [
    ('dense', inputs.dense['accuracy']),
    ('file', inputs.file['accuracy']),
  ]
  tests = [x for x in get('test_accuracy') if x is not None and x == x]
  lowest = min(levels[0][1], levels[1][1], *tests[len(tests) // 4 :], 1.0)
  span = max(1 - lowest, 0.02)
  accuracy = curves.draw(
    'Accuracy over the epochs',
    phases,
    both('accuracy'),
    # The first epochs, which are far below the rest, are cut off.
    curves.Axis(max(lowest - 0.5 * span, 0.0), 1.0),
    lambda x: f'{x:.3%}'.rstrip('0%').rstrip('.') + '%',
    first_epoch=first_epoch,
    levels=levels,
  )
  losses = both('loss')
  values = [x for curve in losses for x in curve.values]
  loss = curves.draw(
    'Loss over the epochs',
    phases,
    losses,
    curves.fit_axis(values),
    lambda x: f'{x:.3g}',
    first_epoch=first_epoch,
  )
  distances = results.get_distances(history, list(inputs.dense_kernels))
  mean, low, high = (
    summary.filled(np.nan).tolist()
    for summary in (
      distances.mean(axis=1),
      distances.min(axis=1),
      distances.max(axis=1),
    )
  )
  distance = curves.draw(
    'Cosine distance over the epochs',
    phases,
    [curves.Curve('mean', mean)],
    curves.fit_axis(high, from_zero=True),
    lambda x: f'{x:.3g}',
    first_epoch=first_epoch,
    band=list(zip(low, high, strict=True)),
  )
  dense, file = (f'{name} {_percent(value)}' for name, value in levels)
  figures = (
    (
      'Accuracy',
      (('train', 'train'), ('test', 'test'), ('dense', dense), ('file', file)),
      accuracy,
    ),
    ('Loss', (('train', 'train'), ('test', 'test')), loss),
    (
      f'Cosine distance to {quantizer}',
      (('mean', 'mean and range of kernels'),),
      distance,
    ),
  )
  captioned = [
    f'<figure><figcaption><b>{_text(name)}</b>{_draw_legend(legend)}'
    f'</figcaption>\n{svg}</figure>'
    for name, legend, svg in figures
  ]
  return '<div class="curves">\n' + '\n'.join(captioned) + '\n</div>'


def _draw_legend(legend: Sequence[tuple[str, str]]) -> str:
  dashed = {'dense', 'file'}
  return ' '.join(
    f'<span class="curve-{kind}">{"╌" if kind in dashed else "━"}'
    f' {_text(label)}</span>'
    for kind, label in legend
  )


def _tabulate_layers(report: Mapping[str, Any]) -> str:
  rows = tables.layer_rows(report)
  return _tabulate(rows, foot=3, kind='sortable wide')


def _show_usage(file: str) -> str:
  path = shlex.quote(file)
  shell = [
    '# The classes of a picture, the likeliest first',
    f'hq-jax predict {path} picture.jpg',
    '# A page and an API to try it with',
    f'hq-jax serve {path}',
    '# For other programs',
    f'hq-jax export {path} --to onnx',
    '# What is in it',
    f'hq-jax inspect {path}',
  ]
  python = [
    'import hq_jax',
    '',
    f'classifier = hq_jax.load({file!r})',
    "print(classifier.predict('picture.jpg', top=5))",
  ]
  return '\n'.join(
    f'<p>{where}</p>\n<pre>{_text(chr(10).join(lines), chr(10))}</pre>'
    for where, lines in (
      ('In a shell, in the folder of this page:', shell),
      ('In Python:', python),
    )
  )


def _tabulate_run(inputs: run_record.Inputs, report: Mapping[str, Any]) -> str:
  facts = {
    'file': report['file'],
    'finished': inputs.finished,
    'seed': f'{report["seed"]}',
    'steps': f'{report["step"]:,}',
    'time': f'{report["seconds"]:,.0f} s in {len(report["history"])} epochs',
    'commit': report['commit'],
    **inputs.hardware,
  }
  rows = [
    f'<tr><td>{_text(name)}</td><td>{_text(value)}</td></tr>'
    for name, value in facts.items()
    if value
  ]
  command = f'<pre class="wrap">{_text(inputs.command)}</pre>'
  parts = [
    '<p>Command:</p>' + command if inputs.command else '',
    f'<div class="scroll"><table><tbody>{"".join(rows)}</tbody></table></div>',
  ]
  return '\n'.join(filter(None, parts))
