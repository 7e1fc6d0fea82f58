"""The program as it is started from a shell: its words and exit statuses."""

import json
import re

import numpy as np
import pytest

from hq_jax import artifact
from tests import runs


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory, data_dir):
  """A debug run from beginning to end: its folder and what it printed."""
  workdir = tmp_path_factory.mktemp('whole') / 'workdir'
  done = runs.run(data_dir, *runs.SMALL, f'--workdir={workdir}')
  assert done.returncode == 0, done.stderr
  return workdir, done


def test_a_run_says_what_it_does_and_where_its_files_are(uninterrupted):
  workdir, done = uninterrupted
  lines = done.stdout.splitlines()
  assert lines[:4] == [
    'network: small_resnet, 1,410 parameters and statistics, for images of'
    ' 8x8x1',
    'classes: 10: 0, 1, 2, 3, 4, and 5 more',
    'images: 1,297 to train on, 500 to test on',
    'epochs: 2 dense, 2 prune, 2 ternary; each 20 batches of 64, 17 images left'
    ' for the next',
  ]
  assert lines[4].startswith('plan: ')
  assert lines[5].startswith('more than 99% zeros in 2 of 4 ternary kernels: ')
  assert lines[6].startswith('weight decay 0.0001 acts on kernels that ')
  epochs = lines[7:13]
  for number, line in enumerate(epochs, 1):
    assert re.search(rf' epoch {number} of 6  train loss .*\d s', line), line
    assert line.endswith(' left') == (number < 6)
  path = workdir / 'model.hq'
  assert lines[-4:-1] == [
    'The dense network had 2 epochs, the one in the file those and 4 more;'
    ' after all 6 the dense one may be more accurate.',
    f'model: {path}',
    f'more: {workdir}/report.html, {workdir}/report.md, {workdir}/checkpoints',
  ]
  assert lines[-1].endswith(f' predict {path} IMAGE')
  assert '\r' not in done.stdout + done.stderr
  assert done.stderr == ''
  report = json.loads((workdir / 'report.json').read_text())
  table = done.stdout[done.stdout.index(epochs[-1]) :]
  assert f'{report["file_bytes"]:,}' in table
  assert f'{report["dense_bytes"]:,}' in table
  wanted = {
    'dense_bytes',
    'file_bytes',
    'ratio',
    'dense_accuracy',
    'file_accuracy',
    'bits_per_weight',
    'seed',
    'commit',
  }
  assert wanted <= report.keys()


def test_evaluate_reads_the_file_alone(uninterrupted, data_dir):
  workdir, _ = uninterrupted
  report = json.loads((workdir / 'report.json').read_text())
  done = runs.run(
    data_dir, f'--config={runs.DEBUG}', f'--evaluate={workdir / "model.hq"}'
  )
  assert done.returncode == 0, done.stderr
  assert f'test accuracy {report["file_accuracy"]:.2%}' in done.stdout


def refused_in_one_line(data_dir, workdir, *arguments):
  """What a refused run says; its folder is as it was before."""
  files = sorted(path for path in workdir.rglob('*') if path.is_file())
  before = [path.read_bytes() for path in files]
  done = runs.run(data_dir, f'--workdir={workdir}', *arguments)
  assert (done.returncode, done.stdout) == (2, '')
  said = runs.only_line(done)
  after = sorted(path for path in workdir.rglob('*') if path.is_file())
  assert after == files
  assert [path.read_bytes() for path in files] == before
  return said


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (
      ['--config.recipe.sparsty=0.9'],
      ['config.recipe.sparsty', "'0.9'", 'did you mean recipe.sparsity?'],
    ),
    (['--config.seed=many'], ['config.seed', "'many'"]),
    (['--config.recipe.sparsity=1.5'], ['config.recipe.sparsity is 1.5']),
    # Of fields that may not be None; those that may are set to it.
    (['--config.batch_size=None'], ['config.batch_size', "'None'"]),
    (
      ['--config=configs/folder.py:data_dir=x', '--config.data.data_dir=None'],
      ['config.data.data_dir is None'],
    ),
    (['--config=configs/digits.py:ratio=big'], ['ratio', "'big'", 'float']),
    (
      ['--config=configs/digits.py:ratio=1000'],
      ['config.target_ratio is 1000', 'bytes'],
    ),
    (['--config=configs/none.py'], ['configs/none.py', 'a name: cifar10, d']),
    ([], ['config is missing']),
    (['again'], ["'again'"]),
    (['--nope'], ['nope']),
  ],
)
def test_wrong_flags_are_one_line(tmp_path, data_dir, arguments, words):
  if arguments and not arguments[0].startswith('--config='):
    arguments = ['--config=configs/digits.py', *arguments]
  said = refused_in_one_line(data_dir, tmp_path / 'w', *arguments)
  for word in words:
    assert word in said
  assert not (tmp_path / 'w').exists()


@pytest.mark.parametrize('flag', ['--workdir=', '--evaluate='])
def test_a_small_address_space_is_one_line(data_dir, tmp_path, flag):
  # In so much, training went on for ever, without a word.
  words = runs.command(f'--config={runs.DEBUG}', f'{flag}{tmp_path / "w"}')
  env = runs.environment(data_dir)
  with runs.start(runs.limited(2_000_000, words), env) as running:
    done = running.finish()
  assert (done.returncode, done.stdout) == (2, '')
  assert runs.only_line(done).startswith(
    'hq_jax: the address space is limited to 2,048,000,000 bytes, wanted at'
    ' least 3,'
  )
  assert not (tmp_path / 'w').exists()


def test_the_workdir_of_another_config_is_one_line(uninterrupted, data_dir):
  workdir, _ = uninterrupted
  said = refused_in_one_line(data_dir, workdir, *runs.SMALL, '--config.seed=5')
  assert 'config.seed is 0 there and 5 here' in said


def test_a_damaged_model_in_the_workdir_is_one_line(uninterrupted, data_dir):
  workdir, _ = uninterrupted
  path = workdir / 'model.hq'
  good = path.read_bytes()
  path.write_bytes(good[:-1])
  try:
    said = refused_in_one_line(data_dir, workdir, *runs.SMALL)
    assert str(path) in said
  finally:
    path.write_bytes(good)


@pytest.mark.parametrize('is_there', [False, True])
def test_a_bad_file_is_one_line(uninterrupted, data_dir, tmp_path, is_there):
  workdir, _ = uninterrupted
  path = tmp_path / 'bad.hq'
  if is_there:
    path.write_bytes((workdir / 'model.hq').read_bytes()[:-1])
  done = runs.run(data_dir, f'--config={runs.DEBUG}', f'--evaluate={path}')
  assert done.returncode == 2
  assert str(path) in runs.only_line(done)


def test_names_from_a_file_are_escaped(uninterrupted, data_dir, tmp_path):
  workdir, _ = uninterrupted
  found = artifact.read(workdir / 'model.hq')
  path = tmp_path / 'named.hq'
  named = {'params/\x1b]0;x\x07\x1b[31m': np.ones(2, np.float16)}
  artifact.write(path, found._replace(tensors=found.tensors | named))
  for arguments in (
    [f'--evaluate={path}'],
    [f'--config.pretrained={path}', f'--workdir={tmp_path / "w"}'],
  ):
    done = runs.run(data_dir, f'--config={runs.DEBUG}', *arguments)
    assert (done.returncode, done.stdout) == (2, '')
    said = runs.only_line(done)
    assert r'params/\x1b]0;x\x07\x1b[31m' in said
    assert said.isprintable()


@pytest.mark.parametrize(
  ('arguments', 'fields'),
  [
    (
      ['--config=configs/resnet50.py', '--config.pretrained=a,b.pth'],
      ['pretrained=a,b.pth', 'dense.epochs=0'],
    ),
    (
      ['--config', 'folder:epochs=9', '--config.pretrained', 'a.pth'],
      ['pretrained=a.pth', 'data.image_size=224', 'dense.epochs=3'],
    ),
    # What is said of a field itself goes last.
    (
      ['--config=vit', '--config.dense.epochs=7', '--config.pretrained=a'],
      ['pretrained=a', 'dense.epochs=7'],
    ),
    (
      ['--config=vit:pretrained=b', '--config.pretrained=None'],
      ['pretrained=None', 'dense.epochs=0'],
    ),
    # It takes no such argument.
    (
      ['--config=digits', '--config.pretrained=a.hq'],
      ['pretrained=a.hq', 'dense.epochs=20'],
    ),
  ],
)
def test_pretrained_on_the_command_line_is_the_argument(
  data_dir, arguments, fields
):
  done = runs.run(data_dir, *arguments, '--help')
  assert done.returncode == 0, done.stderr
  for field in fields:
    assert re.search(
      rf'^  --config\.{re.escape(field)}( |$)', done.stdout, re.M
    )
