"""Conversion of PyTorch state dictionaries to Flax variables, and back."""

from collections.abc import Mapping
import os
from typing import Any

import chex
from flax import traverse_util
import numpy as np

from hq_jax.core import torch_names as names
from hq_jax.core import trees
from hq_jax.models.pretrained import architectures
from hq_jax.models.pretrained import checking
from hq_jax.models.pretrained import vision_transformers

State = dict[str, np.ndarray]

_UNUSED = 'num_batches_tracked'
# Before the names of Hugging Face's networks with a head, not of those without.
_PREFIX = 'resnet.'
_HEAD = 'params/head/'


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
  residual networks alone: its MobileNetV2 pads otherwise. Kernels `[out, in, h,
  w]` become `[h, w, in, out]`, `[out, in]` becomes `[in, out]`, depthwise ones
  `[c, 1, 3, 3]` become `[3, 3, 1, c]`. `num_batches_tracked` is ignored: with a
  fixed momentum it has no use. Of vision transformers, see
  `vision_transformers.to_flax`.
  """
  leaves = trees.flatten(variables_shapes)
  _, namings, is_transformer = architectures.get(architecture)
  if is_transformer:
    return vision_transformers.to_flax(
      state,
      leaves,
      namings,
      architecture=architecture,
      new_head=new_head,
      path=path,
    )
  state = {
    name.removeprefix(_PREFIX): array
    for name, array in state.items()
    if name.rpartition('.')[2] != _UNUSED
  }
  naming = names.find_naming(state, leaves, namings)
  head = naming('head')
  if new_head:
    state = {n: x for n, x in state.items() if n.rpartition('.')[0] != head}
    leaves = {p: x for p, x in leaves.items() if not p.startswith(_HEAD)}
  wanted = checking.name_shapes(leaves, naming)
  checking.check(state, wanted, architecture=architecture, head=head, path=path)
  found = names.name_leaves(leaves, naming)
  return traverse_util.unflatten_dict(
    {p: _to_flax_layout(state[name]) for p, name in found.items()}, sep='/'
  )


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
