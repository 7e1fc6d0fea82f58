"""Files of `torch.save`, of which nothing is executed."""

import _compat_pickle
import collections
from collections.abc import Mapping
import os
import re
from typing import Any
import warnings

import numpy as np

from hq_jax.models.pretrained import words

State = dict[str, np.ndarray]

WANTED = 'wanted a PyTorch state dictionary, a .safetensors or an .npz file'

# Of the dictionaries in one another: a file may repeat one without end.
_MAX_DEPTH = 16
_MAX_ENTRIES = 100_000
# The classes of objects beside the weights.
_MAX_CLASSES = 100

# Classes that `pickle` makes by a call, as it does functions. What training
# scripts save beside the weights is made of them.
_CALLED = re.compile(
  r'numpy\.(_?core\.multiarray\.\w+|dtypes?\.?\w*|ndarray)'
  r'|pathlib\.\w+|datetime\.\w+|collections\.(defaultdict|deque)'
  r'|(builtins\.)?(list|dict|tuple|frozenset|slice|range|object)'
  r'|functools\.partial|decimal\.Decimal|uuid\.UUID'
)
_DICT = 'collections.defaultdict'


class _CallError(Exception):
  """The file asks to call something."""


class _StandIn(type):
  """What stands for a class that the file names; nothing of it is looked up."""

  def __call__(cls, *args: Any, **kwargs: Any) -> Any:
    """What `pickle` calls instead of a function, too."""
    del args, kwargs
    if not _CALLED.fullmatch(cls.__name__):
      raise _CallError(cls.__name__)
    is_dict = cls.__name__ == _DICT
    kind: Any = cls
    return kind.__new__(kind) if is_dict else list.__new__(kind)


class _Skipped(list, metaclass=_StandIn):
  """An object of such a class."""

  def __new__(cls, *args: Any, **kwargs: Any) -> Any:
    """A new object, which no call made: PyTorch fills dictionaries alone."""
    del args, kwargs
    made: Any = collections.OrderedDict()
    made.skipped = cls.__name__
    return made

  def __setstate__(self, state: Any) -> None:
    del state


def read(path: str | os.PathLike[str], limit: int) -> State:
  """Reads the tensors of a file, which may take so many bytes."""
  try:
    import torch
  except ImportError:
    raise ValueError(
      f'{path}: only PyTorch reads this, and it is not installed: pip install'
      ' torch, or convert the file to .safetensors'
    ) from None
  try:
    content = _load(torch, path)
  except _CallError as error:
    raise ValueError(
      f'{path}: asks to call {_name_today(str(error))}, {WANTED}: nothing in a'
      ' file is run'
    ) from None
  except Exception as error:
    # A damaged file makes the unpickler raise nearly anything.
    raise ValueError(
      f'{path}: cannot be read, {WANTED} ({_describe(error)})'
    ) from None
  kind = getattr(content, 'skipped', None)
  if kind is not None and not content:
    raise ValueError(
      f'{path}: is an object of {words.quote(str(kind))}, {WANTED}:'
      ' torch.save(model.state_dict(), FILE)'
    )
  with warnings.catch_warnings(action='ignore'):
    tensors = _flatten(torch, content, path)
    if not tensors:
      keys = content if isinstance(content, Mapping) else ()
      names = ', '.join(repr(name)[:80] for name in [*keys][:3]) or 'any name'
      raise ValueError(f'{path}: holds no tensor at {names}, {WANTED}')
    for name, tensor in tensors.items():
      _check(torch, name, tensor, path)
    # Before any is widened: views may be large where what they show is not.
    sizes = {
      n: x.numel() * max(x.element_size(), 4) for n, x in tensors.items()
    }
    words.check_total(sizes, limit, path)
    return {name: _to_numpy(name, x, path) for name, x in tensors.items()}


def _load(torch: Any, path: str | os.PathLike[str]) -> Any:
  """The content, with stand-ins for objects of other classes."""
  skipped: dict[str, Any] = {}
  while True:
    allowed = [(kind, name) for name, kind in skipped.items()]
    try:
      with (
        warnings.catch_warnings(action='ignore'),
        torch.serialization.safe_globals(allowed),
        open(path, 'rb') as file,  # By a path, its suffix would count.
      ):
        return torch.load(file, weights_only=True, map_location='cpu')
    except Exception as error:
      name = _find_global(error)
      blocked = 'is blocked' in str(error)
      if name is None:
        raise
      if blocked:
        raise _CallError(name) from None
      if name in skipped or len(skipped) >= _MAX_CLASSES:
        raise
      skipped |= dict.fromkeys(
        # PyTorch leaves the module out of what it says.
        (name, f'builtins.{name}'),
        _StandIn(name, (_Skipped,), {}),
      )


def _name_today(name: str) -> str:
  """A function's name in Python 3: files have those of Python 2."""
  module, dot, inside = name.rpartition('.')
  module = _compat_pickle.IMPORT_MAPPING.get(module, module)
  return words.quote(f'{module}{dot}{inside}')


def _find_global(error: Exception) -> str | None:
  """What the unpickler refused to look up."""
  found = re.search(r'GLOBAL (\S+) (?:was not an allowed|whose)', str(error))
  return found and found[1]


def _describe(error: Exception) -> str:
  """What is wrong, without what PyTorch says around it."""
  said = str(error).rpartition('WeightsUnpickler error: ')[2]
  return words.describe(type(error), said)


def _flatten(
  torch: Any, content: Any, path: str | os.PathLike[str]
) -> dict[str, Any]:
  """The tensors of dictionaries in one another, by names with dots.

  Dictionaries that hold all of them give them no name.
  """
  found: dict[tuple[str, ...], Any] = {}
  left: list[tuple[tuple[str, ...], Any]] = [((), content)]
  for _ in range(_MAX_ENTRIES):
    if not left:
      break
    keys, value = left.pop()
    if isinstance(value, torch.Tensor):
      found[keys] = value
    elif isinstance(value, Mapping) and len(keys) < _MAX_DEPTH:
      left += [
        ((*keys, key), inner)
        for key, inner in reversed([*value.items()])
        if isinstance(key, str)
      ]
  if left:
    raise ValueError(
      f'{path}: has more than {_MAX_ENTRIES:,} entries, {WANTED}'
    )
  outer, most = 0, min((len(keys) - 1 for keys in found), default=0)
  while outer < most and len({keys[outer] for keys in found}) == 1:
    outer += 1
  return {'.'.join(keys[outer:]): x for keys, x in found.items()}


def _check(
  torch: Any, name: str, tensor: Any, path: str | os.PathLike[str]
) -> None:
  """Refuses tensors that are no plain arrays."""
  kinds = {
    'nested': tensor.is_nested,
    'quantized': tensor.is_quantized,
    'sparse': tensor.layout is not torch.strided,
    'without values': tensor.is_meta,
  }
  for kind, is_such in kinds.items():
    if is_such:
      raise ValueError(
        f'{path}: {words.quote(name)} is {kind}, wanted a tensor of plain'
        ' floating point'
      )


def _to_numpy(
  name: str, tensor: Any, path: str | os.PathLike[str]
) -> np.ndarray:
  try:
    tensor = tensor.detach().resolve_conj().resolve_neg()
    # NumPy knows no bfloat16, and none of 8 bits.
    if tensor.is_floating_point() and tensor.element_size() < 4:
      tensor = tensor.float()
    return tensor.numpy()
  except (TypeError, RuntimeError) as error:  # Of types that have no values.
    raise ValueError(
      f'{path}: {words.quote(name)} is {tensor.dtype}, wanted a tensor of plain'
      ' floating point'
    ) from error
