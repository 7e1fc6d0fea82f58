"""Folders of images as sources."""

import hashlib
import os
import pathlib
import pickle

import numpy as np
import pytest

from hq_jax.data import sources
from hq_jax.data.sets import folders
from tests.data import file_trees

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


def test_a_file_that_is_gone_is_an_os_error_with_its_path(tmp_path):
  source = folders.open_folder(file_trees.touch(tmp_path, *_SPLITS)).train
  path = tmp_path / 'train' / 'b' / '1.jpg'
  path.unlink()
  with pytest.raises(FileNotFoundError, match=str(path)):
    source[1]
  path.mkdir()
  with pytest.raises(IsADirectoryError, match=str(path)):
    source[1]
  path.rmdir()
  os.mkfifo(path)
  with pytest.raises(OSError, match=f'wanted a regular file.*{path}'):
    source[1]


@pytest.mark.skipif(not os.path.exists('/proc/self/mem'), reason='no such file')
def test_an_error_in_the_middle_of_reading_has_the_path(tmp_path):
  file_trees.touch(tmp_path, *_SPLITS)
  file_trees.link(tmp_path / 'train' / 'c' / '1.jpg', '/proc/self/mem')
  source = folders.open_folder(tmp_path).train
  with pytest.raises(OSError, match=r'train/c/1\.jpg'):
    source[2]


def test_a_file_larger_than_memory_is_an_os_error_with_its_path(tmp_path):
  source = folders.open_folder(file_trees.touch(tmp_path, *_SPLITS)).train
  os.truncate(tmp_path / 'train' / 'b' / '1.jpg', 30 * 10**9)
  with pytest.raises(OSError, match=r'30,000,000,000 bytes.*b/1\.jpg'):
    source[1]


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
