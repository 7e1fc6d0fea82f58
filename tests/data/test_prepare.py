"""The command: what it prepares and refuses, and what an end leaves behind."""

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time

from PIL import Image
import pytest

from hq_jax.data import prepare
from hq_jax.data.tfds import lookup
from hq_jax.data.tfds import prepared
from tests import runs
from tests import tiny_sets

_HAS_TENSORFLOW = importlib.util.find_spec('tensorflow') is not None


class PlainSet(tiny_sets.TinySet):
  name = 'plain_set'


class RacedSet(tiny_sets.TinySet):
  """Another process puts its folder there while this one is writing."""

  name = 'raced_set'

  def _generate_examples(self):
    if not hasattr(RacedSet, 'other'):
      RacedSet.other = RacedSet(
        data_dir=self._data_dir_root, file_format='array_record'
      )
      RacedSet.other.download_and_prepare()
    yield from super()._generate_examples()


class BrokenSet(tiny_sets.TinySet):
  name = 'broken_set'

  def _generate_examples(self):
    yield from super()._generate_examples()
    raise RuntimeError('the archive\nis broken')


def listing(folder):
  return {
    str(path.relative_to(folder)): path.stat().st_mtime_ns
    for path in folder.rglob('*')
  }


def test_a_set_is_prepared_once(tmp_path, capsys):
  flag = f'--data_dir={tmp_path}'
  folder = tmp_path / 'plain_set' / '1.0.0'
  status, out, err = tiny_sets.run(capsys, 'plain_set', flag)
  assert (status, err) == (0, '')
  assert out == f'plain_set is prepared in {folder}: train 4, test 4\n'
  assert tiny_sets.read(folder) == [(0, 0), (1, 1), (2, 0), (3, 1)]
  before = listing(tmp_path)
  for name in ('plain_set', 'plain_set:1.0.0'):
    status, out, err = tiny_sets.run(capsys, name, flag)
    assert (status, err) == (0, '')
    assert out == f'{name} is prepared already in {folder}: train 4, test 4\n'
  assert listing(tmp_path) == before


def test_sets_that_are_generated_may_be_prepared_too(tmp_path, capsys):
  status, out, err = tiny_sets.run(capsys, 'digits', f'--data_dir={tmp_path}')
  assert (status, err) == (0, '')
  assert out.startswith('digits is prepared in ')
  assert out.endswith(': train 1,297, test 500\n')


def test_the_environment_names_the_data_dir(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  assert prepare.prepare('plain_set') == tmp_path / 'plain_set' / '1.0.0'


def test_progress_is_shown_on_demand(tmp_path, capfd):
  prepare.prepare('plain_set', tmp_path / 'a')
  assert capfd.readouterr() == ('', '')
  prepare.prepare('plain_set', tmp_path / 'b', show_progress=True)
  out, err = capfd.readouterr()
  assert out == '' and 'Generating splits' in err


@pytest.mark.parametrize(
  ('arguments', 'word'),
  [
    (['Plain Set'], "name is 'Plain Set', wanted"),
    (['plain_sat'], "no data set 'plain_sat', but plain_set"),
    (['zzzzzz'], "no data set 'zzzzzz'\n"),
    (['plain_set/a'], "plain_set has no config 'a', wanted none"),
    (['imagenet_resized/9'], "no config '9', wanted one of 8x8, 16x16"),
    (['plain_set:2.0.0'], 'version 2.0.0, only: 1.0.0'),
    (['plain_set', '--manual_dir=/no/where'], "manual_dir: '/no/where'"),
    (
      ['broken_set'],
      'broken_set cannot be prepared (RuntimeError: the archive',
    ),
    # Before anything is downloaded, and before TensorFlow is asked for.
    (['voc'], 'voc has the features image (Image), image/filename (Text)'),
    (['by_hand_set'], 'is empty: Put pixels.bin into manual_dir.'),
  ],
)
def test_what_is_refused_is_one_line(arguments, word, tmp_path, capsys):
  root = tmp_path / 'data'
  flag = f'--data_dir={root}'
  assert word in tiny_sets.check_refused(capsys, flag, *arguments)
  assert not list(root.rglob('*.json'))


def test_data_dir_that_is_a_file(tmp_path, capsys):
  file = tmp_path / 'file'
  file.touch()
  assert 'not a folder' in tiny_sets.check_refused(
    capsys, 'plain_set', f'--data_dir={file}'
  )


@pytest.mark.skipif(_HAS_TENSORFLOW, reason='TensorFlow is installed')
@pytest.mark.parametrize('name', ['cifar10', 'coco', 'encoded_set'])
def test_missing_tensorflow_is_named_with_the_remedy(name, tmp_path, capsys):
  # Before a download, while the set is looked up, and in the middle.
  err = tiny_sets.check_refused(capsys, name, f'--data_dir={tmp_path}')
  assert f'{name} needs TensorFlow' in err
  assert 'pip install "hq_jax[prepare]"' in err
  assert not list(tmp_path.rglob('*.json'))


@pytest.mark.slow
def test_images_that_tensorflow_encodes(tmp_path, capsys):
  pytest.importorskip('tensorflow')
  status, _, _ = tiny_sets.run(capsys, 'encoded_set', f'--data_dir={tmp_path}')
  assert status == 0
  folder = lookup.find('encoded_set', tmp_path)
  pixels = []
  for example in prepared.open_prepared(folder).train:
    with Image.open(io.BytesIO(example['image'])) as image:
      assert image.size == (3, 2)
      pixels.append((image.getpixel((0, 0)), example['label']))
  assert sorted(pixels) == [(0, 0), (1, 1), (2, 0), (3, 1)]


def test_another_file_format_says_what_to_do(tmp_path, capsys):
  folder = prepare.prepare('plain_set', tmp_path)
  file = folder / 'dataset_info.json'
  found = json.loads(file.read_text())
  file.write_text(json.dumps(found | {'fileFormat': 'tfrecord'}))
  err = tiny_sets.check_refused(capsys, 'plain_set', f'--data_dir={tmp_path}')
  assert 'file format tfrecord, wanted array_record' in err
  assert f"'{folder}'" in err and 'delete that folder' in err


def test_an_incomplete_folder_is_not_taken_for_prepared(tmp_path, capsys):
  folder = prepare.prepare('plain_set', tmp_path)
  (folder / 'dataset_info.json').unlink()
  err = tiny_sets.check_refused(capsys, 'plain_set', f'--data_dir={tmp_path}')
  assert f"'{folder}' is incomplete: delete that folder" in err


def test_the_folder_of_a_process_that_was_first_is_kept(tmp_path):
  folder = prepare.prepare('raced_set', tmp_path)
  assert tiny_sets.read(folder) == [(0, 0), (1, 1), (2, 0), (3, 1)]
  assert RacedSet.other.data_dir == str(folder)
  assert sorted(os.listdir(folder.parent)) == ['1.0.0']


_STALL = """
import pathlib, sys, time
from hq_jax import __main__ as commands
from tests import tiny_sets

class StalledSet(tiny_sets.TinySet):
  name = 'stalled_set'

  def _generate_examples(self):
    yield from super()._generate_examples()
    if sys.argv[2] == 'stall':
      pathlib.Path(sys.argv[1], 'ready').touch()
      time.sleep(600)

sys.exit(commands.main(['prepare', 'stalled_set', f'--data_dir={sys.argv[1]}']))
"""


def _start_stalled(data_dir, how):
  return subprocess.Popen(
    [sys.executable, '-c', _STALL, str(data_dir), how], cwd=runs.ROOT
  )


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_looks_prepared(tmp_path):
  process = _start_stalled(tmp_path, 'stall')
  try:
    deadline = time.monotonic() + 60
    while not (tmp_path / 'ready').exists():
      assert time.monotonic() < deadline and process.poll() is None
      time.sleep(0.01)
  finally:
    process.send_signal(signal.SIGKILL)
    process.wait()
  (left,) = (tmp_path / 'stalled_set').iterdir()
  assert left.name.startswith('incomplete.')
  assert lookup.find('stalled_set', tmp_path) is None
  assert _start_stalled(tmp_path, 'go on').wait(60) == 0
  assert len(tiny_sets.read(lookup.find('stalled_set', tmp_path))) == 4
