"""The weights that training begins with, where they are not random."""

from collections.abc import Mapping
import hashlib
import os
from typing import Any, NamedTuple

import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax import config as config_lib
from hq_jax.artifact import format as container
from hq_jax.artifact import reader
from hq_jax.artifact import variables as variables_lib
from hq_jax.core import trees
from hq_jax.models import pretrained
from hq_jax.runtime import checkpoint
from hq_jax.runtime import workdir as workdir_lib


class Weights(NamedTuple):
  """The weights of `config.pretrained`.

  Attributes:
    variables: that take the place of random ones; {} for none.
    note: which of what is there they are, in words; '' for all of a file.
    digest: of what they were read from; '' for none.
  """

  variables: dict[str, Any]
  note: str
  digest: str


def read(config: config_lib.Config, shapes: Any) -> Weights:
  """Reads the weights that a config names, for variables of these shapes."""
  path = config.pretrained
  if not config.dense.epochs and (path is None or not config.pretrained_head):
    what = 'network' if path is None else 'classifier'
    raise ValueError(
      f'config.dense.epochs is 0, wanted at least 1: the {what} begins with'
      ' random weights'
    )
  if path is None:
    return Weights({}, '', '')
  path = os.path.expanduser(path)
  model = config.model.name
  kwargs = {'architecture': model, 'new_head': not config.pretrained_head}
  try:
    if os.path.isdir(path):
      return _read_folder(path, shapes, kwargs)
    is_own = os.path.exists(path) and _is_own(path)
    if is_own or model in pretrained.ARCHITECTURES:
      return _read_file(path, shapes, kwargs)
  except OSError as error:
    raise ValueError(
      f'config.pretrained is {path!r}: {error.strerror}'
    ) from error
  except ValueError as error:
    raise ValueError(f'config.pretrained: {error}') from error
  raise ValueError(
    f'config.pretrained is {path!r}, but config.model.name is {model!r},'
    f' wanted one of: {", ".join(pretrained.ARCHITECTURES)}'
  )


def _is_own(path: str) -> bool:
  """Whether this library wrote a file."""
  return pretrained.peek(path).startswith(container.MAGIC)


def _read_file(path: str, shapes: Any, kwargs: Mapping[str, Any]) -> Weights:
  if _is_own(path):
    found = _read_own(path, shapes, kwargs)
  else:
    state = pretrained.read(path)
    found = pretrained.convert(state, shapes, path=path, **kwargs)
  with open(path, 'rb') as file:
    digest = hashlib.file_digest(file, 'sha256').hexdigest()
  return Weights(found.variables, found.note, digest)


def _read_own(
  path: str, shapes: Any, kwargs: Mapping[str, Any]
) -> pretrained.Converted:
  """A file of this library, whose tensors are compared before they are read."""
  data = reader.read_bytes(path)
  with reader.naming(path):
    parsed = reader.parse(data)
  there = variables_lib.list_shapes(parsed.header)
  leaves = {p: _stand_in(np.float32, shape) for p, shape in there.items()}
  fitting = pretrained.from_paths(leaves, shapes, path=path, **kwargs)
  with reader.naming(path):
    artifact = reader.decode(parsed)
  # What else there is, a head that is left out, may be of any size.
  wanted = trees.flatten(shapes)
  tensors = {p: x for p, x in artifact.tensors.items() if p in wanted}
  tensors = {p: x for p, x in tensors.items() if there[p] == wanted[p].shape}
  some = artifact._replace(tensors=tensors, nesting=None)
  variables = artifact_lib.to_variables(some)
  found = pretrained.from_paths(
    trees.flatten(variables), shapes, path=path, **kwargs
  )
  return found._replace(note=fitting.note)


def _stand_in(dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
  """Zeros of any shape, which take no memory."""
  return np.broadcast_to(np.zeros((), dtype), shape)


def _read_folder(path: str, shapes: Any, kwargs: Mapping[str, Any]) -> Weights:
  """The newest checkpoint of a run, or its file where there is none."""
  step = checkpoint.find_newest(path)
  model = os.path.join(path, workdir_lib.MODEL)
  if step is None and os.path.exists(model):
    file = _read_file(model, shapes, kwargs)
    return file._replace(note=_join(f'those of {model}', file.note))
  if step is None:
    raise ValueError(
      f'{path}: a folder without a checkpoint, wanted that of a run, or a file'
    )
  saved = checkpoint.open_step(step)
  wanted = trees.flatten(shapes)
  fits = lambda name: name in wanted and saved.shapes[name] == wanted[name]
  # What is read is known to be no larger than the network.
  leaves = {
    name: _stand_in(x.dtype, x.shape) for name, x in saved.shapes.items()
  } | checkpoint.read_arrays(saved, list(filter(fits, saved.shapes)))
  found = pretrained.from_paths(leaves, shapes, path=step, **kwargs)
  note = _join(f'those of {step}', found.note)
  return Weights(found.variables, note, saved.digest)


def _join(*notes: str) -> str:
  return '; '.join(filter(None, notes))
