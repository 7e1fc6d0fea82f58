"""The tables: columns, alignment, and numbers as they are written."""

import json
import re

from hq_jax.report import tables
from hq_jax.report import wording
from tests import markdown
from tests.report import run_records

RESNET50 = {
  'dense_bytes': 102_228_128,
  'num_weights': 25_557_032,
  'resident_bytes': 25_650_000,
  'file_bytes': 3_400_000,
  'ratio': 102_228_128 / 3_400_000,
  'bits_per_weight': 8 * 3_400_000 / 25_557_032,
  'dense_accuracy': 0.7615,
  'ternary_accuracy': 0.74474,
  'file_accuracy': 0.74469,
}


def _write(inputs):
  """The numbers of a report, and its Markdown."""
  report, _ = run_records.summarize(inputs)
  return report, tables.format_markdown(report, has_pictures=True)


_TABLE = """\
model                    bytes    ratio    bits per weight    test accuracy
-----------------  -----------  -------  -----------------  ---------------
dense (float32)    102,228,128        -              32.00           76.15%
ternary in memory   25,650,000        -               8.03           74.47%
.hq file             3,400,000    30.07               1.06           74.47%
ratio: float32 bytes of all parameters and statistics / bytes of the file"""


def test_main_table_by_hand():
  assert tables.format_table(RESNET50) == _TABLE


def test_main_table_is_that_of_the__write(usual):
  report, text = _write(usual)
  terminal = [
    re.split(' {2,}', line)
    for line in tables.format_table(report).splitlines()[:-1]
  ]
  del terminal[1]
  main = markdown.read_tables(text)[0]
  terminal[-1][0] = '`model.hq`'
  assert main == terminal


def test_tables_have_their_columns_and_add_up(odd):
  report, text = _write(odd)
  _, parts, layers = markdown.read_tables(text)
  number = lambda text: int(text.replace(',', ''))
  *rows, total = [number(row[1]) for row in parts[1:]]
  assert sum(rows) == total == report['file_bytes']
  assert layers[0][5] == 'bytes'
  *rows, total = [number(row[5]) for row in layers[1:]]
  assert sum(rows) == total == report['file_bytes']
  assert len(layers) == 1 + len(odd.dense_kernels) + 3


def test_layer_row_by_hand(tiny):
  found = (0.25, 0.24, 0.03, 0.05)
  rows = [
    row | {'cosine_distance': {'k': distance}}
    for row, distance in zip(tiny.history, found, strict=True)
  ]
  _, text = _write(tiny._replace(history=rows))
  row = ['k', '2x2', '50.00%', '1.500', '32.000', '16', '0.2400', '0.0500']
  assert markdown.read_tables(text)[2][1] == row
  _, text = _write(tiny._replace(history=[]))
  assert markdown.read_tables(text)[2][1] == [*row[:-2], '-', '-']


def test_markdown_says_what_it_is_and_shows_every_picture(usual):
  report, text = _write(usual)
  claim = (
    "reconstruction of Hyperspherical Quantization from the paper's abstract"
  )
  assert text.count(claim) == 1
  assert sorted(re.findall(r'\]\((\w+\.png)\)', text)) == [
    'cosine_distance.png',
    'sizes.png',
    'summary.png',
    'training.png',
    'weights.png',
  ]
  assert f'{report["ratio"]:.2f} times smaller' in text.splitlines()[0]
  assert 'Seed 3, 1,500 steps, commit `0123abc`.' in text
  assert '"device": "1 x cpu"' in text


def test_a_name_cannot_break_a_table(make):
  _, text = _write(make(shapes={'a|b/kernel': (4, 4)}))
  assert markdown.read_tables(text)[2][1][0] == 'a\\|b/kernel'


def test_the_plan_and_skipped_images_are_named_where_there_were_some(tiny):
  report, text = _write(tiny)
  assert report['predicted_bytes'] is None and 'The plan was' not in text
  assert report['unreadable_images'] == [] and 'Skipped' not in text
  assert report['ignored_files'] == {} and 'Ignored' not in text
  size = report['file_bytes']
  names = ('a.jpg', 'b\n.jpg')
  report, text = _write(
    tiny._replace(
      predicted_bytes=4 * size,
      target_bytes=5 * size,
      unreadable=names,
      ignored={'.heic': 48, '.a\x1b[2J': 1},
    )
  )
  assert report['predicted_bytes'] == 4 * size
  assert f'The plan was {4 * size:,} bytes; the file is -75.00% off.' in text
  assert f'The target leaves {4 * size:,} bytes that are not used.' in text
  assert report['unreadable_images'] == list(names)
  assert "Skipped, as they cannot be read: 'a.jpg', 'b\\n.jpg'." in text
  assert report['ignored_files'] == {'.heic': 48, '.a\x1b[2J': 1}
  assert (
    'Ignored beside the images: 49 other files (48 .heic, 1 .a\\x1b[2J; HEIC'
    ' needs pillow-heif: pip install pillow-heif).' in text
  )


def test_another_quantizer_is_named(make):
  inputs = make(
    shapes={'a/kernel': (8, 4), 'b/kernel': (8, 4)},
    phases={'dense': 2, 'ternary': 2},
    config={'quantizer': {'name': 'vector'}},
  )
  before = json.dumps(inputs.history)
  history = wording.clean_history(inputs.history, 'vector')
  assert json.dumps(inputs.history) == before  # They were the caller's.
  report, text = _write(inputs._replace(history=history))
  assert text.startswith(
    f'# small_resnet: {report["ratio"]:.2f} times smaller\n\nMade with the'
    ' quantizer `vector`, to be compared with a reconstruction of'
    " Hyperspherical Quantization from the paper's abstract.\n"
  )
  table = tables.format_table(report).splitlines()
  assert table[3].startswith('vector in memory ')
  for words in ('ternary in', 'ternary pro', 'final sparsity', '(start)'):
    assert words not in text
  assert 'and its vector projection, at the end of training (end).' in text
  # Of dense weights there is no distance to speak of.
  (row,) = [x for x in markdown.read_tables(text)[2] if x[0] == 'a/kernel']
  distance = inputs.history[-1]['cosine_distance']['a/kernel']
  assert row[-2:] == ['-', f'{distance:.4f}']
  means = [row['mean_cosine_distance'] is None for row in report['history']]
  assert means == [True, True, False, False]
  assert None not in [row['mean_sparsity'] for row in report['history']]


def test_words_of_the_usual_run(usual):
  assert wording.clean_history(usual.history, 'ternary') == usual.history
  _, text = _write(usual)
  assert (
    'Made by a reconstruction of Hyperspherical Quantization from the paper'
    "'s abstract."
  ) in text
  assert (
    'Entropy: order 0, bits per code. Cosine distance: mean over channels of '
    '1 - cos between the latent kernel and its ternary projection at the final '
    'sparsity, at the end of the dense phase (start) and of training (end).'
  ) in text


def test_unequal_classes_have_a_mean_of_their_own():
  report = {'num_examples': 30, 'balanced_accuracy': 0.75}
  count = lambda *numbers: [{'num_examples': n} for n in numbers]
  text = tables.describe_numbers(report | {'classes': count(20, 10)})
  assert (
    "Classes have 10 to 20 of them: the mean of the classes' accuracies, each"
    ' counting alike, is 75.00%.'
  ) in text
  text = tables.describe_numbers(report | {'classes': count(14, 10)})
  assert 'counting alike' not in text
