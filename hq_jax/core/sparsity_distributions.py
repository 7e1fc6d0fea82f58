"""Sparsity allocations: a fraction of zeros for each kernel of a network."""

from collections.abc import Callable, Mapping, Sequence
import math
import re
from typing import Any

import numpy as np

# Below a third of zeros, more zeros make a file larger: codes are most random
# when -1, 0 and 1 are equally frequent.
MIN_SPARSITY = 1 / 3


def uniform(
  shapes: Mapping[str, tuple[int, ...]], sparsity: float
) -> dict[str, float]:
  """The same sparsity for every kernel: `s_l = s`.

  >>> uniform({'a': (2, 3), 'b': (4, 5)}, 0.5)
  {'a': 0.5, 'b': 0.5}

  Args:
    shapes: of the kernels by path.
    sparsity: a fraction in [0, 1).

  Returns:
    A fraction by path.
  """
  return dict.fromkeys(shapes, sparsity)


def erdos_renyi_kernel(
  shapes: Mapping[str, tuple[int, ...]], sparsity: float
) -> dict[str, float]:
  """Small kernels keep more: the Erdos-Renyi-kernel distribution.

  `1 - s_l = min(1, eps sum_i d_i / prod_i d_i)` with `d` the axes of kernel
  `l`, and `eps` such that the sparsity of all kernels together is `s`. From
  Evci et al., "Rigging the Lottery", ICML 2020.

  >>> found = erdos_renyi_kernel({'a': (4, 4), 'b': (100, 100)}, 0.9)
  >>> {path: round(s, 3) for path, s in found.items()}
  {'a': 0.0, 'b': 0.901}

  Args:
    shapes: of the kernels by path.
    sparsity: of all of them together, a fraction in [0, 1).

  Returns:
    A fraction in [0, 1) by path.
  """
  sizes = {path: math.prod(shape) for path, shape in shapes.items()}
  raw = {path: sum(shapes[path]) / sizes[path] for path in shapes}
  kept = (1.0 - sparsity) * sum(sizes.values())
  # The densest first: those that would have more than all are dense.
  order = sorted(shapes, key=lambda path: -raw[path])
  dense = 0
  for first, path in enumerate(order):
    rest = sum(sizes[p] * raw[p] for p in order[first:])
    epsilon = (kept - dense) / rest
    if epsilon * raw[path] < 1.0:
      break
    dense += sizes[path]
  else:
    return dict.fromkeys(shapes, 0.0)
  return {path: max(0.0, 1.0 - epsilon * raw[path]) for path in shapes}


DISTRIBUTIONS: dict[
  str,
  Callable[[Mapping[str, tuple[int, ...]], float], dict[str, float]],
] = {'uniform': uniform, 'erdos_renyi_kernel': erdos_renyi_kernel}


def distribute(
  distribution: str,
  shapes: Mapping[str, tuple[int, ...]],
  sparsity: float,
  layer_axes: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, float]:
  """The sparsity of each kernel, those of a stack counting as so many.

  >>> stacked, alone = {'a': (3, 8, 8), 'b': (64, 64)}, {'a': (0,)}
  >>> found = distribute('erdos_renyi_kernel', stacked, 0.9, alone)
  >>> {path: round(s, 3) for path, s in found.items()}
  {'a': 0.391, 'b': 0.924}

  Args:
    distribution: one of `DISTRIBUTIONS`.
    shapes: of the kernels by path.
    sparsity: of all of them together, a fraction in [0, 1).
    layer_axes: the axes along which layers are stacked by path, for those
      kernels that have any.

  Returns:
    A fraction by path, which is that of each layer.
  """
  stacks = layer_axes or {}
  first: dict[str, str] = {}
  layers: dict[str, tuple[int, ...]] = {}
  for path, shape in shapes.items():
    stacked = stacks.get(path, ())
    one = tuple(n for axis, n in enumerate(shape) if axis not in stacked)
    number = math.prod(shape[axis] for axis in stacked)
    first[path] = f'{path} 0'
    layers |= {f'{path} {i}': one for i in range(number)}
  found = DISTRIBUTIONS[distribution](layers, sparsity)
  return {path: found[name] for path, name in first.items()}


def resolve(values: Any, paths: Sequence[str]) -> dict[str, Any]:
  """One value for each path, from a single one or from a map by pattern.

  >>> resolve(0.5, ['a/kernel'])
  {'a/kernel': 0.5}
  >>> resolve({'head/.*': 0.5, '.*': 0.9}, ['conv/kernel', 'head/kernel'])
  {'conv/kernel': 0.9, 'head/kernel': 0.5}

  Args:
    values: one for all; or a map, each of whose keys is a path, or a regular
      expression that must match the whole path. A key that is a path stands
      for that kernel alone and comes first; otherwise the first expression
      that matches counts.
    paths: of the kernels.

  Returns:
    A value by path, in the order of the paths.

  Raises:
    ValueError: where a path has no value, a key matches nothing, or it is no
      regular expression.
  """
  if not isinstance(values, Mapping):
    return dict.fromkeys(paths, values)
  patterns = {key: _compile(key) for key in values if key not in paths}
  found, used = {}, set(values) - set(patterns)
  for path in paths:
    keys = [key for key in patterns if patterns[key].fullmatch(path)]
    used.update(keys)
    if path in values:
      keys.insert(0, path)
    if not keys:
      raise ValueError(
        f'sparsity has no value for {path}, wanted one of its keys to match:'
        f' {", ".join(values)}'
      )
    found[path] = values[keys[0]]
  if unused := [key for key in values if key not in used]:
    raise ValueError(
      f'sparsity: {unused[0]!r} matches no kernel, wanted one of:'
      f' {", ".join(list(paths)[:8])}'
    )
  return found


def scale_density(sparsity: Any, scale: Any, xp: Any = np) -> Any:
  """The sparsity at which a kernel keeps `scale` times as many weights.

  `max(1 - (1 - sparsity) scale, min(sparsity, 1/3))`: a file grows no further
  with less than a third of zeros.

  >>> [float(scale_density(0.75, scale)) for scale in (0.5, 2.0)]
  [0.875, 0.5]
  >>> round(float(scale_density(0.75, 9.0)), 3)
  0.333

  Args:
    sparsity: a fraction in [0, 1), or an array of them.
    scale: of the density, above 0; a number or an array.
    xp: the module of the arrays: `numpy`, or `jax.numpy` where they are traced.

  Returns:
    A number or an array.
  """
  scaled = 1.0 - (1.0 - sparsity) * scale
  return xp.maximum(scaled, xp.minimum(sparsity, MIN_SPARSITY))


def _compile(pattern: str) -> re.Pattern[str]:
  try:
    return re.compile(pattern)
  except re.error as error:
    raise ValueError(
      f'sparsity: {pattern!r} is no regular expression: {error}'
    ) from error
