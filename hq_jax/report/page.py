"""The page of a report: one file that asks for no other."""

import base64
from collections.abc import Mapping, Sequence
import hashlib
from importlib import resources
import json
import shlex
import string
from typing import Any

from hq_jax.report import class_tables
from hq_jax.report import elements
from hq_jax.report import pictures
from hq_jax.report import run_record
from hq_jax.report import tables
from hq_jax.report import training_curves
from hq_jax.report import wording


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
    title=elements.text(
      f'{report["model"]}: {report["ratio"]:.2f} times smaller'
    ),
    origin=elements.text(wording.describe_origin(quantizer).replace('`', '')),
    facts=_list_facts(report),
    sizes=elements.tabulate(tables.main_rows(report)),
    ratio_note=elements.text(tables.describe_numbers(report)),
    epochs=elements.text(wording.describe_epochs(report)),
    parts=_tabulate_parts(report),
    classes=class_tables.show(inputs.answers, report, class_names),
    pictures=pictures.show(inputs, class_names),
    curves=training_curves.draw_all(inputs),
    layers=_tabulate_layers(report),
    layers_note=elements.text(wording.describe_layers(quantizer)),
    usage=_show_usage(report['file']),
    run=_tabulate_run(inputs, report),
    config=elements.text(
      json.dumps(inputs.config, indent=2, sort_keys=True), '\n'
    ),
    style=read('page.css'),
    script=script,
    script_hash=base64.b64encode(digest).decode(),
  )


def _list_facts(report: Mapping[str, Any]) -> str:
  file_bytes, dense_bytes = report['file_bytes'], report['dense_bytes']
  facts = (
    ('bytes', f'{file_bytes:,}', f'of {dense_bytes:,} in float32'),
    ('ratio', f'{report["ratio"]:.2f}', 'times smaller'),
    (
      'test accuracy',
      elements.percent(report['file_accuracy']),
      f'dense network: {elements.percent(report["dense_accuracy"])}',
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
  table = [[*map(elements.text, head), '']]
  for row, share in zip(rows, shares, strict=True):
    table.append([*map(elements.text, row), elements.bar(share)])
  return elements.tabulate_html(
    [*table, [*map(elements.text, total), '']], foot=1
  )


def _tabulate_layers(report: Mapping[str, Any]) -> str:
  rows = tables.layer_rows(report)
  return elements.tabulate(rows, foot=3, kind='sortable wide')


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
    f'<p>{where}</p>\n<pre>{elements.text(chr(10).join(lines), chr(10))}</pre>'
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
    f'<tr><td>{elements.text(name)}</td><td>{elements.text(value)}</td></tr>'
    for name, value in facts.items()
    if value
  ]
  command = f'<pre class="wrap">{elements.text(inputs.command)}</pre>'
  parts = [
    '<p>Command:</p>' + command if inputs.command else '',
    f'<div class="scroll"><table><tbody>{"".join(rows)}</tbody></table></div>',
  ]
  return '\n'.join(filter(None, parts))
