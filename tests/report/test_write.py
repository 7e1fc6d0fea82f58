"""The files of a report: all of them, whole, and nothing else."""

import json
import os
import re
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from hq_jax import report
from hq_jax.report import run_record

SIZES = {
  'cosine_distance.png': (1000, 540),
  'sizes.png': (1000, 400),
  'summary.png': (1000, 480),
  'training.png': (1000, 640),
  'weights.png': (1000, 520),
}
NAMES = {*SIZES, 'report.html', 'report.json', 'report.md'}
KEYS = [
  *('model', 'file', 'step', 'seed', 'commit', 'command', 'finished'),
  *('seconds', 'dense_bytes'),
  *('predicted_bytes', 'target_bytes', 'file_bytes', 'ratio', 'num_weights'),
  *('bits_per_weight', 'resident_bytes', 'num_examples'),
  *('unreadable_images', 'ignored_files'),
  *('dense_accuracy', 'dense_loss', 'ternary_accuracy'),
  *(
    'ternary_loss',
    'file_accuracy',
    'file_loss',
    'balanced_accuracy',
    'classes',
    'confusions',
    'parts',
    'container_bytes',
  ),
  *('layers', 'cosine_distance', 'history', 'config', 'hardware'),
]
COLOURS = {'dense': 0xEEEEEE, 'prune': 0xDCEAF5, 'ternary': 0xFCEBD2}


@pytest.fixture
def folder(tmp_path):
  path = tmp_path / 'run'
  path.mkdir()
  return path


def _contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def _decode(path):
  """The colours of a picture, as numbers."""
  with Image.open(path) as image:
    assert image.format == 'PNG'
    return np.asarray(image.convert('RGB')) @ (1 << 16, 1 << 8, 1)


def test_files_are_written_and_json_is_what_is_returned(folder, odd):
  before = json.dumps(odd.history)
  returned = report.write(str(folder), odd)
  assert json.dumps(odd.history) == before
  found = _contents(folder)
  assert found.keys() == NAMES

  def refuse(constant):
    raise AssertionError(f'{constant} is not JSON')

  read = json.loads(found['report.json'], parse_constant=refuse)
  assert read == returned and list(read) == KEYS
  assert read['config'] == odd.config and read['hardware'] == odd.hardware
  table = report.format_table(read)
  assert table == report.format_table(returned)
  assert max(map(len, table.splitlines())) < 80
  assert returned['file_bytes'] == os.path.getsize(odd.file_path)
  assert returned['ratio'] == odd.dense_bytes / os.path.getsize(odd.file_path)
  assert found['report.md'].decode().startswith(f'# {returned["model"]}: ')
  assert found['report.html'].decode().startswith('<!doctype html>')
  for name, (width, height) in SIZES.items():
    narrow = name == 'weights.png' and len(odd.dense_kernels) == 1
    pixels = _decode(folder / name)
    assert pixels.shape == (height, 480 if narrow else width)
    assert len(found[name]) < 150_000
    assert pixels[0, 0] == 0xFFFFFF
    assert len(np.unique(pixels)) > 10
  phases = {COLOURS[row['phase']] for row in odd.history}
  assert phases <= {*_decode(folder / 'training.png').ravel().tolist()}


@pytest.mark.parametrize('what', ['damaged', 'missing', 'history'])
def test_nothing_is_written_where_something_is_wrong(folder, tiny, what):
  path = folder.parent / 'other.hq'
  inputs = tiny._replace(file_path=str(path))
  message, error = 'other', ValueError
  if what == 'damaged':
    with open(tiny.file_path, 'rb') as file:
      path.write_bytes(file.read()[:-1])
  elif what == 'missing':
    error = FileNotFoundError
  else:
    inputs = tiny._replace(history=[{'step': 1}])
    message = "history[0] has no 'phase'"
  with pytest.raises(error, match=re.escape(message)):
    report.write(str(folder), inputs)
  assert _contents(folder) == {}


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (
      {'phase': 'warm'},
      "history[0].phase is 'warm', wanted one of dense, prune, ternary",
    ),
    ({'test_loss': 'x'}, "history[0].test_loss is 'x', wanted a number"),
    (
      {'sparsity': 0.5},
      'history[0].sparsity is 0.5, wanted a number for each kernel',
    ),
  ],
)
def test_a_row_that_no_run_has_written_is_named(tiny, fields, message):
  run_record.check_history(tiny.history)
  with pytest.raises(ValueError) as caught:
    run_record.check_history([tiny.history[0] | fields])
  assert str(caught.value) == message


def test_json_is_the_last_and_pictures_are_the_same_again(folder, tiny):
  report.write(str(folder), tiny)
  first = _contents(folder)
  (folder / 'report.md').unlink()
  # A folder in the place of a file: it cannot be replaced.
  (folder / 'report.md').mkdir()
  with pytest.raises(OSError, match='report'):
    report.write(str(folder), tiny._replace(seed=8))
  assert {path.name for path in folder.iterdir()} == NAMES
  for name in NAMES - {'report.md'}:
    assert (folder / name).read_bytes() == first[name]


def test_without_matplotlib_all_else_is_written(tiny, folder):
  program = f"""
import os, pathlib, sys
import numpy as np
from hq_jax import report
kernels = {{'k': np.eye(2, dtype=np.float32)}}
evaluation = {{'accuracy': 0.5, 'loss': 1.0, 'num_examples': 8}}
inputs = report.Inputs(
  kernels, kernels, {tiny.file_path!r}, 4000, 1000, evaluation, evaluation,
  evaluation, [], {{}}, 0, 'unknown', {{}})
sys.modules['matplotlib'] = None
report.write({str(folder)!r}, inputs)
print(sorted(os.listdir({str(folder)!r})))
print('.png' in pathlib.Path({str(folder / 'report.md')!r}).read_text())
del sys.modules['matplotlib']
report.write({str(folder)!r}, inputs)
# No window system is touched.
print({{'matplotlib.pyplot', 'jax'}} & set(sys.modules))
"""
  done = subprocess.run(
    [sys.executable, '-W', 'error', '-c', program],
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
  )
  assert done.stdout.splitlines() == [
    "['report.html', 'report.json', 'report.md']",
    'False',
    'set()',
  ]
  (line,) = done.stderr.splitlines()
  assert line.endswith(
    'the report has no pictures: they need matplotlib, pip install'
    " 'hq_jax[report]'"
  )
  assert _contents(folder).keys() == NAMES
