"""Checks of weights: what is wrong with them, in one line."""

from collections.abc import Callable, Mapping
import os
from typing import Any

import jax.numpy as jnp
import numpy as np

from hq_jax.core import torch_names as names
from hq_jax.core import trees
from hq_jax.models.pretrained import architectures
from hq_jax.models.pretrained import words

Shapes = Mapping[str, tuple[int, ...]]


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape that PyTorch has for that of a Flax leaf."""
  # The last two axes, turned around, then those before.
  return (*shape[:-3:-1], *shape[:-2])


def name_shapes(
  leaves: Mapping[str, Any], naming: names.Naming
) -> dict[str, tuple[int, ...]]:
  """The shapes that a PyTorch state dictionary must have."""
  found = names.name_leaves(leaves, naming)
  return {found[path]: torch_shape(np.shape(x)) for path, x in leaves.items()}


def compare(got: Shapes, wanted: Shapes) -> tuple[list[str], str]:
  """The names at which shapes differ from a network's, and how, in words."""
  missing = [name for name in wanted if name not in got]
  extra = [name for name in got if name not in wanted]
  differ = [n for n in wanted if n in got and got[n] != wanted[n]]
  kinds = {
    'missing': missing,
    'not wanted': list(map(words.quote, extra)),
    'wrong shape': [f'{n} {got[n]} for {wanted[n]}' for n in differ],
  }
  text = '; '.join(
    f'{kind}: {words.list_some(found)}'
    for kind, found in kinds.items()
    if found
  )
  return [*missing, *extra, *differ], text


def check(
  state: Mapping[str, np.ndarray],
  wanted: Shapes,
  *,
  architecture: str,
  is_head: Callable[[str], bool],
  path: str | os.PathLike[str] = '',
) -> None:
  """Refuses weights that are not those of a network."""
  where = f'{path}: ' if path else ''
  got = {name: np.shape(array) for name, array in state.items()}
  wrong, text = compare(got, wanted)
  if wrong and all(map(is_head, wrong)):
    raise ValueError(
      f'{where}the head of the weights is not that of the model ({text}),'
      ' --config.pretrained_head=False trains a new one'
    )
  if wrong:
    other = _recognize(got)
    hint = (
      f', they look like {other}' if other not in (None, architecture) else ''
    )
    raise ValueError(
      f'{where}the weights do not fit {architecture} ({text}){hint}'
    )
  bad = _find_bad_values(state)
  if bad is not None:
    raise ValueError(f'{where}{bad}')


def _recognize(got: Shapes) -> str | None:
  """The network that weights belong to, whatever their head."""
  if any(name.startswith('mobilenet_v2.') for name in got):
    return 'the MobileNetV2 of Hugging Face, which pads otherwise'
  fits = {}
  for architecture, (_, namings, is_vit) in architectures.ARCHITECTURES.items():
    for naming in namings:
      if is_vit:
        # Its width says which it is, and most are only that wide.
        kernel = trees.flatten(architectures.get_shapes(architecture, 1))[
          'params/patch_embed/kernel'
        ]
        shape = got.get(f'{naming("patch_embed")}.weight')
        if shape == torch_shape(kernel.shape):
          fits[architecture] = 0
        continue
      if f'{naming("conv_stem")}.weight' not in got:
        continue
      leaves = trees.flatten(architectures.get_shapes(architecture, 1))
      wanted = name_shapes(leaves, naming)
      head = naming('head')
      wrong = [
        name
        for name, shape in wanted.items()
        if got.get(name) != shape and name.rpartition('.')[0] != head
      ]
      if not wrong:
        fits[architecture] = len(wanted)
  # The names of a deep network include those of a shallow one.
  return max(fits, key=lambda name: fits[name]) if fits else None


def _find_bad_values(state: Mapping[str, np.ndarray]) -> str | None:
  """The first array that no network can compute with, and why."""
  for name, array in state.items():
    if not jnp.issubdtype(array.dtype, jnp.floating):
      return f'{name} is {array.dtype}, wanted floating point'
    # float64 may hold more than float32 does.
    with np.errstate(over='ignore'):
      values = array.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
      return f'{name} has values that are not finite, wanted finite ones'
    if name.endswith(('.running_var', '/var')) and (values < 0).any():
      return f'{name} has negative values, wanted variances'
  return None
