"""Atomic writing; tests/artifact/test_writer.py kills it and makes it fail."""

import os

import pytest

from hq_jax.runtime import atomic_write


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
  path = tmp_path / 'a.txt'
  atomic_write.write_bytes(path, b'one')
  atomic_write.write_bytes(str(path), b'two')
  assert path.read_bytes() == b'two'
  assert os.listdir(tmp_path) == ['a.txt']


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
  path = tmp_path / 'a.txt'
  atomic_write.write_bytes(path, b'one')
  with pytest.raises(TypeError):
    atomic_write.write_bytes(path, 'text')
  assert path.read_bytes() == b'one'
  assert os.listdir(tmp_path) == ['a.txt']


def test_a_missing_folder_is_named(tmp_path):
  path = tmp_path / 'none' / 'a.txt'
  with pytest.raises(FileNotFoundError, match=r'a\.txt: its folder'):
    atomic_write.write_bytes(path, b'')
