"""The records of quantized tensors, shared by training and by the file.

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


class Int8Tensor(NamedTuple):
  """A tensor of eight bits: `value = codes * scale`.

  Invariants: `codes` is int8 with entries in [-127, 127], at least one axis
  (-128 has no opposite, and does not occur). `scale` is floating point:
  `[out]`, one per entry of the last axis, where there are two axes or more,
  and `[1]`, one for all, where there is one. With two axes or more it may be
  None, where every scale is one (it was folded into the normalization that
  follows).

  Attributes:
    codes: int8, `[.., out]`, a NumPy or JAX array.
    scale: float16 or float32, `[out]` or `[1]`, or None.
  """

  codes: Any
  scale: Any = None
