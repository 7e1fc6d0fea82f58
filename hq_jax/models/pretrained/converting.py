"""Conversion of PyTorch state dictionaries to Flax variables, and back."""

from collections.abc import Mapping
import os
from typing import Any, NamedTuple

import chex
from flax import traverse_util
import numpy as np

from hq_jax.core import torch_names as names
from hq_jax.core import trees
from hq_jax.models.pretrained import architectures
from hq_jax.models.pretrained import checking
from hq_jax.models.pretrained import selecting
from hq_jax.models.pretrained import vision_transformers

State = dict[str, np.ndarray]

_UNUSED = 'num_batches_tracked'
_HEAD = 'params/head/'
# With which the names of our own variables begin.
_COLLECTIONS = ('params/', 'batch_stats/')


class Converted(NamedTuple):
  """Weights of a file as variables.

  Attributes:
    variables: what `model.apply` takes, without a head that is new.
    note: where in the file they were, and what there is left out, in words; ''
      where they are all of it.
  """

  variables: dict[str, Any]
  note: str


def to_flax(
  state: Mapping[str, np.ndarray],
  variables_shapes: chex.ArrayTree,
  *,
  architecture: str,
  new_head: bool = False,
  path: str | os.PathLike[str] = '',
) -> dict[str, Any]:
  """Makes Flax variables of weights from PyTorch.

  The names may be those of torchvision, timm or Hugging Face, of the latter for
  residual networks alone: its MobileNetV2 pads otherwise. All of them may begin
  with a prefix such as `module.`, see `selecting.select`, and what is pruned
  (`weight_orig`, `weight_mask`) is multiplied. Kernels `[out, in, h, w]` become
  `[h, w, in, out]`, `[out, in]` becomes `[in, out]`, depthwise ones `[c, 1, 3,
  3]` become `[3, 3, 1, c]`. `num_batches_tracked` is ignored: with a fixed
  momentum it has no use. Of vision transformers, see
  `vision_transformers.to_flax`. Names such as `params/head/kernel` are those of
  the variables themselves.
  """
  return convert(
    state,
    variables_shapes,
    architecture=architecture,
    new_head=new_head,
    path=path,
  ).variables


def convert(
  state: Mapping[str, np.ndarray],
  variables_shapes: chex.ArrayTree,
  *,
  architecture: str,
  new_head: bool = False,
  path: str | os.PathLike[str] = '',
) -> Converted:
  """As `to_flax`, and says what it took."""
  _, namings, is_transformer = architectures.get(architecture)
  if state and all(name.startswith(_COLLECTIONS) for name in state):
    return from_paths(
      state,
      variables_shapes,
      architecture=architecture,
      new_head=new_head,
      path=path,
    )
  leaves = trees.flatten(variables_shapes)
  if new_head:
    leaves = {p: x for p, x in leaves.items() if not p.startswith(_HEAD)}
  name_shapes = (
    vision_transformers.name_shapes if is_transformer else checking.name_shapes
  )
  wanted = [(naming, name_shapes(leaves, naming)) for naming in namings]
  state, naming, note = selecting.select(state, wanted, new_head=new_head)
  if is_transformer:
    variables = vision_transformers.to_flax(
      state,
      leaves,
      naming,
      architecture=architecture,
      new_head=new_head,
      path=path,
    )
    return Converted(variables, note)
  root = selecting.get_head_root(naming)
  checking.check(
    state,
    checking.name_shapes(leaves, naming),
    architecture=architecture,
    is_head=lambda name: name.partition('.')[0] == root,
    path=path,
  )
  found = names.name_leaves(leaves, naming)
  flat = {p: _to_flax_layout(state[name]) for p, name in found.items()}
  return Converted(traverse_util.unflatten_dict(flat, sep='/'), note)


def from_paths(
  leaves: Mapping[str, np.ndarray],
  variables_shapes: chex.ArrayTree,
  *,
  architecture: str,
  new_head: bool = False,
  path: str | os.PathLike[str] = '',
) -> Converted:
  """Makes variables of leaves by paths such as `params/head/kernel`."""
  wanted = {
    p: tuple(x.shape) for p, x in trees.flatten(variables_shapes).items()
  }
  is_head = lambda name: name.startswith(_HEAD)
  head = [p for p in leaves if new_head and is_head(p)]
  if new_head:
    wanted = {p: shape for p, shape in wanted.items() if not is_head(p)}
  leaves = {p: x for p, x in leaves.items() if p not in head}
  checking.check(
    leaves, wanted, architecture=architecture, is_head=is_head, path=path
  )
  flat = {p: np.array(leaves[p], np.float32) for p in wanted}
  note = f'left out: the head ({len(head)} tensors)' if head else ''
  return Converted(traverse_util.unflatten_dict(flat, sep='/'), note)


def to_torchvision(variables: chex.ArrayTree, *, architecture: str) -> State:
  """Makes a state dictionary of torchvision of Flax variables.

  The inverse of `to_flax`, with all `num_batches_tracked` zero. Of a vision
  transformer, in the names of timm.
  """
  leaves = trees.flatten(variables)
  (naming, *_), is_transformer = architectures.get(architecture)[1:]
  if is_transformer:
    return vision_transformers.to_timm(leaves, naming)
  num_classes = np.size(leaves.get(f'{_HEAD}bias', 0))
  shapes = trees.flatten(architectures.get_shapes(architecture, num_classes))
  got = {path: np.shape(leaf) for path, leaf in leaves.items()}
  wanted = {path: leaf.shape for path, leaf in shapes.items()}
  wrong, text = checking.compare(got, wanted)
  if wrong:
    raise ValueError(f'the variables do not fit {architecture} ({text})')
  state = {}
  for path, name in names.name_leaves(leaves, naming).items():
    state[name] = _to_torch_layout(np.asarray(leaves[path], np.float32))
    module, _, kind = name.rpartition('.')
    if kind == 'running_var':
      state[f'{module}.{_UNUSED}'] = np.zeros((), np.int64)
  return state


def _to_flax_layout(array: np.ndarray) -> np.ndarray:
  """A float32 copy with output channels last."""
  moved = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
  return np.array(moved, np.float32, order='C')


def _to_torch_layout(array: np.ndarray) -> np.ndarray:
  """A copy with output channels first."""
  moved = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
  return np.array(moved, order='C')
