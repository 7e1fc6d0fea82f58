"""Slices of a ternary tensor: what of it is coded by itself.

A tensor whose scales are those of its last axis is one slice. One with other
axes of scales may be a stack of layers or have several axes of channels, which
the contexts of the coder know nothing of: each layer is a slice, with a model
of its own, and is seen as a matrix, inputs by outputs, or as a convolution.
"""

from collections.abc import Iterator, Sequence
import math
from typing import NamedTuple, TypeVar

import numpy as np

from hq_jax.artifact import layout

T = TypeVar('T')


class View(NamedTuple):
  """How a tensor is cut."""

  num_slices: int  # layers, in row-major order
  rest: tuple[int, ...]  # the axes of a layer
  is_transposed: bool  # whether these are reversed: outputs come first
  shape: tuple[int, ...]  # of a slice


def get_view(spec: layout.Spec) -> View:
  """The cut of a tensor, by its shape and the axes of its scale.

  Layers are the axes of scales before the first other one; if the last axis is
  none of scales, or no other axis is left, all of these but one. Where the
  outputs come first, a layer is transposed. If it then has four axes, with
  scales on the last one at most, it is a convolution; otherwise a matrix, its
  columns the axes of scales at the end, or the last axis.
  """
  shape, axes = spec.shape, spec.scale_axes
  if axes is None:
    return View(1, shape, False, shape)
  last = len(shape) - 1
  num_layers = next((i for i in range(len(shape)) if i not in axes), last + 1)
  if num_layers and (num_layers > last or last not in axes):
    num_layers -= 1
  rest = shape[num_layers:]
  is_kept = [axis in axes for axis in range(num_layers, len(shape))]
  is_transposed = is_kept[0] and not is_kept[-1]
  ordered = rest[::-1] if is_transposed else rest
  if is_transposed:
    is_kept.reverse()
  if len(ordered) != 4 or any(is_kept[:3]):
    first = len(ordered) - 1
    while first and is_kept[first] and is_kept[first - 1]:
      first -= 1
    ordered = math.prod(ordered[:first]), math.prod(ordered[first:])
  return View(math.prod(shape[:num_layers]), rest, is_transposed, ordered)


def cut(codes: np.ndarray, spec: layout.Spec) -> list[np.ndarray]:
  """The slices of a tensor's codes."""
  view = get_view(spec)
  layers = codes.reshape(view.num_slices, *view.rest)
  if view.is_transposed:
    return [layer.transpose().reshape(view.shape) for layer in layers]
  return [layer.reshape(view.shape) for layer in layers]


def join(slices: Sequence[np.ndarray], spec: layout.Spec) -> np.ndarray:
  """The inverse of `cut`."""
  if spec.scale_axes is None:
    return slices[0]
  view = get_view(spec)
  codes = np.empty((view.num_slices, *view.rest), np.int8)
  for layer, found in zip(codes, slices, strict=True):
    layer[:] = (
      found.reshape(view.rest[::-1]).transpose()
      if view.is_transposed
      else found.reshape(view.rest)
    )
  return codes.reshape(spec.shape)


def join_all(
  slices: list[np.ndarray], specs: Sequence[layout.Spec]
) -> Iterator[tuple[str, np.ndarray]]:
  """The codes of all ternary tensors, by path."""
  for (path, found), spec in zip(group(slices, specs), specs, strict=True):
    yield path, join(found, spec)


def group(
  items: Sequence[T], specs: Sequence[layout.Spec]
) -> Iterator[tuple[str, Sequence[T]]]:
  """What there is of each slice, by the path of its tensor."""
  start = 0
  for spec in specs:
    end = start + get_view(spec).num_slices
    yield spec.path, items[start:end]
    start = end


def get_shapes(specs: Sequence[layout.Spec]) -> list[tuple[int, ...]]:
  """The shapes of the slices of all ternary tensors, in order."""
  views = [get_view(spec) for spec in specs]
  return [view.shape for view in views for _ in range(view.num_slices)]


def count(specs: Sequence[layout.Spec]) -> int:
  """How many slices ternary tensors have in all."""
  return sum(get_view(spec).num_slices for spec in specs)


def check(specs: Sequence[layout.Spec]) -> None:
  """Refuses more slices than a file may declare."""
  total = count(layout.ternary(specs))
  if total > layout.MAX_SLICES:
    raise ValueError(
      f'{total} layers of ternary tensors, wanted at most {layout.MAX_SLICES}'
    )
