"""The tables of a report, for Markdown and for a terminal."""

from collections.abc import Mapping, Sequence
import json
from typing import Any

import tabulate

from hq_jax.data.sets import image_files
from hq_jax.report import results
from hq_jax.report import wording
from hq_jax.runtime import terminal

_RATIO = (
  'ratio: float32 bytes of all parameters and statistics / bytes of the file'
)

# What the parts are called; a part that is not here goes by its own name.
_PARTS = {
  'preamble': 'preamble and section table',
  'header': 'header: model, preprocessing, class names, tensors',
  'ternary_codes': 'ternary codes, entropy-coded',
  'model_tables': "frequencies of the codes' models",
  'indices': 'indices of codewords, entropy-coded',
  'scales': 'scales of kernels',
  'codewords': 'codewords of kernels',
  'activation_ranges': 'activation ranges',
  'ancillary': 'ancillary sections',
}


def format_table(report: Mapping[str, Any]) -> str:
  """The main table, aligned for a terminal of 80 columns."""
  return f'{_tabulate(main_rows(report), "simple")}\n{_RATIO}'


def format_markdown(report: Mapping[str, Any], has_pictures: bool) -> str:
  """The whole of `report.md`."""
  quantizer = wording.get_quantizer(report['config'])
  main = main_rows(report)
  main[-1][0] = f'`{report["file"]}`'
  record = {key: report[key] for key in ('config', 'hardware')}
  sections = [
    f'# {report["model"]}: {report["ratio"]:.2f} times smaller',
    wording.describe_origin(quantizer),
    _tabulate(main),
    describe_numbers(report),
    wording.describe_epochs(report),
    '![accuracy against bytes, cosine distance over training](summary.png)',
    '## Bytes by part of the file',
    _tabulate(part_rows(report)),
    '![bytes](sizes.png)',
    '## Layers',
    _tabulate(layer_rows(report)),
    wording.describe_layers(quantizer),
    '![cosine distance](cosine_distance.png)',
    '![weights](weights.png)',
    '## Run',
    f'Seed {report["seed"]}, {report["step"]:,} steps, commit '
    f'`{report["commit"]}`.',
    '![training](training.png)',
    f'```json\n{json.dumps(record, indent=2, sort_keys=True)}\n```',
  ]
  if not has_pictures:
    sections = [x for x in sections if not x.startswith('![')]
  return '\n\n'.join(filter(None, sections)) + '\n'


def describe_numbers(report: Mapping[str, Any]) -> str:
  """Sentences that say what the numbers of the main table are."""
  return (
    f'{_RATIO[0].upper()}{_RATIO[1:]}. Test accuracy: on '
    f'{report["num_examples"]:,} images; that of the file is measured on the '
    f'model read back from it.{_balanced(report)}{_planned(report)}'
    f'{_skipped(report)}'
  )


def _balanced(report: Mapping[str, Any]) -> str:
  balanced = report.get('balanced_accuracy')
  counts = [row['num_examples'] for row in report.get('classes', ())]
  if balanced is None or not counts or max(counts) < 1.5 * min(counts):
    return ''
  return (
    f' Classes have {min(counts):,} to {max(counts):,} of them: the mean of'
    f" the classes' accuracies, each counting alike, is {balanced:.2%}."
  )


def _planned(report: Mapping[str, Any]) -> str:
  predicted = report.get('predicted_bytes')
  if predicted is None:
    return ''
  num_bytes = report['file_bytes']
  off = num_bytes / predicted - 1
  text = f' The plan was {predicted:,} bytes; the file is {off:+.2%} off.'
  target = wording.describe_target(report)
  return f'{text} {target}'.rstrip()


def _skipped(report: Mapping[str, Any]) -> str:
  text = ''
  if names := report.get('unreadable_images'):
    text += f' Skipped, as they cannot be read: {", ".join(map(repr, names))}.'
  if ignored := report.get('ignored_files'):
    kinds = image_files.describe_ignored(ignored)
    text += f' Ignored beside the images: {sum(ignored.values()):,} other files'
    text += f' ({terminal.escape(kinds)}).'
  return text


def main_rows(report: Mapping[str, Any]) -> list[list[str]]:
  """The dense network, the one in memory and the file, below their heads."""
  quantizer = wording.get_quantizer(report.get('config', {}))
  rows = [['model', 'bytes', 'ratio', 'bits per weight', 'test accuracy']]
  for name, size, ratio, evaluation in (
    ('dense (float32)', 'dense_bytes', '-', 'dense'),
    (f'{quantizer} in memory', 'resident_bytes', '-', 'ternary'),
    ('.hq file', 'file_bytes', f'{report["ratio"]:.2f}', 'file'),
  ):
    bits = 8 * report[size] / report['num_weights']
    accuracy = report[f'{evaluation}_accuracy']
    row = [f'{report[size]:,}', ratio, f'{bits:.2f}', f'{accuracy:.2%}']
    rows.append([name, *row])
  return rows


def name_part(part: str) -> str:
  """What a part of the file is called in words."""
  return _PARTS.get(part, f'{part} values: norms and biases')


def part_rows(report: Mapping[str, Any]) -> list[list[str]]:
  """The parts of the file and, last, their sum, below their heads."""
  file_bytes = report['file_bytes']
  rows = [
    [name_part(part), f'{num_bytes:,}', f'{num_bytes / file_bytes:.2%}']
    for part, num_bytes in report['parts'].items()
  ]
  return [
    ['part', 'bytes', 'of the file'],
    *rows,
    ['all', f'{file_bytes:,}', '100.00%'],
  ]


def layer_rows(report: Mapping[str, Any]) -> list[list[str]]:
  """The kernels and, last, three rows of the rest, below their heads."""
  heads = ['kernel', 'shape', 'zeros', 'entropy', 'bits per weight', 'bytes']
  heads += ['cosine distance: start', 'end']
  kernels = {x['path']: x for x in report['layers'] if x['is_kernel']}
  others = [x for x in report['layers'] if not x['is_kernel']]
  order = results.sort_kernels({p: x['shape'] for p, x in kernels.items()})
  rows = [_layer_row(kernels[path]) for path in order]
  for name, num_bytes in (
    (f'{len(others)} other tensors', sum(x['bytes'] for x in others)),
    ('preamble, header, ranges', report['container_bytes']),
    ('all', report['file_bytes']),
  ):
    rows.append([name, '', '', '', '', f'{num_bytes:,}', '', ''])
  return [heads, *rows]


def _layer_row(layer: Mapping[str, Any]) -> list[str]:
  number = lambda value, form: '-' if value is None else format(value, form)
  return [
    layer['path'].removeprefix(results.PREFIX),
    'x'.join(map(str, layer['shape'])),
    f'{layer["zeros"]:.2%}',
    number(layer['entropy_bits'], '.3f'),
    f'{layer["bits_per_weight"]:.3f}',
    f'{layer["bytes"]:,}',
    number(layer['cosine_distance_start'], '.4f'),
    number(layer['cosine_distance_end'], '.4f'),
  ]


def _tabulate(rows: Sequence[Sequence[str]], style: str = 'pipe') -> str:
  """A table, by default for Markdown; all but the first column are numbers."""
  if style == 'pipe':
    rows = [[cell.replace('|', '\\|') for cell in row] for row in rows]
  return tabulate.tabulate(
    rows,
    headers='firstrow',
    tablefmt=style,
    disable_numparse=True,
    colalign=('left', *['right'] * (len(rows[0]) - 1)),
  )
