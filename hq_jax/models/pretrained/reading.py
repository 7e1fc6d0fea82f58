"""Reading of weights from files, as arrays by their names."""

import os
import pathlib
import struct
import warnings
import zipfile

import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from hq_jax.core import files
from hq_jax.models.pretrained import torch_files
from hq_jax.models.pretrained import words

State = dict[str, np.ndarray]

MAX_FILE_BYTES = 1 << 33
# Zeros that are deflated take a thousandth; weights with many zeros, less.
_MAX_EXPANSION = 64
_ALWAYS_BYTES = 1 << 26
_MAX_TENSORS_BYTES = 1 << 34

# What data-parallel training puts before every name.
_PREFIX = 'module.'
_GIT_LFS = b'version https://git-lfs.github.com/spec/'
_ZIP = b'PK\x03\x04'
_PICKLE = b'\x80'


def read(path: str | os.PathLike[str]) -> State:
  """Reads a file of weights.

  What is in it tells what it is, not its name: safetensors, what `torch.save`
  writes, for which PyTorch must be installed, or `.npz`. Nothing is executed
  that the file says. Dictionaries in one another, as training scripts save
  them, become one, `{'model': {'a': x}}` the name `model.a`; where all weights
  are in one of them, its own name is left out, and so is `module.` before all.

  Args:
    path: of a regular file.

  Returns:
    The arrays, float32 in place of all narrower floating point.

  Raises:
    OSError: there is no such file, or it cannot be read.
    ValueError: it is no file of weights, or not a whole one, or its arrays
      take far more than the file; one line that names it.
  """
  first = peek(path)
  size = os.stat(path).st_size
  limit = min(_MAX_EXPANSION * size + _ALWAYS_BYTES, _MAX_TENSORS_BYTES)
  suffix = pathlib.PurePath(path).suffix
  if first.startswith(_GIT_LFS):
    raise ValueError(
      f'{path}: is a git-lfs pointer, wanted the file itself: git lfs pull'
    )
  if _is_safetensors(first, size):
    state = _read_safetensors(path)
  elif first.startswith(_ZIP):
    is_npz = _check_zip(path, limit)
    state = _read_npz(path) if is_npz else torch_files.read(path, limit)
  elif first.startswith(_PICKLE):
    state = torch_files.read(path, limit)
  elif suffix == '.safetensors':
    state = _read_safetensors(path)  # A damaged one: the library says how.
  else:
    what = f'begins with {first[:16]!r}' if first else 'is empty'
    raise ValueError(f'{path}: {what}, {torch_files.WANTED}')
  if state and all(name.startswith(_PREFIX) for name in state):
    state = {name.removeprefix(_PREFIX): x for name, x in state.items()}
  words.check_total(
    {n: x.size * max(x.itemsize, 4) for n, x in state.items()}, limit, path
  )
  return {name: _widen(array) for name, array in state.items()}


def peek(path: str | os.PathLike[str]) -> bytes:
  """The first bytes of a regular file, without waiting for a writer."""
  with files.open_regular(path, MAX_FILE_BYTES) as file:
    return file.read(64)


def _is_safetensors(first: bytes, size: int) -> bool:
  """Whether a file begins with the length of a header, and a header."""
  if first[8:9] != b'{':
    return False
  return struct.unpack_from('<Q', first)[0] <= size


def _check_zip(path: str | os.PathLike[str], limit: int) -> bool:
  """Refuses archives that unfold to far more; whether one is an `.npz`."""
  try:
    with zipfile.ZipFile(path) as file:
      infos = file.infolist()
  except Exception as error:
    raise ValueError(
      f'{path}: cannot be read, {torch_files.WANTED}'
      f' ({words.first_line(error)})'
    ) from None
  words.check_total({i.filename: i.file_size for i in infos}, limit, path)
  names = [info.filename for info in infos]
  if any(name.endswith('constants.pkl') for name in names):
    raise ValueError(
      f'{path}: is a TorchScript archive, {torch_files.WANTED}:'
      ' torch.save(torch.jit.load(FILE).state_dict(), OTHER)'
    )
  return bool(names) and all(name.endswith('.npy') for name in names)


def _widen(array: np.ndarray) -> np.ndarray:
  """float32 in place of float16 and bfloat16."""
  narrow = jnp.issubdtype(array.dtype, jnp.floating) and array.itemsize < 4
  return array.astype(np.float32) if narrow else array


def _read_safetensors(path: str | os.PathLike[str]) -> State:
  try:
    return safetensors_numpy.load_file(path)
  except safetensors.SafetensorError as error:
    reason = words.first_line(error)
  except (AttributeError, TypeError) as error:
    # Of types that NumPy has no name for, such as 8-bit floating point.
    reason = f'a type that NumPy lacks, {words.first_line(error)}'
  raise ValueError(
    f'{path}: cannot be read, wanted a whole .safetensors file ({reason})'
  )


def _read_npz(path: str | os.PathLike[str]) -> State:
  try:
    with warnings.catch_warnings(action='ignore'), np.load(path) as file:
      return dict(file)
  except Exception as error:  # NumPy, zipfile and zlib have one each.
    raise ValueError(
      f'{path}: cannot be read, wanted an .npz file of numbers'
      f' ({words.first_line(error)})'
    ) from None
