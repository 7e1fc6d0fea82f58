"""The record of a quantized tensor, shared by training and by the file.

It imports no JAX, so that a reader of `.hq` files needs NumPy alone.
"""

from typing import Any, NamedTuple


class TernaryTensor(NamedTuple):
  """A ternary kernel: `value = codes * scale`, with one scale per channel.

  Invariants: `codes` is int8 with entries in {-1, 0, 1}, at least one axis;
  `scale` is floating point and broadcasts against `codes`: its shape is
  `[out]` where the output channel is the last axis, and `[out, 1, ..]` with a
  one for each axis behind it elsewhere. It is None where every scale is one (it
  was folded into the normalization that follows). A file holds kernels whose
  output channel is the last axis.

  Attributes:
    codes: int8, `[.., out, ..]`, a NumPy or JAX array.
    scale: float16 or float32, `[out, 1, ..]`, or None.
  """

  codes: Any
  scale: Any = None
