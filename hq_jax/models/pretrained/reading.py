"""Reading of weights from files, as arrays by their names."""

from collections.abc import Mapping
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

State = dict[str, np.ndarray]

_TORCH_SUFFIXES = ('.pth', '.pt', '.bin')
# Where training scripts put the weights, beside the optimizer and the epoch.
_WRAPPERS = ('state_dict', 'model')
# What data-parallel training puts before every name.
_PREFIX = 'module.'


def read(path: str | os.PathLike[str]) -> State:
  """Reads a file of weights.

  The arrays of a `.safetensors` file, or of a PyTorch state dictionary (`.pth`,
  `.pt`, `.bin`), which needs PyTorch. Of the latter nothing is executed that
  the file says. Weights under `state_dict` or `model` are found, and `module.`
  before every name is taken off.
  """
  suffix = pathlib.PurePath(path).suffix
  if suffix != '.safetensors' and suffix not in _TORCH_SUFFIXES:
    raise ValueError(
      f'{path}: its suffix is {suffix!r}, wanted one of: .safetensors,'
      f' {", ".join(_TORCH_SUFFIXES)}'
    )
  # The libraries' own errors need not name the file.
  with open(path, 'rb'):
    pass
  state = (
    _read_torch(path) if suffix in _TORCH_SUFFIXES else _read_safetensors(path)
  )
  if state and all(name.startswith(_PREFIX) for name in state):
    state = {name.removeprefix(_PREFIX): x for name, x in state.items()}
  return {name: _widen(array) for name, array in state.items()}


def _widen(array: np.ndarray) -> np.ndarray:
  """float32 in place of float16 and bfloat16."""
  narrow = jnp.issubdtype(array.dtype, jnp.floating) and array.itemsize < 4
  return array.astype(np.float32) if narrow else array


def _first_line(error: Exception) -> str:
  """What an error says in short: those of PyTorch fill a page."""
  lines = str(error).strip().splitlines() or ['']
  return f'{type(error).__name__}: {lines[0]:.120}'.removesuffix(': ')


def _read_safetensors(path: str | os.PathLike[str]) -> State:
  try:
    return safetensors_numpy.load_file(path)
  except safetensors.SafetensorError as error:
    reason = _first_line(error)
  except (AttributeError, TypeError) as error:
    # Of types that NumPy has no name for, such as 8-bit floating point.
    reason = f'a type that NumPy lacks, {_first_line(error)}'
  raise ValueError(
    f'{path}: cannot be read, wanted a whole .safetensors file ({reason})'
  )


def _read_torch(path: str | os.PathLike[str]) -> State:
  try:
    import torch
  except ImportError:
    raise ValueError(
      f'{path}: only PyTorch reads this, and it is not installed: pip install'
      ' torch, or convert the file to .safetensors'
    ) from None
  try:
    content = torch.load(path, weights_only=True, map_location='cpu')
  except Exception as error:
    # A damaged file makes the unpickler raise nearly anything.
    raise ValueError(
      f'{path}: cannot be read, wanted a PyTorch state dictionary'
      f' ({_first_line(error)})'
    ) from None
  state = _unwrap(content)
  wrong = [
    repr(name)[:80]
    for name, value in state.items()
    if not isinstance(name, str) or not isinstance(value, torch.Tensor)
  ]
  if wrong or not state:
    raise ValueError(
      f'{path}: holds no tensor at {", ".join(wrong[:3]) or "any name"}, wanted'
      ' a PyTorch state dictionary'
    )
  return {name: _to_numpy(torch, tensor) for name, tensor in state.items()}


def _unwrap(content: Any) -> Mapping[Any, Any]:
  """The state dictionary in what a file holds; an empty one without any."""
  if not isinstance(content, Mapping):
    return {}
  for key in _WRAPPERS:
    if isinstance(content.get(key), Mapping):
      return content[key]
  return content


def _to_numpy(torch: Any, tensor: Any) -> np.ndarray:
  tensor = tensor.detach()
  # NumPy knows no bfloat16.
  if tensor.dtype == torch.bfloat16:
    tensor = tensor.float()
  return tensor.numpy()
