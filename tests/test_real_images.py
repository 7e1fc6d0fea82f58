"""The program on sets as users have them: ImageNet's archives, a folder."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors import numpy as safetensors

from hq_jax import artifact
from hq_jax.data.sets import datasets
from hq_jax.data.tfds import lookup
from hq_jax.data.tfds import prepared
from tests import runs
from tests.data import fake_imagenet
from tests.data import pictures
from tests.models.pretrained import states


def _run(data_dir, *arguments, timeout=900):
  done = runs.run(data_dir, *arguments, timeout=timeout)
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.slow
def test_imagenet_from_its_archives_to_a_file(tmp_path):
  pytest.importorskip('tensorflow')
  data_dir = fake_imagenet.prepare(tmp_path)
  workdir = tmp_path / 'run'
  # The smaller network compiles in a third of the time.
  config = (
    '--config=configs/resnet50.py:debug',
    '--config.model.name=resnet18',
  )
  _run(data_dir, *config, f'--workdir={workdir}')
  report = json.loads((workdir / 'report.json').read_text())
  assert report['num_weights'] == 11_689_512 + 9_600
  assert report['ratio'] >= 30
  assert report['num_examples'] == 1000
  rows = [
    json.loads(x) for x in (workdir / 'metrics.jsonl').read_text().splitlines()
  ]
  assert [row['phase'] for row in rows] == ['dense', 'prune', 'ternary']
  assert [row['step'] for row in rows] == [10, 20, 30]
  assert all(np.isfinite(row['train_loss']) for row in rows)
  # And from the file alone, on every validation image once.
  path = workdir / 'model.hq'
  said = _run(data_dir, *config, f'--evaluate={path}')
  accuracy = report['file_accuracy']
  assert f'test accuracy {accuracy:.2%} on 1000 images' in said
  found = artifact.read(str(path))
  assert found.model == 'resnet18' and found.input_shape == (32, 32, 3)
  assert found.preprocessing['resize'] == 37
  folder = lookup.find('imagenet2012', data_dir)
  assert found.class_names == prepared.open_prepared(folder).class_names
  assert path.stat().st_size * 30 <= 4 * report['num_weights']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """60 pictures of three classes, two of which cannot be read."""
  return pictures.make_damaged_folder(
    tmp_path_factory.mktemp('pictures'),
    num_per_class=20,
    damaged=slice(5, 25, 19),
  )


def _config(folder, arguments):
  return (
    f'--config=configs/folder.py:data_dir={folder},batch_size=8,debug,'
    + arguments
  )


def _check_predictions(model, folder, report):
  """From the shell, as many are right as the evaluation has found."""
  test = datasets.load('folder', folder, image_size=8).test
  labels = {
    str(folder / name): f'class{label}'
    for name, label in zip(test.paths, test.labels, strict=True)
  }
  command = [sys.executable, '-m', 'hq_jax', 'predict', str(model), *labels]
  options = '--json', '--top=1', '--activations=float32'
  done = subprocess.run(
    [*command, *options], cwd=runs.ROOT, capture_output=True, text=True
  )
  lines = [json.loads(line) for line in done.stdout.splitlines()]
  assert [line['image'] for line in lines] == list(labels)
  answers = {
    line['image']: line['predictions'][0]['class']
    for line in lines
    if 'error' not in line
  }
  assert len(answers) == report['num_examples']
  num_right = sum(labels[path] == name for path, name in answers.items())
  np.testing.assert_allclose(num_right / len(answers), report['file_accuracy'])
  is_complete = len(answers) == len(labels)
  assert done.returncode == (0 if is_complete else 2)


@pytest.mark.slow
def test_a_folder_with_pretrained_weights(folder, tmp_path):
  weights = tmp_path / 'resnet18.safetensors'
  state = states.draw_state(states.load_recorded()['resnet18']['shapes'])
  safetensors.save_file(state, str(weights))
  workdir = tmp_path / 'run'
  arguments = _config(folder, f'pretrained={weights},distill=0.5')
  done = runs.run(folder, arguments, f'--workdir={workdir}')
  assert done.returncode == 0, done.stderr
  assert 'skipped, 2 of at most 10' in done.stderr
  found = artifact.read(str(workdir / 'model.hq'))
  assert found.class_names == ('class0', 'class1', 'class2')
  report = json.loads((workdir / 'report.json').read_text())
  assert 10 <= report['num_examples'] <= 12
  _check_predictions(workdir / 'model.hq', folder, report)
  # Training began with these weights: the statistics of a batch norm move by a
  # tenth of the way in a step, those of another start would be far away.
  assert report['config']['pretrained'] == str(weights)
  # Other weights of the same name are not gone on with.
  state['conv1.weight'] += 1
  safetensors.save_file(state, str(weights))
  done = runs.run(folder, arguments, f'--workdir={workdir}')
  assert done.returncode == 2
  assert 'config.pretrained holds other weights' in done.stderr


@pytest.mark.slow
def test_a_folder_goes_on_where_it_was_killed(folder, tmp_path):
  arguments = _config(folder, 'model=small_resnet,image_size=16')
  for name in ('whole', 'killed'):
    if name == 'killed':
      runs.run_and_stop(folder, tmp_path / name, 2, config=arguments)
      assert not (tmp_path / name / 'model.hq').exists()
    _run(folder, arguments, f'--workdir={tmp_path / name}')
  files = [tmp_path / name / 'model.hq' for name in ('whole', 'killed')]
  assert files[0].read_bytes() == files[1].read_bytes()
  # With an image more it is another folder.
  copy = shutil.copytree(folder, tmp_path / 'copy')
  shutil.copy(next(copy.rglob('*.png')), copy / 'class0' / 'new.png')
  other = arguments.replace(str(folder), str(copy))
  done = runs.run(folder, other, f'--workdir={tmp_path / "whole"}')
  assert done.returncode == 2
  assert 'images were added to config.data.data_dir' in done.stderr
