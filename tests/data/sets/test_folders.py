"""Folders of images as sources, and the pictures that other tests use."""

import hashlib
import io
import os
import pathlib
import pickle

import numpy as np
from PIL import Image
import pytest

from hq_jax.data import sources
from hq_jax.data.sets import folders
from tests.data import file_trees
from tests.data import pictures

_SPLITS = ('train/a/1.jpg', 'train/b/1.jpg', 'test/a/1.jpg')


def test_an_example_is_the_file_its_label_and_its_name(tmp_path):
  source = folders.open_folder(file_trees.touch(tmp_path, *_SPLITS)).train
  assert len(source) == 2
  assert source[1] == {
    'image': b'train/b/1.jpg',
    'label': 1,
    'name': 'train/b/1.jpg',
  }
  assert type(source[np.int64(1)]['label']) is int
  with pytest.raises(IndexError):
    source[2]


def test_it_is_a_source_that_workers_can_be_sent(tmp_path):
  source: sources.Source = folders.open_folder(
    file_trees.touch(tmp_path, *_SPLITS)
  ).train
  copy = pickle.loads(pickle.dumps(source))
  assert copy[0] == source[0]
  assert copy.fingerprint() == source.fingerprint()


def test_a_long_list_is_not_printed(tmp_path):
  source = folders.open_folder(
    file_trees.numbered(file_trees.both(tmp_path, 'a'), 'b', 99)
  ).train
  assert len(repr(source)) < 100 + len(str(tmp_path))


def test_a_file_that_is_gone_is_an_os_error_with_its_path(tmp_path):
  source = folders.open_folder(file_trees.touch(tmp_path, *_SPLITS)).train
  path = tmp_path / 'train' / 'b' / '1.jpg'
  path.unlink()
  with pytest.raises(FileNotFoundError, match=str(path)):
    source[1]
  path.mkdir()
  with pytest.raises(IsADirectoryError, match=str(path)):
    source[1]


@pytest.mark.skipif(not os.path.exists('/proc/self/mem'), reason='no such file')
def test_an_error_in_the_middle_of_reading_has_the_path(tmp_path):
  file_trees.touch(tmp_path, *_SPLITS)
  file_trees.link(tmp_path / 'train' / 'c' / '1.jpg', '/proc/self/mem')
  source = folders.open_folder(tmp_path).train
  with pytest.raises(OSError, match=r'train/c/1\.jpg'):
    source[2]


def test_the_fingerprint_is_of_paths_and_labels(tmp_path):
  first = file_trees.touch(tmp_path / 'first', *_SPLITS)
  second = file_trees.touch(tmp_path / 'second', *_SPLITS)
  fingerprint = folders.open_folder(first).train.fingerprint()
  # Written down: it must be the same on every machine and in every version.
  assert fingerprint == (
    hashlib.sha256(
      b'\0\0\0\0\1\0\0\0train/a/1.jpg\0train/b/1.jpg\0'
    ).hexdigest()
  )
  (second / 'train/a/1.jpg').write_text('another picture')
  assert folders.open_folder(second).train.fingerprint() == fingerprint
  (second / 'train/a/1.jpg').rename(second / 'train/a/2.jpg')
  assert folders.open_folder(second).train.fingerprint() != fingerprint
  # A class before it changes what the label of an unchanged test image means.
  test = folders.open_folder(first).test.fingerprint()
  file_trees.touch(first, 'train/A/1.jpg')
  assert folders.open_folder(first).test.fingerprint() != test


def test_no_folder_is_refused(tmp_path):
  file_trees.touch(tmp_path, 'file')
  for path in tmp_path / 'file', tmp_path / 'missing', f'{tmp_path}/new\nline':
    assert f'{os.fspath(path)!r} is no folder' in file_trees.error_of(path)
  assert "'' is no folder" in file_trees.error_of('')


def test_home_and_relative_paths(tmp_path, monkeypatch):
  file_trees.both(tmp_path / 'pets', 'a', 'b')
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  for path in '~/pets', 'pets', pathlib.Path('pets'):
    source = folders.open_folder(path).train
    monkeypatch.chdir('/')
    assert source[0]['image'].startswith(b'a/')
    monkeypatch.chdir(tmp_path)


def test_pictures_are_decodable_and_their_own(tmp_path):
  one = pictures.make_folder(tmp_path / 'one', num_classes=3, num_per_class=5)
  two = pictures.make_folder(tmp_path / 'two', num_classes=2, num_per_class=5)
  other = pictures.make_folder(tmp_path / 'other', num_per_class=1, seed=1)
  folder = folders.open_folder(one)
  assert folder.class_names == ('green_triangle', 'red_disc', 'yellow_square')
  assert len(folder.train) == len(folder.test) == 15
  files = [example['image'] for example in (*folder.train, *folder.test)]
  assert len(set(files)) == 30
  formats = set()
  for file in files:
    with Image.open(io.BytesIO(file)) as image:
      image.load()
      formats.add(image.format)
      assert image.mode == 'RGB'
      assert 48 <= min(image.size) <= max(image.size) <= 72
  assert formats == {'JPEG', 'PNG'}
  name = 'train/red_disc/000.jpg'
  assert (one / name).read_bytes() == (two / name).read_bytes()
  assert (one / name).read_bytes() != (other / name).read_bytes()


def test_pictures_show_their_class(tmp_path):
  root = pictures.make_folder(tmp_path, num_per_class=8, splits=('',))
  means = {}
  for path in sorted(root.glob('*/*')):
    with Image.open(path) as image:
      pixels = np.asarray(image.resize((24, 24)), np.float32)
    colour = np.ptp(pixels, axis=-1) > 90  # The background is nearly grey.
    means.setdefault(path.parent.name, []).append(pixels[colour].mean(0))
  centres = {name: np.mean(values, 0) for name, values in means.items()}
  for name, values in means.items():
    for value in values:
      nearest = min(centres, key=lambda n: np.linalg.norm(value - centres[n]))
      assert nearest == name
