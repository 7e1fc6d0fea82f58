"""What is in examples/ runs, from a folder of its own."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from tests import runs

# Runs what a notebook would, cell by cell.
_NOTEBOOK = """
import json, sys
names = {}
for cell in json.load(open(sys.argv[1]))['cells']:
  if cell['cell_type'] == 'code':
    exec(''.join(cell['source']).replace('epochs=15', 'epochs=3'), names)
"""


@pytest.fixture(scope='module')
def examples(tmp_path_factory):
  folder = tmp_path_factory.mktemp('examples') / 'examples'
  return shutil.copytree(runs.ROOT / 'examples', folder)


def _run(examples, data_dir, *arguments):
  environment = runs.quick_environment(data_dir) | {
    'PYTHONPATH': str(runs.ROOT)
  }
  done = subprocess.run(
    [sys.executable, *arguments],
    cwd=examples,
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.slow
def test_a_loop_of_ones_own_ends_with_a_file_that_answers_alike(
  examples, data_dir
):
  said = _run(examples, data_dir, 'own_loop.py', 'a.hq')
  (ratio,) = re.findall(r'a\.hq: [\d,]+ bytes, ([\d.]+) times smaller', said)
  assert float(ratio) > 20
  (accuracy,) = re.findall(r'accuracy of the file: ([\d.]+)%', said)
  assert float(accuracy) > 90
  (difference,) = re.findall(r'by ([\d.]+) at most', said)
  assert float(difference) < 0.05


@pytest.mark.slow
def test_a_folder_of_pictures_becomes_a_file(examples, data_dir):
  arguments = '--workdir=run', '--epochs=3'
  said = _run(examples, data_dir, 'pictures.py', *arguments)
  assert 'classes: 3: chequered, horizontal, vertical\n' in said
  assert (examples / 'run' / 'model.hq').exists()
  answers = re.findall(r'^run_pictures/(\w+)/000\.png: \w+ \(', said, re.M)
  assert answers == ['chequered', 'horizontal', 'vertical']


@pytest.mark.slow
def test_the_notebook_serves_what_it_has_trained(examples, data_dir):
  said = _run(examples, data_dir, '-c', _NOTEBOOK, 'pictures.ipynb')
  assert re.search(r'^http://127\.0\.0\.1:\d+ serves patterns_run/', said, re.M)
  (answer,) = re.findall(r"'classes': \[(.*?)\]", said)
  assert sorted(answer.split(', ')) == [
    "'chequered'",
    "'horizontal'",
    "'vertical'",
  ]


def test_the_notebook_has_no_output():
  text = (runs.ROOT / 'examples' / 'pictures.ipynb').read_text()
  cells = json.loads(text)['cells']
  assert not any(cell.get('outputs') for cell in cells)
