"""The files of a report: all of them, whole, and nothing else."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from hq_jax import report

SIZES = {
  'cosine_distance.png': (1000, 540),
  'sizes.png': (1000, 400),
  'summary.png': (1000, 480),
  'training.png': (1000, 640),
  'weights.png': (1000, 520),
}
NAMES = {*SIZES, 'report.json', 'report.md'}


@pytest.fixture
def folder(tmp_path):
  path = tmp_path / 'run'
  path.mkdir()
  return path


def _contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_are_written_and_json_is_what_is_returned(folder, odd, decode):
  returned = report.write(str(folder), odd)
  found = _contents(folder)
  assert found.keys() == NAMES

  def refuse(constant):
    raise AssertionError(f'{constant} is not JSON')

  assert json.loads(found['report.json'], parse_constant=refuse) == returned
  assert returned['file_bytes'] == os.path.getsize(odd.file_path)
  assert returned['ratio'] == odd.dense_bytes / os.path.getsize(odd.file_path)
  assert found['report.md'].decode().startswith(f'# {returned["model"]}: ')
  for name, (width, height) in SIZES.items():
    narrow = name == 'weights.png' and len(odd.dense_kernels) == 1
    size, pixels = decode(found[name])
    assert size == (480 if narrow else width, height)
    assert len(found[name]) < 150_000
    assert tuple(pixels[0, 0]) == (255, 255, 255)
    assert len(np.unique(pixels @ (1 << 16, 1 << 8, 1))) > 10


def test_top_level_of_the_json(folder, usual):
  returned = report.write(str(folder), usual)
  assert list(returned) == [
    'model',
    'file',
    'step',
    'seed',
    'commit',
    'dense_bytes',
    'predicted_bytes',
    'file_bytes',
    'ratio',
    'num_weights',
    'bits_per_weight',
    'resident_bytes',
    'num_examples',
    'unreadable_images',
    'dense_accuracy',
    'dense_loss',
    'ternary_accuracy',
    'ternary_loss',
    'file_accuracy',
    'file_loss',
    'parts',
    'container_bytes',
    'layers',
    'cosine_distance',
    'history',
    'config',
    'hardware',
  ]
  assert returned['config'] == usual.config
  assert returned['hardware'] == usual.hardware


def test_the_table_ends_the_console_output(folder, usual):
  returned = report.write(str(folder), usual)
  with open(folder / 'report.json', encoding='utf-8') as file:
    table = report.format_table(json.load(file))
  assert table == report.format_table(returned)
  assert max(map(len, table.splitlines())) < 80


def test_again_gives_the_same_bytes(folder, tiny):
  report.write(str(folder), tiny)
  first = _contents(folder)
  report.write(str(folder), tiny)
  assert _contents(folder) == first


def test_inputs_stay_as_they_are(folder, usual):
  before = json.dumps(usual.history), usual.dense_kernels['head/kernel'].copy()
  report.write(str(folder), usual)
  assert json.dumps(usual.history) == before[0]
  assert (usual.dense_kernels['head/kernel'] == before[1]).all()


@pytest.mark.parametrize('what', ['damaged', 'wrong', 'missing'])
def test_nothing_is_written_where_something_is_wrong(folder, tiny, what):
  path = folder.parent / 'other.hq'
  if what == 'damaged':
    with open(tiny.file_path, 'rb') as file:
      path.write_bytes(file.read()[:-1])
  inputs = tiny if what == 'wrong' else tiny._replace(file_path=str(path))
  if what == 'wrong':
    inputs = tiny._replace(dense_bytes=-1)
  error = FileNotFoundError if what == 'missing' else ValueError
  with pytest.raises(
    error, match='dense_bytes' if what == 'wrong' else 'other'
  ):
    report.write(str(folder), inputs)
  assert _contents(folder) == {}


def test_json_is_the_last_and_a_failure_leaves_the_old_one(folder, tiny):
  report.write(str(folder), tiny)
  old = (folder / 'report.json').read_bytes()
  (folder / 'report.md').unlink()
  # A folder in the place of a file: it cannot be replaced.
  (folder / 'report.md').mkdir()
  with pytest.raises(OSError, match='report'):
    report.write(str(folder), tiny._replace(seed=8))
  assert (folder / 'report.json').read_bytes() == old
  assert {path.name for path in folder.iterdir()} == NAMES


def test_no_window_system_is_touched(tiny, folder):
  program = f"""
import sys
import numpy as np
from hq_jax import report
kernels = {{'k': np.eye(2, dtype=np.float32)}}
evaluation = {{'accuracy': 0.5, 'loss': 1.0, 'num_examples': 8}}
report.write({str(folder)!r}, report.Inputs(
  kernels, kernels, {tiny.file_path!r}, 4000, 1000, evaluation, evaluation,
  evaluation, [], {{}}, 0, 'unknown', {{}}))
assert 'matplotlib.pyplot' not in sys.modules
assert 'jax' not in sys.modules
"""
  done = subprocess.run(
    [sys.executable, '-W', 'error', '-c', program],
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
