"""The weights of a run's checkpoints, for another run to begin with."""

from collections.abc import Callable, Collection
import os
import re
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from hq_jax.core import trees
from hq_jax.runtime import workdir as workdir_lib
from hq_jax.runtime.checkpoint import fingerprints
from hq_jax.runtime.checkpoint import integrity
from hq_jax.runtime.checkpoint import orbax_io
from hq_jax.runtime.checkpoint import steps

_T = TypeVar('_T')

# The dense network goes before what was made of it.
_STAGES = 'dense', 'compress'
_PREFIX = 'state/'  # before the paths of a network
_COLLECTIONS = ('params/', 'batch_stats/')


class Saved(NamedTuple):
  """A network in a checkpoint.

  Attributes:
    path: of the step.
    digest: of all that is in it.
    shapes: and types, by paths such as `params/head/kernel`.
    leaves: likewise, as `fingerprints.describe` has them.
  """

  path: str
  digest: str
  shapes: dict[str, jax.ShapeDtypeStruct]
  leaves: dict[str, list[str]]


def find_newest(folder: str) -> str | None:
  """The newest step in a folder; None where there is none.

  The folder is a run's, or that of its checkpoints, of a stage, or of a step.
  A step of the dense stage goes before those of the compression.
  """
  if os.path.isdir(os.path.join(folder, 'meta')):
    return folder
  for inside in (workdir_lib.CHECKPOINTS, ''):
    for stage in (*_STAGES, ''):
      parent = os.path.join(folder, inside, stage)
      names = os.listdir(parent) if os.path.isdir(parent) else []
      numbers = [name for name in names if name.isdecimal()]
      if numbers:
        return os.path.join(parent, max(numbers, key=int))
  return None


def open_step(path: str) -> Saved:
  """Reads what a step says of itself."""

  def read() -> Saved:
    _, meta = steps.read_meta(os.path.abspath(path))
    leaves = {
      name.removeprefix(_PREFIX): leaf
      for name, leaf in meta['leaves'].items()
      if name.removeprefix(_PREFIX).startswith(_COLLECTIONS)
    }
    shapes = {name: _parse(leaf[0]) for name, leaf in leaves.items()}
    return Saved(path, meta['digest'], shapes, leaves)

  return _try(path, read)


def _parse(described: str) -> jax.ShapeDtypeStruct:
  """The type and shape in words such as `float32[8, 10]`."""
  dtype, *sizes = re.findall(r'\w+', described)
  return jax.ShapeDtypeStruct([*map(int, sizes)], np.dtype(dtype))


def read_arrays(saved: Saved, paths: Collection[str]) -> dict[str, np.ndarray]:
  """Reads some arrays of a step, which must be as they were saved."""
  like: dict[str, Any] = {}
  for path in paths:
    *folders, name = f'{_PREFIX}{path}'.split('/')
    node = like
    for folder in folders:
      node = node.setdefault(folder, {})
    node[name] = saved.shapes[path]
  as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
  args = ocp.args.PyTreeRestore(
    item=like,
    restore_args=jax.tree.map(lambda _: as_numpy, like),
    partial_restore=True,
  )

  def read() -> dict[str, np.ndarray]:
    found = steps.read_item(
      os.path.abspath(saved.path),
      'state',
      ocp.PyTreeCheckpointHandler(),
      args,
    )
    integrity.check_fingerprints(
      fingerprints.describe(found),
      {f'{_PREFIX}{path}': saved.leaves[path] for path in paths},
    )
    leaves = trees.flatten(found)
    return {path: leaves[f'{_PREFIX}{path}'] for path in paths}

  return _try(saved.path, read)


def _try(path: str, read: Callable[[], _T]) -> _T:
  """What is read; any failure is one line that names the step."""
  try:
    found, reason = orbax_io.attempt_here(read)
  except (OSError, jax.errors.JaxRuntimeError) as error:
    raise ValueError(f'{path} {orbax_io.to_line(error)}') from error
  if found is None:
    raise ValueError(f'{path} {reason}')
  return found
