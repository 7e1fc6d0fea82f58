"""Tensors of the Open Inference Protocol V2, as JSON and as raw bytes.

https://github.com/open-inference/open-inference-protocol; with the extension
for binary tensors, which the clients of Triton use unless told otherwise: the
header Inference-Header-Content-Length says where JSON ends, and the bytes of
the tensors follow in order.
"""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
import json
import math
import struct
from typing import Any, NamedTuple

import numpy as np
from starlette import exceptions

VERSION = '1'
INPUT = 'images'
# By name: the type of the protocol.
OUTPUTS = {'logits': 'FP32', 'probabilities': 'FP32', 'classes': 'BYTES'}
LENGTH_HEADER = 'Inference-Header-Content-Length'


class Output(NamedTuple):
  """A tensor that is asked for, in binary or not."""

  name: str
  is_binary: bool


class Request(NamedTuple):
  """What is to be inferred.

  Attributes:
    id: None, or what the answer repeats.
    images: float32 `[n, height, width, channels]`, normalized, as the network
      takes them; uint8 the same, pixels of any height and width; or the bytes
      of image files.
    outputs: what is wanted of them.
  """

  id: str | None
  images: np.ndarray | list[bytes]
  outputs: list[Output]


def refuse(message: str, status: int = 400) -> exceptions.HTTPException:
  """Returns what becomes an answer of one line."""
  return exceptions.HTTPException(status, message)


def describe(
  name: str, engine: str, input_shape: Sequence[int], num_classes: int
) -> dict[str, Any]:
  """The metadata of the model."""
  shapes = {'logits': [-1, num_classes], 'probabilities': [-1, num_classes]}
  return {
    'name': name,
    'versions': [VERSION],
    'platform': f'hq_jax_{engine}',
    'inputs': [
      {'name': INPUT, 'datatype': 'FP32', 'shape': [-1, *input_shape]}
    ],
    'outputs': [
      {'name': output, 'datatype': kind, 'shape': shapes.get(output, [-1])}
      for output, kind in OUTPUTS.items()
    ],
  }


def parse(
  body: bytes,
  header_length: str | None,
  input_shape: Sequence[int],
  max_images: int,
) -> Request:
  """Reads a request, or says in one line what is wrong with it."""
  end = len(body)
  if header_length is not None:
    if not (header_length.isascii() and header_length.isdigit()):
      raise refuse(f'{LENGTH_HEADER} is {header_length!r:.40}, wanted a number')
    end = int(header_length) if len(header_length) < 20 else len(body) + 1
    if end > len(body):
      raise refuse(
        f'{LENGTH_HEADER} is {header_length:.40}, wanted {len(body)} at most'
      )
  try:
    fields = json.loads(body[:end], parse_constant=_refuse_constant)
  except (ValueError, RecursionError):  # too deep
    raise refuse('the body is no JSON, wanted a request for infer') from None
  _check('the body', fields, dict, 'a JSON object')
  identity = fields.get('id')
  if identity is not None:
    _check('id', identity, str, 'a string')
  inputs = fields.get('inputs')
  _check('inputs', inputs, list, 'one tensor')
  if len(inputs) != 1 or not isinstance(inputs[0], dict):
    raise refuse(f'inputs has {len(inputs)} entries, wanted one tensor')
  images, rest = _read_images(inputs[0], body[end:], input_shape, max_images)
  if rest:
    raise refuse(
      f'{rest} bytes follow the tensors, wanted none: binary_data_size is of'
      ' each tensor'
    )
  return Request(identity, images, _read_outputs(fields))


def _refuse_constant(name: str) -> None:
  raise ValueError(f'{name} is no JSON')


def _check(what: str, value: Any, kind: type, wanted: str) -> None:
  if not isinstance(value, kind) or isinstance(value, bool):
    raise refuse(f'{what} is of type {type(value).__name__}, wanted {wanted}')


def _get_parameters(what: str, fields: Mapping[str, Any]) -> dict[str, Any]:
  parameters = fields.get('parameters', {})
  _check(f'parameters of {what}', parameters, dict, 'a JSON object')
  return parameters


def _read_outputs(fields: Mapping[str, Any]) -> list[Output]:
  every = _get_parameters('the request', fields).get('binary_data_output')
  asked = fields.get('outputs') or [{'name': name} for name in OUTPUTS]
  _check('outputs', asked, list, 'a list of tensors')
  found: dict[str, Output] = {}
  for output in asked:
    _check('output', output, dict, 'a JSON object')
    name = output.get('name')
    if not isinstance(name, str) or name not in OUTPUTS:
      raise refuse(f'output is {name!r:.40}, wanted one of {[*OUTPUTS]}')
    parameters = _get_parameters(name, output)
    if parameters.get('classification'):
      raise refuse(f'{name}: classification is not supported, ask for classes')
    is_binary = parameters.get('binary_data', every)
    if not isinstance(is_binary, bool | None):
      raise refuse(f'binary_data is {is_binary!r:.40}, wanted true or false')
    found[name] = Output(name, bool(is_binary))
  return list(found.values())


def _read_images(
  tensor: Mapping[str, Any],
  binary: bytes,
  input_shape: Sequence[int],
  max_images: int,
) -> tuple[np.ndarray | list[bytes], int]:
  """The images of a tensor, and how many bytes are behind it."""
  if tensor.get('name') != INPUT:
    raise refuse(f'input is {tensor.get("name")!r:.40}, wanted {INPUT!r}')
  kind = tensor.get('datatype')
  if kind not in ('FP32', 'UINT8', 'BYTES'):
    raise refuse(f'datatype is {kind!r:.40}, wanted FP32, UINT8 or BYTES')
  shape = _read_shape(kind, tensor.get('shape'), input_shape)
  if not 0 < shape[0] <= max_images:
    raise refuse(
      f'{INPUT} has {shape[0]} images, wanted 1 to {max_images} a request',
      413 if shape[0] else 400,
    )
  size = _get_parameters(INPUT, tensor).get('binary_data_size')
  if size is None:
    if 'data' not in tensor:
      raise refuse(f'{INPUT} has neither data nor binary_data_size')
    return _READERS[kind](tensor['data'], shape), len(binary)
  _check('binary_data_size', size, int, 'a number')
  if not 0 <= size <= len(binary):
    raise refuse(
      f'binary_data_size is {size}, but {len(binary)} bytes follow the JSON'
    )
  data = binary[:size]
  if kind == 'BYTES':
    return _split_elements(data, shape[0]), len(binary) - size
  dtype = np.dtype('<f4' if kind == 'FP32' else 'u1')
  wanted = math.prod(shape) * dtype.itemsize
  if size != wanted:
    raise refuse(
      f'binary_data_size is {size}, wanted {wanted} for the shape {shape}'
    )
  values = np.frombuffer(data, dtype).reshape(shape)
  return _check_finite(values), len(binary) - size


def _read_shape(kind: str, shape: Any, input_shape: Sequence[int]) -> list[int]:
  height, width, channels = input_shape
  wanted = {
    'FP32': f'[n, {height}, {width}, {channels}]',
    'UINT8': f'[n, height, width, {channels}]',
    'BYTES': '[n]',
  }[kind]
  good = isinstance(shape, list) and all(
    type(size) is int and 0 <= size < 2**31 for size in shape
  )
  if good and kind == 'FP32':
    good = shape[1:] == [height, width, channels] and len(shape) == 4
  elif good and kind == 'UINT8':
    good = len(shape) == 4 and shape[3] == channels and min(shape[1:3]) > 0
  elif good:
    good = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
  if not good:
    raise refuse(f'shape is {shape!s:.60}, wanted {wanted} for {kind}')
  return shape


def _numbers(data: Any, shape: list[int], kinds: str) -> np.ndarray:
  try:
    values = np.asarray(data)
  except (ValueError, OverflowError):
    raise refuse(f'data of {INPUT} is ragged, wanted numbers') from None
  if values.dtype.kind not in kinds:
    raise refuse(f'data of {INPUT} are not all numbers of its datatype')
  if values.size != math.prod(shape):
    raise refuse(
      f'data of {INPUT} are {values.size} numbers, wanted {math.prod(shape)}'
      f' for the shape {shape}'
    )
  return values.reshape(shape)


def _floats(data: Any, shape: list[int]) -> np.ndarray:
  with np.errstate(over='ignore'):  # infinite: refused below
    values = _numbers(data, shape, 'iuf').astype(np.float32)
  return _check_finite(values)


def _check_finite(values: np.ndarray) -> np.ndarray:
  if values.dtype.kind == 'f' and not np.isfinite(values).all():
    raise refuse(f'{INPUT} has values that are not finite')
  return values


def _pixels(data: Any, shape: list[int]) -> np.ndarray:
  values = _numbers(data, shape, 'iu')
  if values.min() < 0 or values.max() > 255:
    raise refuse(f'{INPUT} has values outside of 0 to 255')
  return values.astype(np.uint8)


def _texts(data: Any, shape: list[int]) -> list[bytes]:
  _check(f'data of {INPUT}', data, list, 'a list')
  texts = [
    text
    for item in data
    for text in (item if isinstance(item, list) else [item])
  ]
  if len(texts) != shape[0]:
    raise refuse(f'data of {INPUT} are {len(texts)}, wanted {shape[0]}')
  try:
    return [base64.b64decode(text, validate=True) for text in texts]
  except (ValueError, TypeError, binascii.Error):
    raise refuse(
      f'data of {INPUT} are not all base64, wanted image files so encoded'
    ) from None


_READERS: dict[str, Callable[[Any, list[int]], np.ndarray | list[bytes]]] = {
  'FP32': _floats,
  'UINT8': _pixels,
  'BYTES': _texts,
}


def _split_elements(data: bytes, number: int) -> list[bytes]:
  """Bytes behind the length of each, in four bytes, little-endian."""
  found: list[bytes] = []
  at = 0
  while at < len(data) and len(found) < number:
    if at + 4 > len(data):
      break
    (size,) = struct.unpack_from('<I', data, at)
    found.append(data[at + 4 : at + 4 + size])
    at += 4 + size
  if at != len(data) or len(found) != number:
    raise refuse(
      f'the bytes of {INPUT} are not {number} elements behind their lengths'
    )
  return found


def format_answer(
  request: Request, name: str, values: Mapping[str, Any]
) -> tuple[bytes, dict[str, str]]:
  """The body of an answer and its headers.

  Args:
    request: what was asked.
    name: of the model.
    values: of each output: a float32 array `[n, classes]`, or n strings.
  """
  outputs, blobs = [], []
  for output in request.outputs:
    value = values[output.name]
    is_text = OUTPUTS[output.name] == 'BYTES'
    tensor: dict[str, Any] = {
      'name': output.name,
      'datatype': OUTPUTS[output.name],
      'shape': [len(value)] if is_text else list(value.shape),
    }
    if output.is_binary:
      blob = _join_elements(value) if is_text else value.astype('<f4').tobytes()
      blobs.append(blob)
      tensor['parameters'] = {'binary_data_size': len(blob)}
    else:
      tensor['data'] = list(value) if is_text else value.ravel().tolist()
    outputs.append(tensor)
  fields = {'model_name': name, 'model_version': VERSION, 'outputs': outputs}
  if request.id is not None:
    fields['id'] = request.id
  text = json.dumps(fields).encode()
  if not blobs:
    return text, {'Content-Type': 'application/json'}
  return b''.join([text, *blobs]), {
    'Content-Type': 'application/octet-stream',
    LENGTH_HEADER: str(len(text)),
  }


def _join_elements(texts: Sequence[str]) -> bytes:
  encoded = [text.encode() for text in texts]
  return b''.join(struct.pack('<I', len(each)) + each for each in encoded)
