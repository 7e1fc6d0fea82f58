"""Quantized tensors, shared by training and by the file.

It imports no JAX, so that a reader of `.hq` files needs NumPy alone.
"""

from typing import Any, NamedTuple


class TernaryTensor(NamedTuple):
  """A ternary kernel: `value = codes * scale`, with a scale for each channel.

  Invariants: `codes` is int8 with entries in {-1, 0, 1}, at least one axis;
  `scale` is floating point and has as many axes as `codes`: their size, or 1
  where the numbers along an axis share a scale. A dense kernel `[in, out]` has
  `[1, out]`, a stack of them `[layers, 1, out]`, an Equinox weight `[out, in]`
  has `[out, 1]`. It is None where every scale is one (it was folded into the
  normalization that follows).

  Attributes:
    codes: int8, `[.., out, ..]`, a NumPy or JAX array.
    scale: float16 or float32, `[1, .., out, 1, ..]`, or None.
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


class CodebookTensor(NamedTuple):
  """A kernel of codewords: `value[.., d g + i, j] = codewords[k, i] scale[j]`.

  `k = indices[.., g, j]`: a codeword stands for `d` weights of one output
  channel that follow each other along the input channels. With `d = 1` the
  codewords are the levels of a scalar quantizer.

  Invariants: `indices` is uint8 with two axes or more and entries below `K`;
  `codewords` is floating point, `[K, d]`, with `1 <= K <= 256` and `d >= 1`;
  the kernel has the shape `[.., d groups, out]`. `scale` is floating point,
  `[out]`, or None where every scale is one (it was folded into the
  normalization that follows).

  Attributes:
    indices: uint8, `[.., groups, out]`, a NumPy or JAX array.
    codewords: float16 or float32, `[K, d]`.
    scale: float16 or float32, `[out]`, or None.
  """

  indices: Any
  codewords: Any
  scale: Any = None
