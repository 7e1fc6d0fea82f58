"""Conversion of vision transformers, whose blocks are stacked here alone."""

from collections.abc import Iterator, Mapping
import math
import os
from typing import Any, NamedTuple

from flax import traverse_util
import jax
import numpy as np

from hq_jax.core import torch_names as names
from hq_jax.models.pretrained import checking
from hq_jax.models.pretrained import words

State = dict[str, np.ndarray]

_STACK = 'params/blocks/'
_POSITION = 'params/position_embedding'
_CLASS_TOKEN = 'params/class_token'
_DISTILLATION = ('dist_token', 'distillation_token')
# Behind the last block of Hugging Face's networks without a head.
_POOLER = 'pooler.'
# In this order they are one layer in timm.
_FUSED = ('query', 'key', 'value')
_SUFFIXES = {'kernel': '.weight', 'scale': '.weight', 'bias': '.bias'}


class _Source(NamedTuple):
  """Where one layer's part of a leaf comes from."""

  name: str  # in the state dictionary
  shape: tuple[int, ...]  # of that part, there
  part: int  # 0 but for keys and values in timm, 1 and 2


def to_flax(
  state: Mapping[str, np.ndarray],
  leaves: Mapping[str, Any],
  naming: names.Naming,
  *,
  architecture: str,
  new_head: bool = False,
  path: str | os.PathLike[str] = '',
) -> dict[str, Any]:
  """Makes Flax variables of a vision transformer from PyTorch.

  The names may be those of timm (`vit_*`, `deit_*`, `deit3_*`) or of Hugging
  Face's ViT. The layers of all blocks are stacked, timm's `qkv` is taken apart,
  and kernels `[out, in]` become `[in, out]`, with the axes of the heads.
  Position embeddings of another image size are resized as timm does, bicubic
  with antialiasing, for square images alone; DeiT III has none for the class
  token, where they are 0 then.
  """
  state = dict(state)
  where = f'{path}: ' if path else ''
  for name in state:
    if name.endswith(_DISTILLATION):
      raise ValueError(
        f'{where}{words.quote(name)} is there, wanted weights without a'
        f' distillation token: {architecture} has none'
      )
  if new_head:
    state = {n: x for n, x in state.items() if not n.startswith(_POOLER)}
  wanted, head = name_shapes(leaves, naming), f'{naming("head")}.'
  position = naming('position_embedding')
  if position in state:
    state[position] = _resize_positions(state[position], leaves)
  checking.check(
    state,
    wanted,
    architecture=architecture,
    is_head=lambda name: name.startswith(head),
    path=path,
  )
  flat = {p: _gather(state, p, x, naming) for p, x in leaves.items()}
  return traverse_util.unflatten_dict(flat, sep='/')


def to_timm(leaves: Mapping[str, Any], naming: names.Naming) -> State:
  """Makes a state dictionary of timm of a vision transformer's leaves."""
  state = {
    name: np.zeros(shape, np.float32)
    for name, shape in name_shapes(leaves, naming).items()
  }
  for path, leaf in leaves.items():
    layers = leaf if path.startswith(_STACK) else [leaf]
    sources = _list_sources(path, leaf, naming)
    for layer, (name, shape, part) in zip(layers, sources, strict=True):
      x = np.asarray(layer, np.float32)
      if len(shape) == 2:
        x = x.reshape(shape[::-1]).T
      elif len(shape) == 4:
        x = x.transpose(3, 2, 0, 1)
      start = part * shape[0]
      state[name][start : start + shape[0]] = x.reshape(shape)
  return state


def _list_sources(
  path: str, leaf: Any, naming: names.Naming
) -> Iterator[_Source]:
  """The source of each layer of a leaf; of one that is not stacked, its own."""
  module, _, kind = path.removeprefix('params/').rpartition('/')
  if kind not in _SUFFIXES:
    module = f'{module}/{kind}'.strip('/')
  suffix = _SUFFIXES.get(kind, '')
  shape = np.shape(leaf)
  if not path.startswith(_STACK):
    if kind == 'kernel':
      shape = checking.torch_shape(shape)
    yield _Source(f'{naming(module)}{suffix}', shape, 0)
    return
  depth, *shape = shape
  inside = module.removeprefix('blocks/')
  _, _, layer = inside.rpartition('/')
  if kind == 'kernel':
    num_inputs = math.prod(shape[:-1]) if layer == 'out' else shape[0]
    shape = (math.prod(shape) // num_inputs, num_inputs)
  else:
    shape = (math.prod(shape),)
  for number in range(depth):
    name = naming(f'blocks/{number}/{inside}')
    is_fused = layer in _FUSED and name == naming(
      f'blocks/{number}/attention/{_FUSED[0]}'
    )
    yield _Source(
      f'{name}{suffix}', shape, _FUSED.index(layer) if is_fused else 0
    )


def name_shapes(
  leaves: Mapping[str, Any], naming: names.Naming
) -> dict[str, tuple[int, ...]]:
  """The shapes that a state dictionary must have."""
  shapes: dict[str, tuple[int, ...]] = {}
  for path, leaf in leaves.items():
    for name, shape, _ in _list_sources(path, leaf, naming):
      # Of parts that share a name, the first axes one after the other.
      before = shapes.get(name, (0,))[0]
      shapes[name] = (before + shape[0], *shape[1:])
  return shapes


def _gather(
  state: State, path: str, leaf: Any, naming: names.Naming
) -> np.ndarray:
  """A leaf of the state dictionary's arrays, a float32 copy."""
  layers = []
  for name, shape, part in _list_sources(path, leaf, naming):
    start = part * shape[0]
    x = state[name][start : start + shape[0]]
    if len(shape) == 4:
      x = x.transpose(2, 3, 1, 0)
    layers.append(x.T if len(shape) == 2 else x)
  return np.array(np.stack(layers).reshape(leaf.shape), np.float32, order='C')


def _resize_positions(
  array: np.ndarray, leaves: Mapping[str, Any]
) -> np.ndarray:
  """Position embeddings for the network's number of tokens."""
  wanted = tuple(leaves[_POSITION].shape)
  first = int(_CLASS_TOKEN in leaves)
  if array.ndim != 3 or array.shape[::2] != wanted[::2]:
    return array  # Of another network: refused with everything else.
  if first and _find_side(array.shape[1]) is not None:
    # There are embeddings of the patches alone.
    array = np.pad(array, ((0, 0), (first, 0), (0, 0)))
  old, new = (_find_side(n - first) for n in (array.shape[1], wanted[1]))
  if array.shape == wanted or not old or not new:
    return array
  width = wanted[-1]
  grid = array[0, first:].reshape(old, old, width).astype(np.float32)
  resized = np.asarray(jax.image.resize(grid, (new, new, width), 'bicubic'))
  return np.concatenate([array[:, :first], resized.reshape(1, -1, width)], 1)


def _find_side(num_patches: int) -> int | None:
  """The side of a square of patches; None where they are none."""
  side = math.isqrt(max(num_patches, 0))
  return side if side**2 == num_patches else None
