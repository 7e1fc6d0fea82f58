"""The record of a quantized tensor, shared by training and by the file.

It imports no JAX, so that a reader of `.hq` files needs NumPy alone.
"""

from typing import Any, NamedTuple


class TernaryTensor(NamedTuple):
  """A ternary kernel: `value[..., j] = codes[..., j] * scale[j]`.

  Invariants: `codes` is int8 with entries in {-1, 0, 1}, at least one axis,
  its output channel last; `scale` is floating point with shape
  `[codes.shape[-1]]`, or None where every scale is one (it was folded into
  the normalization that follows).

  Attributes:
    codes: int8, `[..., out]`, a NumPy or JAX array.
    scale: float16 or float32, `[out]`, or None.
  """

  codes: Any
  scale: Any = None
