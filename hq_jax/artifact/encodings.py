"""The choice of an encoding: the shortest within an error budget.

Typical relative errors, measured on 64 channels of Gaussian values:

- int8: 0.4% with 9 weights per channel, 0.75% with 576, 0.9% with 4608 (it
  grows with the largest weight: of Student's t with 5 degrees of freedom
  0.5%, 1.3% and 2.1%), and 1.1% with one scale for a million values;
- float16: 2.1e-4, more where values are below 6e-5, its smallest normal number;
- float32: 2.5e-8.
"""

from collections.abc import Sequence
import math
from typing import Any

import numpy as np

from hq_jax.core import qtensors

_MAX_CODE = 127
_FLOAT32_MAX = float(np.finfo(np.float32).max)
# The largest float32 whose 127-fold is within float32 too: a reader multiplies
# in that type.
_MAX_SCALE = float(np.nextafter(np.float32(_FLOAT32_MAX / 127), 0))
# float16 rounds no normal number by more than this fraction of it.
_FLOAT16_ROUNDING = 2.0**-11


def quantize_int8(values: Any) -> qtensors.Int8Tensor:
  """Rounds to codes of eight bits, symmetric, with a scale per channel.

  `s_j = max abs(x_j) / 127`, `codes = round(x_j / s_j)` (half to even), `j`
  being the last axis; a tensor of one axis has one `s`. Codes are those of
  the scale as it is stored: all in float16 where that rounds none of them by
  more than 2^-11 of it, as it rounds normal numbers, and else in float32. A
  channel of zeros has scale 0 and codes 0. Computed in float64.

  Args:
    values: `[.., out]`, one axis or more, finite, within float32's range.

  Returns:
    int8 codes in [-127, 127], scale float16 or float32, `[out]` or `[1]`.

  Raises:
    ValueError: no axis, NaN, infinity, or a value beyond float32's range.

  >>> tensor = quantize_int8([[-254.0, 0.0], [3.0, 0.0]])
  >>> tensor.codes.tolist(), tensor.scale.tolist()
  ([[-127, 0], [2, 0]], [2.0, 0.0])
  """
  array = _check_values(values)
  if not array.ndim:
    raise ValueError('values has no axis, wanted one or more')
  axes = tuple(range(array.ndim - 1)) or (0,)
  largest = np.max(np.abs(array), axis=axes, initial=0.0)
  scale = _round_scale(np.atleast_1d(largest))
  divisor = np.where(scale > 0, scale, 1).astype(np.float64)
  codes = np.rint(array / divisor).astype(np.int8)
  return qtensors.Int8Tensor(codes, scale)


def relative_error(
  values: Any, encoded: np.ndarray | qtensors.Int8Tensor
) -> float:
  """How far an encoding is from the values, `||x - x_hat|| / ||x||`.

  Computed in float64, safe where squares would leave its range.
  """
  array = _check_finite(values)
  decoded = _decode(encoded)
  if decoded.shape != array.shape:
    raise ValueError(
      f'encoded has shape {decoded.shape}, wanted {array.shape} as of values'
    )
  largest = float(np.max(np.abs(array), initial=0.0))
  if largest == 0:
    return math.inf if np.any(decoded) else 0.0
  with np.errstate(over='ignore'):
    difference = np.linalg.norm(np.ravel((decoded - array) / largest))
  return float(difference / np.linalg.norm(np.ravel(array / largest)))


def _largest_error(
  values: Any,
  encoded: np.ndarray | qtensors.Int8Tensor,
  layer_axes: Sequence[int],
) -> float:
  """That of the layer where it is largest: small ones count as much."""
  first = range(len(layer_axes))
  values = np.moveaxis(_check_finite(values), layer_axes, first)
  decoded = np.moveaxis(_decode(encoded), layer_axes, first)
  layers = np.ndindex(*values.shape[: len(layer_axes)])
  return max((relative_error(values[i], decoded[i]) for i in layers), default=0)


def encode_float(
  values: Any, max_error: float, layer_axes: Sequence[int] = ()
) -> np.ndarray:
  """Takes float16 where its relative error is within a budget, else float32."""
  array = _check_values(values)
  if not max_error >= 0:
    raise ValueError(f'max_error is {max_error}, wanted >= 0')
  with np.errstate(over='ignore'):
    half = array.astype(np.float16)
  is_finite = np.all(np.isfinite(half))
  if is_finite and _largest_error(array, half, layer_axes) <= max_error:
    return half
  return array.astype(np.float32)


def encode(
  values: Any, max_error: float, layer_axes: Sequence[int] = ()
) -> np.ndarray | qtensors.Int8Tensor:
  """Takes the shortest of int8, float16 and float32 within an error budget.

  Where layers are stacked, each of them is within it.

  Their lengths are those of codes, scales and values before DEFLATE: int8 is
  `n + 2 out` or `n + 4 out` bytes, which is not shorter than float16's `2 n`
  where a channel has one or two weights. At equal length the arrays of floats
  are taken.
  """
  floats = encode_float(values, max_error, layer_axes)
  if not floats.ndim:
    return floats
  tensor = quantize_int8(values)
  num_bytes = tensor.codes.nbytes + tensor.scale.nbytes
  is_within = _largest_error(values, tensor, layer_axes) <= max_error
  return tensor if is_within and num_bytes < floats.nbytes else floats


def _round_scale(largest: np.ndarray) -> np.ndarray:
  wanted = np.minimum(largest / _MAX_CODE, _MAX_SCALE)
  with np.errstate(over='ignore'):
    half = wanted.astype(np.float16)
  if np.all(np.abs(half - wanted) <= _FLOAT16_ROUNDING * wanted):
    return half
  scale = wanted.astype(np.float32)
  # float32's subnormal numbers are so coarse that a code could become 128.
  is_short = 127.5 * scale.astype(np.float64) <= largest
  above = np.nextafter(scale, np.float32(np.inf))
  return np.where(is_short & (largest > 0), above, scale)


def _decode(encoded: np.ndarray | qtensors.Int8Tensor) -> np.ndarray:
  if not isinstance(encoded, qtensors.Int8Tensor):
    return np.asarray(encoded, np.float64)
  scale = 1.0 if encoded.scale is None else encoded.scale
  return np.asarray(encoded.codes, np.float64) * np.asarray(scale, np.float64)


def _check_finite(values: Any) -> np.ndarray:
  array = np.asarray(values, np.float64)
  if not np.all(np.isfinite(array)):
    raise ValueError('values: NaN or infinity')
  return array


def _check_values(values: Any) -> np.ndarray:
  array = _check_finite(values)
  if np.any(np.abs(array) > _FLOAT32_MAX):
    raise ValueError('values: a value is beyond the range of float32')
  return array
