"""Bytes of an ONNX model, written without the `onnx` package.

An ONNX file is a protobuf message; its fields and their numbers are in
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

FLOAT, UINT8, INT8, INT32, INT64, FLOAT16 = 1, 2, 3, 6, 7, 10
INT2 = 26
_TYPES = {
  np.dtype(np.float32): FLOAT,
  np.dtype(np.uint8): UINT8,
  np.dtype(np.int8): INT8,
  np.dtype(np.int32): INT32,
  np.dtype(np.int64): INT64,
  np.dtype(np.float16): FLOAT16,
}

Attribute = int | float | str | Sequence[int]


class External(NamedTuple):
  """Where the values of a tensor lie in a file beside the model."""

  location: str
  offset: int
  length: int


def get_type(dtype: np.dtype) -> int:
  """The number that ONNX gives a dtype."""
  return _TYPES[np.dtype(dtype)]


def tensor(
  name: str,
  data_type: int,
  shape: Sequence[int],
  values: bytes | External,
) -> bytes:
  """A TensorProto; the values are little-endian, in row-major order."""
  fields: list[tuple[int, Any]] = [(1, size) for size in shape] + [
    (2, data_type),
    (8, name),
  ]
  if isinstance(values, bytes):
    return _message([*fields, (9, values)])
  for key, value in values._asdict().items():
    fields.append((13, _message([(1, key), (2, str(value))])))
  return _message([*fields, (14, 1)])


def node(
  op: str,
  inputs: Sequence[str],
  outputs: Sequence[str],
  attributes: Mapping[str, Attribute],
) -> bytes:
  """A NodeProto, named as its first output."""
  fields: list[tuple[int, Any]] = [(1, name) for name in inputs] + [
    (2, name) for name in outputs
  ]
  fields += [(3, outputs[0]), (4, op)]
  fields += [(5, _attribute(*item)) for item in attributes.items()]
  return _message(fields)


def value(name: str, data_type: int, shape: Sequence[int | str]) -> bytes:
  """A ValueInfoProto; an axis whose size is left open has a name."""
  axes = [_message([(1 if type(n) is int else 2, n)]) for n in shape]
  tensor_type = _message(
    [(1, data_type), (2, _message([(1, x) for x in axes]))]
  )
  return _message([(1, name), (2, _message([(1, tensor_type)]))])


def model(
  nodes: Iterable[bytes],
  initializers: Iterable[bytes],
  inputs: Iterable[bytes],
  outputs: Iterable[bytes],
  *,
  name: str,
  opset: int,
  ir_version: int,
) -> bytes:
  """A ModelProto."""
  graph = _message(
    [
      *((1, x) for x in nodes),
      (2, name),
      *((5, x) for x in initializers),
      *((11, x) for x in inputs),
      *((12, x) for x in outputs),
    ]
  )
  return _message(
    [
      (1, ir_version),
      (2, 'hq_jax'),
      (7, graph),
      (8, _message([(1, ''), (2, opset)])),
    ]
  )


def _attribute(name: str, value: Attribute) -> bytes:
  # The last field says which of the others holds the value.
  if isinstance(value, int):
    return _message([(1, name), (3, value), (20, 2)])
  if isinstance(value, float):
    return _message([(1, name), (2, value), (20, 1)])
  if isinstance(value, str):
    return _message([(1, name), (4, value), (20, 3)])
  return _message([(1, name), *((8, x) for x in value), (20, 7)])


def _message(fields: Iterable[tuple[int, Any]]) -> bytes:
  """A protobuf message of fields (number, value)."""
  parts = []
  for number, value in fields:
    if isinstance(value, int):
      parts += [_varint(number << 3), _varint(value)]
    elif isinstance(value, float):
      parts += [_varint(number << 3 | 5), np.float32(value).tobytes()]
    else:
      data = value.encode() if isinstance(value, str) else value
      parts += [_varint(number << 3 | 2), _varint(len(data)), data]
  return b''.join(parts)


def _varint(value: int) -> bytes:
  """Seven bits a byte, the lowest first; negative numbers as 64 bits."""
  value &= (1 << 64) - 1
  found = bytearray()
  while value > 0x7F:
    found.append(value & 0x7F | 0x80)
    value >>= 7
  return bytes([*found, value])
