"""Files of weights, and files that are something else."""

import importlib.util
import json
import os
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from hq_jax.models import pretrained

_HAS_TORCH = importlib.util.find_spec('torch') is not None


@pytest.fixture
def save(tmp_path):
  """Returns a function: arrays by name to the path of a file that has them."""

  def save(arrays, name='weights.safetensors'):
    safetensors_numpy.save_file(arrays, tmp_path / name)
    return tmp_path / name

  return save


def test_every_kind_of_number(save):
  values = np.array([[1.5, -0.25], [2.0, 0.0]])
  kinds = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64)
  path = save({np.dtype(k).name: values.astype(k) for k in kinds})
  state = pretrained.read(path)
  assert {name: x.dtype.name for name, x in state.items()} == {
    'float64': 'float64',
    'float32': 'float32',
    'float16': 'float32',
    'bfloat16': 'float32',
    'int64': 'int64',
  }
  for name, array in state.items():
    wanted = values.astype(np.int64) if name == 'int64' else values
    np.testing.assert_array_equal(array, wanted)


def test_a_prefix_before_every_name(save):
  ones = np.ones(2, np.float32)
  state = pretrained.read(save({'module.fc.bias': ones, 'module.a': ones}))
  assert set(state) == {'fc.bias', 'a'}
  # A module may have that name.
  state = pretrained.read(save({'module.fc.bias': ones, 'a': ones}))
  assert set(state) == {'module.fc.bias', 'a'}


def _refuse(path, error=ValueError):
  with pytest.raises(error) as caught:
    pretrained.read(path)
  message = str(caught.value)
  assert str(path) in message and '\n' not in message and len(message) < 500
  return message


def test_a_file_that_is_cut_short(save):
  path = save({'a': np.ones(100, np.float32)})
  content = path.read_bytes()
  for size in (0, 4, 20, len(content) - 1):
    path.write_bytes(content[:size])
    assert 'wanted a whole .safetensors file' in _refuse(path)


def test_files_that_are_something_else(tmp_path):
  path = tmp_path / 'a.safetensors'
  header = {'a': {'dtype': 'F8_E4M3', 'shape': [1], 'data_offsets': [0, 1]}}
  text = json.dumps(header).encode()
  for content in (
    b'an archive',
    b'{"a": 1} and no length before it',
    # Whole, but of numbers that NumPy has no name for.
    struct.pack('<Q', len(text)) + text + b'0',
  ):
    path.write_bytes(content)
    assert 'wanted a whole .safetensors file' in _refuse(path)


@pytest.mark.parametrize('name', ['a.safetensors', 'a.pth', 'model'])
def test_files_that_are_no_weights(tmp_path, name):
  path = tmp_path / name
  path.write_bytes(
    b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n'
  )
  assert _refuse(path) == (
    f'{path}: is a git-lfs pointer, wanted the file itself: git lfs pull'
  )
  path.write_bytes(b'PK\x03\x04 no archive')
  assert 'cannot be read' in _refuse(path)


def test_what_the_content_begins_with(tmp_path):
  path = tmp_path / 'a.safetensors.index.json'
  path.write_bytes(b'\x1b[2J<html>, as servers answer')
  message = _refuse(path)
  assert r"begins with b'\x1b[2J<html>, as s'" in message
  assert 'a .safetensors or an .npz file' in message
  path.write_bytes(b'')
  assert 'is empty' in _refuse(path)


@pytest.mark.parametrize('name', ['a', 'a.ckpt', 'a.pth', 'a.PTH'])
def test_safetensors_by_any_name(save, name):
  path = save({'a': np.arange(3, dtype=np.float16)}, name)
  assert pretrained.read(path)['a'].tolist() == [0, 1, 2]


@pytest.mark.parametrize('write', [np.savez, np.savez_compressed])
@pytest.mark.parametrize('name', ['a.npz', 'a', 'a.pth.tar'])
def test_npz_by_any_name(tmp_path, name, write):
  path = tmp_path / name
  with path.open('wb') as file:
    write(file, **{'fc.bias': np.arange(3, dtype=np.float16), 'n': np.int64(2)})
  state = pretrained.read(path)
  assert {name: x.tolist() for name, x in state.items()} == {
    'fc.bias': [0, 1, 2],
    'n': 2,
  }
  assert state['fc.bias'].dtype == np.float32


def test_npz_files_that_are_refused(tmp_path):
  path = tmp_path / 'a.npz'
  np.savez(path, a=np.array([{}], object))
  assert 'wanted an .npz file of numbers' in _refuse(path)
  np.savez_compressed(path, a=np.zeros(1 << 24, np.float64))
  assert 'unfolds to 134,2' in _refuse(path)


def test_what_is_no_regular_file(tmp_path):
  path = tmp_path / 'a.pth'
  os.mkfifo(path)
  assert 'a pipe or a device, wanted a regular file' in _refuse(path)
  path.unlink()
  path.symlink_to('/dev/zero')
  assert 'a pipe or a device, wanted a regular file' in _refuse(path)


@pytest.mark.parametrize('name', ['a.safetensors', 'a.pth'])
def test_files_that_are_far_too_large(tmp_path, name):
  path = tmp_path / name
  with path.open('wb') as file:
    file.truncate(30_000_000_000)
  assert '30,000,000,000 bytes, wanted at most 8,589,934,592' in _refuse(path)


@pytest.mark.parametrize('name', ['a.safetensors', 'a.pth'])
def test_files_that_are_not_there(tmp_path, name):
  path = tmp_path / name
  _refuse(path, FileNotFoundError)
  path.mkdir()
  _refuse(path, IsADirectoryError)


@pytest.mark.skipif(_HAS_TORCH, reason='PyTorch is installed')
def test_without_pytorch_the_error_says_what_to_do(tmp_path):
  path = tmp_path / 'a.pth'
  path.write_bytes(b'\x80\x02}.')
  message = _refuse(path)
  assert 'pip install torch, or convert the file to .safetensors' in message
