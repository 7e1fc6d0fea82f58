import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hq_jax.data import sources
from hq_jax.data.sets import datasets

_LOAD = """
import sys
from hq_jax.data.sets import datasets
print(len(datasets.load('digits', sys.argv[1]).train))
"""
_ROOT = pathlib.Path(__file__).parents[3]


def _start_load(data_dir: pathlib.Path) -> subprocess.Popen[str]:
  return subprocess.Popen(
    [sys.executable, '-c', _LOAD, str(data_dir)],
    cwd=_ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _damaged_copy(digits_dir: pathlib.Path, tmp_path: pathlib.Path):
  shutil.copytree(digits_dir, tmp_path, dirs_exist_ok=True)
  return tmp_path / 'digits' / '1.0.0'


def test_facts_of_the_digits(digits):
  assert digits.name == 'digits'
  assert digits.class_names == tuple('0123456789')
  assert digits.image_shape == (8, 8, 1)
  assert digits.pixel_range == (0.0, 16.0)
  assert (digits.train.images.min(), digits.train.images.max()) == (0, 16)
  assert (len(digits.train), len(digits.test)) == (1297, 500)


def test_pixel_mean_and_std_are_those_of_the_training_images(digits):
  pixels = digits.train.images.astype(np.float64)
  np.testing.assert_allclose(digits.pixel_mean, [pixels.mean()], rtol=1e-12)
  np.testing.assert_allclose(digits.pixel_std, [pixels.std()], rtol=1e-12)


def test_unknown_name_lists_the_known_ones(tmp_path):
  with pytest.raises(
    ValueError, match=r"data\.name is 'digitz', .*: run `.*\(or name .*digits, "
  ):
    datasets.load('digitz', tmp_path)
  assert not list(tmp_path.iterdir())


def test_prepared_files_are_used_again(tmp_path):
  datasets.load('digits', tmp_path)
  files = sorted(tmp_path.rglob('*'))
  times = [file.stat().st_mtime_ns for file in files]
  datasets.load('digits', str(tmp_path))
  assert sorted(tmp_path.rglob('*')) == files
  assert [file.stat().st_mtime_ns for file in files] == times
  assert not list(tmp_path.glob('digits/incomplete.*'))


def test_preparing_prints_nothing(tmp_path, capfd):
  datasets.load('digits', tmp_path)
  assert capfd.readouterr() == ('', '')


def test_data_dir_of_the_environment(digits_dir, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(digits_dir))
  assert len(datasets.load('digits').test) == 500


@pytest.mark.parametrize(
  ('limit_bytes', 'in_memory'), [(1797 * 64, True), (1797 * 64 - 1, False)]
)
def test_only_small_sets_are_read_into_memory(
  digits_dir, limit_bytes, in_memory
):
  dataset = datasets.load('digits', digits_dir, memory_limit_bytes=limit_bytes)
  for source in (dataset.train, dataset.test):
    assert isinstance(source, sources.MemorySource) == in_memory


@pytest.mark.slow
def test_two_processes_may_prepare_at_once(tmp_path):
  processes = [_start_load(tmp_path) for _ in range(2)]
  for process in processes:
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, '1297\n'), err
  assert [path.name for path in (tmp_path / 'digits').iterdir()] == ['1.0.0']


def test_a_killed_process_does_no_harm(tmp_path):
  process = _start_load(tmp_path)
  deadline = time.monotonic() + 60
  while not list(tmp_path.glob('digits/incomplete.*')):
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.001)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert not (tmp_path / 'digits' / '1.0.0').exists()
  assert len(datasets.load('digits', tmp_path).train) == 1297


def test_data_dir_that_is_a_file(tmp_path):
  file = tmp_path / 'file'
  file.touch()
  with pytest.raises(ValueError, match=r'^data_dir: .*file.* not a folder$'):
    datasets.load('digits', file)


@pytest.mark.parametrize(
  'name',
  [
    'dataset_info.json',
    'digits-train.array_record-00000-of-00001',
    'digits-test.array_record-00000-of-00001',
  ],
)
@pytest.mark.parametrize('damage', ['missing', 'empty', 'cut'])
def test_damaged_folder_is_one_clear_line(digits_dir, tmp_path, name, damage):
  file = _damaged_copy(digits_dir, tmp_path) / name
  content = file.read_bytes()
  if damage == 'missing':
    file.unlink()
  else:
    file.write_bytes(b'' if damage == 'empty' else content[: len(content) // 2])
  with pytest.raises(ValueError, match=r'^data_dir: .* is damaged') as caught:
    datasets.load('digits', tmp_path)
  assert '\n' not in str(caught.value)
  assert str(file.parent) in str(caught.value)
  if damage == 'missing':
    assert name in str(caught.value)


@pytest.mark.parametrize(
  ('old', 'new', 'message'),
  [
    ('"1297"', '"1296"', 'train: 1296 examples, wanted 1297'),
    ('"500"', '"501"', r'is damaged .*test\[500\]'),
    ('"train"', '"tr4in"', 'tr4in'),
    ('"array_record"', '"tfrecord"', 'file format tfrecord'),
  ],
)
def test_changed_description_is_noticed(
  digits_dir, tmp_path, old, new, message
):
  file = _damaged_copy(digits_dir, tmp_path) / 'dataset_info.json'
  content = file.read_text()
  assert content.count(old) == 1
  file.write_text(content.replace(old, new))
  with pytest.raises(ValueError, match=message):
    datasets.load('digits', tmp_path)


@pytest.mark.parametrize('position_fraction', [0.1, 0.4, 0.7])
def test_one_flipped_bit_is_noticed(digits_dir, tmp_path, position_fraction):
  folder = _damaged_copy(digits_dir, tmp_path)
  file = folder / 'digits-train.array_record-00000-of-00001'
  content = bytearray(file.read_bytes())
  used = np.flatnonzero(np.frombuffer(content, np.uint8))
  content[used[int(position_fraction * len(used))]] ^= 1
  file.write_bytes(content)
  with pytest.raises(ValueError, match='is damaged'):
    datasets.load('digits', tmp_path)
