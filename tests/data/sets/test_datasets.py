"""Sets by name: the generated ones, and what does not fit a set."""

import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
from PIL import Image
import pytest

from hq_jax.data import sources
from hq_jax.data.sets import datasets
from tests import runs

_LOAD = """
import sys
from hq_jax.data.sets import datasets
print(len(datasets.load('digits', sys.argv[1]).train))
"""


def _start_load(data_dir: pathlib.Path) -> subprocess.Popen[str]:
  return subprocess.Popen(
    [sys.executable, '-c', _LOAD, str(data_dir)],
    cwd=runs.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def test_facts_of_the_digits(digits):
  assert digits.name == 'digits'
  assert digits.class_names == tuple('0123456789')
  assert digits.image_shape == (8, 8, 1)
  assert digits.pixel_range == (0.0, 16.0)
  pixels = digits.train.images.astype(np.float64)
  assert (pixels.min(), pixels.max()) == (0, 16)
  assert (len(digits.train), len(digits.test)) == (1297, 500)
  np.testing.assert_allclose(digits.pixel_mean, [pixels.mean()], rtol=1e-12)
  np.testing.assert_allclose(digits.pixel_std, [pixels.std()], rtol=1e-12)


def test_prepared_files_are_used_again(tmp_path, monkeypatch, capfd):
  datasets.load('digits', tmp_path)
  times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob('*')}
  assert not list(tmp_path.rglob('incomplete.*'))
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  assert len(datasets.load('digits').test) == 500
  assert times == {f: f.stat().st_mtime_ns for f in tmp_path.rglob('*')}
  # Nor is anything printed.
  assert capfd.readouterr() == ('', '')


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


@pytest.mark.slow
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


@pytest.mark.parametrize(
  ('old', 'new', 'message'),
  [
    ('"1297"', '"1296"', 'damaged .*train: 1296 examples, wanted 1297'),
    ('"500"', '"501"', r'damaged .*test\[500\]'),
    ('"train"', '"tr4in"', 'tr4in'),
    ('"array_record"', '"tfrecord"', 'file format tfrecord'),
  ],
)
def test_changed_description_is_noticed(
  digits_dir, tmp_path, old, new, message
):
  shutil.copytree(digits_dir, tmp_path, dirs_exist_ok=True)
  file = tmp_path / 'digits' / '1.0.0' / 'dataset_info.json'
  content = file.read_text()
  assert content.count(old) == 1
  file.write_text(content.replace(old, new))
  with pytest.raises(ValueError, match=message):
    datasets.load('digits', tmp_path)


def test_a_file_instead_of_a_folder_is_refused(tmp_path):
  file = tmp_path / 'file'
  file.touch()
  with pytest.raises(ValueError, match=r'^data_dir: .*file.* not a folder$'):
    datasets.load('digits', file)


def test_preprocessing_of_a_folder(files):
  assert files.class_names == ('a', 'b', 'c')
  assert files.image_shape == (8, 8, 3)
  assert files.resize == 10
  assert (len(files.train), len(files.test)) == (23, 13)
  np.testing.assert_allclose(files.pixel_mean, [123.675, 116.28, 103.53])


@pytest.mark.parametrize(
  ('name', 'kwargs', 'message'),
  [
    ('digitz', {}, r"is 'digitz', .*: run `.*\(or name .*digits, "),
    ('folder', {'train_split': 'train'}, 'folder has splits of its own'),
    ('folder', {'data_dir': None}, r'config\.data\.data_dir is None'),
    (
      'digits',
      {'image_size': 32},
      r'^config\.data\.image_size is 32, but digits has arrays, which are not'
      r' resized, wanted None$',
    ),
  ],
)
def test_what_does_not_fit_a_set_is_refused(tmp_path, name, kwargs, message):
  kwargs = {'data_dir': tmp_path, 'image_size': 8, **kwargs}
  with pytest.raises(ValueError, match=message):
    datasets.load(name, **kwargs)
  assert not list(tmp_path.iterdir())


def test_the_shapes_of_a_set_that_is_not_there(tmp_path):
  options = {'crop_fraction': 0.875, 'train_split': None, 'test_split': None}
  found = datasets.load_shapes(
    'imagenet2012', tmp_path, image_size=224, **options
  )
  assert found.image_shape == (224, 224, 3) and found.resize == 256
  assert len(found.class_names) == 1000 and found.class_names[0] == 'n01440764'
  assert not found.train and not found.test
  small = datasets.load_shapes('cifar10', tmp_path, **options)
  assert small.image_shape == (32, 32, 3) and small.resize is None
  with pytest.raises(ValueError, match='image_size is None, but imagenet2012'):
    datasets.load_shapes('imagenet2012', tmp_path, **options)
  assert not list(tmp_path.iterdir())


def _write_pictures(root, mode, size=(6, 5)):
  """Two classes, three images each, of one size and a grey level each."""
  for number in range(6):
    folder = root / 'ab'[number % 2]
    folder.mkdir(parents=True, exist_ok=True)
    level = 40 * number
    colour = (level, 0, 255) if mode == 'RGB' else level
    Image.new(mode, size, colour).save(folder / f'{number}.png')
  return root


@pytest.mark.parametrize('limit_bytes', [2**30, 1])
@pytest.mark.parametrize(('mode', 'channels'), [('L', 1), ('RGB', 3)])
def test_a_folder_of_images_of_their_own_size(
  tmp_path, mode, channels, limit_bytes
):
  root = _write_pictures(tmp_path, mode)
  found = datasets.load('folder', root, memory_limit_bytes=limit_bytes)
  assert found.image_shape == (5, 6, channels) and found.resize is None
  images, labels = sources.gather(found.train, range(len(found.train)))
  names = found.train.files.paths if limit_bytes == 1 else None
  if names:
    wanted = [40 * int(pathlib.Path(x).stem) for x in names]
    assert images[:, 0, 0, 0].tolist() == wanted
  assert labels.tolist() == [0, 0, 1, 1]
  np.testing.assert_allclose(
    found.pixel_mean, images.mean(axis=(0, 1, 2)), atol=1e-3
  )
  wanted_std = images.std(axis=(0, 1, 2))
  wanted_std[wanted_std == 0] = 1
  np.testing.assert_allclose(found.pixel_std, wanted_std, atol=1e-3)


def test_one_colour_gives_all_images_three_channels(tmp_path):
  root = _write_pictures(tmp_path, 'L')
  Image.new('RGB', (6, 5), (1, 2, 3)).save(root / 'a' / 'colour.png')
  assert datasets.load('folder', root).image_shape == (5, 6, 3)


def test_own_sizes_must_be_one_size(tmp_path):
  root = _write_pictures(tmp_path, 'L')
  Image.new('L', (7, 5)).save(root / 'b' / 'wide.png')
  with pytest.raises(
    ValueError, match=r'image_size is None.*b/wide\.png 7 x 5'
  ):
    datasets.load('folder', root)
  (root / 'b' / 'wide.png').write_bytes(b'no image')
  with pytest.raises(ValueError, match=r'b/wide\.png: image is'):
    datasets.load('folder', root)
