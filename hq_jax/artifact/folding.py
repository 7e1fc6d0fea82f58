"""Batch norms folded to one scale and one bias per channel.

A batch norm at evaluation computes `gamma (x - mean) / sqrt(var + eps) +
beta = a x + b`. If `x` is the output of a ternary or int8 kernel with the scale
`s` per channel, and nothing stands in between, `s` goes into `a`: the kernel's
codes then need no scale of their own.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy import typing as npt

from hq_jax.artifact import encodings
from hq_jax.artifact import layout
from hq_jax.artifact import model as model_lib
from hq_jax.core import qtensors

Folded = dict[str, model_lib.Tensor]
Kernel = qtensors.TernaryTensor | qtensors.CodebookTensor

_STATISTICS = 'batch_stats'
# What a message calls a quantized tensor.
_WORDS = {
  qtensors.TernaryTensor: 'ternary',
  qtensors.CodebookTensor: 'codebook',
  qtensors.Int8Tensor: 'int8',
}


def fold(
  variables: Mapping[str, Any],
  ternary: Mapping[str, Kernel],
  pairs: Mapping[str, str],
  epsilons: Mapping[str, float],
  float_dtype: npt.DTypeLike = np.float16,
  *,
  int8: Mapping[str, qtensors.Int8Tensor] = {},
  max_error: float | None = None,
  layer_axes: Mapping[str, tuple[int, ...]] = {},
) -> tuple[Folded, dict[str, float]]:
  """Turns a trained model's variables into the tensors of a file.

  For every norm, `a = gamma / sqrt(var + eps)`, `b = beta - a mean`. Its
  'scale' becomes `a s`, `s` being the scale of the quantized kernel that it is
  paired with (1 without one, or where that has none), its 'bias' `b`; its
  statistics go. A paired quantized kernel keeps its codes, or its indices and
  codewords, only; a pair whose kernel is not quantized changes neither of the
  two. Computed in float64, rounded once. Of a leaf that is quantized, the shape
  counts alone.

  Args:
    variables: nested dicts, 'params' and 'batch_stats', of arrays.
    ternary: path of a kernel, as 'params/stem/conv/kernel' -> its codes and
      its scale per output channel; or its indices, codewords (float16 or
      float32, stored as they are) and scale. It stands in for the leaf in
      `variables`.
    pairs: path of a norm inside params, as 'stem/norm' -> that of the module
      whose output it takes, unchanged: its kernel has no bias.
    epsilons: path of every norm to fold -> its epsilon, in [0, 1].
    float_dtype: float16 or float32: of all leaves but codes and codewords. A
      tensor with a value beyond its range becomes float32.
    int8: path of a leaf -> its codes and its scale, float16 or float32, as of
      `encodings.quantize_int8`; it stands in for the leaf. A scale that is not
      folded into a norm is stored as it is: the codes were made for it.
    max_error: where it is given, every leaf that is not quantized
      is stored by the shortest encoding whose relative error is no larger
      (see `encodings.encode`), and `float_dtype` is that of the scales of
      `ternary` alone. Folded norms and all statistics become no int8: a file
      wants the ones as floats, and a variance of 0 would make the others
      useless.
    layer_axes: path of a leaf -> the axes along which layers are stacked in it:
      each of them is within `max_error`.

  Returns:
    `tensors` and `folded_norms`, as `model_lib.Artifact` holds them.

  Raises:
    ValueError: a path that is not there or has another shape, one that is
      both in `ternary` and in `int8`, a bias between a kernel and its norm, one
      kernel in two pairs, a variance + epsilon that is not positive, a value
      that is not finite, or a `max_error` that is negative or NaN.

  >>> norm = {'scale': np.full(1, 4.0), 'bias': np.full(1, 1.0)}
  >>> stats = {'mean': np.full(1, 3.0), 'var': np.full(1, 3.0)}
  >>> variables = {'params': {'bn': norm}, 'batch_stats': {'bn': stats}}
  >>> found, norms = fold(variables, {}, {}, {'bn': 1.0})
  >>> float(found['params/bn/scale'][0]), float(found['params/bn/bias'][0])
  (2.0, -5.0)
  """
  if both := sorted(ternary.keys() & int8.keys()):
    raise ValueError(f'int8 is given for {both[0]!r}, which is in ternary too')
  quantized: dict[str, model_lib.Quantized] = {**ternary, **int8}
  leaves = {
    path: leaf if path in quantized else _finite(path, leaf)
    for path, leaf in _flatten(variables).items()
  }
  scales = _get_scales(quantized, leaves)
  _check_pairs(pairs, epsilons, leaves)
  for norm, epsilon in epsilons.items():
    a, b = _affine(norm, epsilon, leaves)
    if norm in pairs:
      kernel = f'params/{pairs[norm]}/kernel'
      # A single axis may have one scale for all: it stays where it is, as what
      # varies along other axes.
      own = scales.get(kernel, np.ones(1))
      if leaves[kernel].ndim > 1 and own.size == own.shape[-1]:
        a = a * np.ravel(scales.pop(kernel, own))
    leaves[f'params/{norm}/scale'], leaves[f'params/{norm}/bias'] = a, b
    del leaves[f'{_STATISTICS}/{norm}/mean']
    del leaves[f'{_STATISTICS}/{norm}/var']
  found: Folded = {}
  for path, leaf in leaves.items():
    if path in quantized:
      scale = scales.get(path)
      found[path] = _store(path, quantized[path], scale, float_dtype)
    elif max_error is None:
      found[path] = _round(path, leaf, float_dtype)
    else:
      is_norm = path.rpartition('/')[0].removeprefix('params/') in epsilons
      is_float = is_norm or not path.startswith('params/')
      axes = layer_axes.get(path, ())
      found[path] = _encode(path, leaf, max_error, is_float, axes)
  return found, {norm: float(epsilon) for norm, epsilon in epsilons.items()}


def _flatten(
  tree: Mapping[str, Any], prefix: str = ''
) -> dict[str, np.ndarray]:
  leaves: dict[str, np.ndarray] = {}
  for name, node in tree.items():
    path = f'{prefix}{name}'
    inside = {path: node}
    if isinstance(node, Mapping):
      inside = _flatten(node, f'{path}/')
    elif not hasattr(node, '__array__') or not isinstance(name, str):
      raise ValueError(
        f'variables: {path!r:.80} is of type {type(node).__name__}, wanted'
        ' arrays in dicts by name; hq_jax.compress takes other trees'
      )
    for key, leaf in inside.items():
      if key in leaves:
        raise ValueError(f'variables: {key!r:.80} is there twice, wanted once')
      leaves[key] = np.asarray(leaf)
  return leaves


def _finite(path: str, values: Any) -> np.ndarray:
  array = np.asarray(values)
  if not np.all(np.isfinite(array)):
    raise ValueError(f'{path!r}: NaN or infinity')
  return array


def _get_scales(
  quantized: Mapping[str, model_lib.Quantized], leaves: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  scales = {}
  for path, tensor in quantized.items():
    name = f'{_WORDS[type(tensor)]} {path!r}'
    if path not in leaves:
      raise ValueError(f'{name}: no such leaf in variables')
    shape = layout.shape_of(tensor)
    if shape != leaves[path].shape or not shape:
      raise ValueError(
        f'{name}: shape {shape}, in variables {leaves[path].shape}'
      )
    if isinstance(tensor, qtensors.CodebookTensor):
      _finite(f'{path}: codewords', tensor.codewords)
    if tensor.scale is None:
      continue
    scales[path] = _finite(f'{path}: scale', tensor.scale).astype(np.float64)
    single = np.zeros_like(scales[path], np.float32)
    spec = layout.spec_of(path, tensor._replace(scale=single))
    wanted = layout.shape_of_scale(spec)
    if scales[path].shape != wanted:
      raise ValueError(
        f'{name}: scale has shape {scales[path].shape}, wanted {wanted}'
      )
  return scales


def _check_pairs(
  pairs: Mapping[str, str],
  epsilons: Mapping[str, float],
  leaves: Mapping[str, np.ndarray],
) -> None:
  for norm, module in pairs.items():
    if norm not in epsilons:
      raise ValueError(f'pair {norm!r}: no epsilon is given for this norm')
    kernel = leaves.get(f'params/{module}/kernel')
    if kernel is None:
      raise ValueError(f'pair {norm!r}: no kernel in params of {module!r}')
    if f'params/{module}/bias' in leaves:
      raise ValueError(f'pair {norm!r}: {module!r} has a bias in between')
    scale = leaves.get(f'params/{norm}/scale')
    if scale is not None and scale.shape != kernel.shape[-1:]:
      raise ValueError(
        f'pair {norm!r}: scale has shape {scale.shape}, the kernel of '
        f'{module!r} {kernel.shape}'
      )
  modules = list(pairs.values())
  repeated = {module for module in modules if modules.count(module) > 1}
  if repeated:
    raise ValueError(f'pairs: {sorted(repeated)} have more than one norm')


def _affine(
  norm: str, epsilon: float, leaves: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
  if not 0 <= epsilon <= 1:
    raise ValueError(f'norm {norm!r}: epsilon {epsilon}, wanted [0, 1]')
  paths = [f'params/{norm}/scale', f'params/{norm}/bias']
  paths += [f'{_STATISTICS}/{norm}/mean', f'{_STATISTICS}/{norm}/var']
  missing = [path for path in paths if path not in leaves]
  if missing:
    raise ValueError(f'norm {norm!r}: {missing[0]!r} is not in variables')
  gamma, beta, mean, variance = (
    leaves[path].astype(np.float64) for path in paths
  )
  if not gamma.shape == beta.shape == mean.shape == variance.shape:
    raise ValueError(f'norm {norm!r}: its four tensors differ in shape')
  if gamma.ndim != 1:
    raise ValueError(f'norm {norm!r}: {gamma.ndim} axes, wanted 1')
  if np.any(variance < 0) or np.any(variance + epsilon <= 0):
    raise ValueError(f'norm {norm!r}: variance + epsilon is not positive')
  a = gamma / np.sqrt(variance + epsilon)
  return a, beta - a * mean


def _store(
  path: str,
  tensor: model_lib.Quantized,
  scale: np.ndarray | None,
  float_dtype: npt.DTypeLike,
) -> model_lib.Quantized:
  parts = [None if part is None else np.asarray(part) for part in tensor]
  stored = type(tensor)(*parts)
  if scale is None:
    return stored._replace(scale=None)
  if isinstance(stored, qtensors.Int8Tensor):
    return stored
  return stored._replace(scale=_round(path, scale, float_dtype))


def _encode(
  path: str,
  values: np.ndarray,
  max_error: float,
  is_float: bool,
  layer_axes: tuple[int, ...],
) -> model_lib.Tensor:
  encode = encodings.encode_float if is_float else encodings.encode
  try:
    return encode(values, max_error, layer_axes)
  except ValueError as error:
    raise ValueError(f'{path!r}: {error}') from error


def _round(
  path: str, values: np.ndarray, float_dtype: npt.DTypeLike
) -> np.ndarray:
  for dtype in (np.dtype(float_dtype), np.dtype(np.float32)):
    with np.errstate(over='ignore'):
      rounded = values.astype(dtype)
    if np.all(np.isfinite(rounded)):
      return rounded
  raise ValueError(f'{path!r}: a value is beyond the range of float32')
