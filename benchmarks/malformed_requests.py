"""Requests that a server has to refuse with a status of 400 to 499."""

from collections.abc import Callable, Iterator
import io
import json
import struct
import zlib

import numpy as np
from PIL import Image


def make_image(rng: np.random.Generator, format: str = 'PNG') -> bytes:
  """A small image file of noise."""
  sides = rng.integers(8, 40, 2)
  file = io.BytesIO()
  pixels = rng.integers(0, 256, (*sides, 3), np.uint8)
  Image.fromarray(pixels).save(file, format)
  return file.getvalue()


def make_bomb(width: int, height: int) -> bytes:
  """The PNG file of so many pixels, without them."""
  header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  chunk = b'IHDR' + header
  return b''.join(
    [
      b'\x89PNG\r\n\x1a\n',
      struct.pack('>I', len(header)),
      chunk,
      struct.pack('>I', zlib.crc32(chunk)),
      struct.pack('>I', 0),
      b'IDAT',
      struct.pack('>I', zlib.crc32(b'IDAT')),
    ]
  )


def format_request(
  path: str, body: bytes = b'', method: str = 'POST', **headers: str
) -> bytes:
  """The bytes of a request; `Content_Type='a/b'` is a header of that name."""
  fields = {'Host': 'localhost', 'Content-Length': str(len(body))}
  fields |= {key.replace('_', '-'): value for key, value in headers.items()}
  lines = [f'{method} {path} HTTP/1.1']
  lines += [f'{key}: {value}' for key, value in fields.items()]
  return '\r\n'.join([*lines, '', '']).encode('latin-1') + body


def make_requests(
  model: str, input_shape: tuple[int, ...], seed: int
) -> Iterator[tuple[str, bytes]]:
  """Names and bytes of requests, without an end, each kind in its turn.

  Args:
    model: its name in the paths.
    input_shape: (height, width, channels) of what it takes.
    seed: of what is random in them.
  """
  rng = np.random.default_rng(seed)
  infer = f'/v2/models/{model}/infer'
  kinds: list[tuple[str, Callable[[], bytes]]] = [
    ('no HTTP', lambda: b'\xff' + rng.bytes(100) + b'\r\n\r\n'),
    ('no path', lambda: format_request(_word(rng))),
    ('no such path', lambda: format_request('/' + _word(rng), method='GET')),
    ('no such model', lambda: format_request(f'/v2/models/{_word(rng)}/infer')),
    ('method', lambda: format_request('/predict', method='GET')),
    ('a header too long', lambda: format_request('/predict', A='a' * 100_000)),
    ('type', lambda: _predict(make_image(rng), f'text/{_word(rng)}')),
    ('no image', lambda: _predict(b'', 'image/png')),
    ('noise', lambda: _predict(rng.bytes(rng.integers(1, 2000)))),
    ('half a PNG', lambda: _predict(_halve(make_image(rng)))),
    ('half a JPEG', lambda: _predict(_halve(make_image(rng, 'JPEG')))),
    ('a bomb', lambda: _predict(make_bomb(*rng.integers(10_000, 60_000, 2)))),
    ('SVG', lambda: _predict(b'<svg xmlns="a"/>', 'image/svg+xml')),
    ('top', lambda: format_request(f'/predict?top={_word(rng)}', b'a')),
    ('parameter', lambda: format_request(f'/predict?{_word(rng)}=1', b'a')),
    (
      'a body too large',
      lambda: format_request('/predict', Content_Length='9' * 12),
    ),
    (
      'a bad chunk',
      lambda: (
        b'POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:'
        b' chunked\r\n\r\nzz\r\n' + rng.bytes(20)
      ),
    ),
    (
      'gzip',
      lambda: format_request('/predict', b'a', Content_Encoding='gzip'),
    ),
    ('no boundary', lambda: _predict(b'--a\r\n', 'multipart/form-data')),
    ('no part', lambda: _predict(b'--a--', 'multipart/form-data; boundary=a')),
    (
      'a broken part',
      lambda: _predict(
        b'--a\r\n' + rng.bytes(50), 'multipart/form-data; boundary=a'
      ),
    ),
    (
      'a part of text',
      lambda: _predict(
        b'--a\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--a--',
        'multipart/form-data; boundary=a',
      ),
    ),
    (
      'noise in a part',
      lambda: _predict(
        b'--a\r\nContent-Disposition: form-data; name="a"; filename="\x1b[2J"'
        b'\r\n\r\nnoise\r\n--a--',
        'multipart/form-data; boundary=a',
      ),
    ),
    ('no JSON', lambda: format_request(infer, rng.bytes(50))),
    ('JSON too deep', lambda: format_request(infer, b'[' * 100_000)),
    ('a long number', lambda: format_request(infer, b'9' * 100_000)),
  ]
  good = _make_tensor(input_shape)
  for change in _CHANGES:
    fields = {'inputs': [good | change]}
    body = json.dumps(fields).encode()
    name = f'tensor with {change}'
    kinds.append((name, lambda body=body: format_request(infer, body)))
  for fields in _FIELDS:
    body = json.dumps({'inputs': [good], **fields}).encode()
    name = f'JSON with {fields}'
    kinds.append((name, lambda body=body: format_request(infer, body)))
  for length in ('-1', 'a', '9' * 30, '5', '99999'):
    body = json.dumps({'inputs': [good]}).encode()
    kinds.append(
      (
        f'JSON of {length:.5} bytes',
        lambda body=body, length=length: format_request(
          infer, body, Inference_Header_Content_Length=length
        ),
      )
    )
  while True:
    for name, make in kinds:
      yield name, make()


def make_infer(input_shape: tuple[int, ...]) -> bytes:
  """The body of a request to infer that is right."""
  return json.dumps({'inputs': [_make_tensor(input_shape)]}).encode()


def _make_tensor(input_shape: tuple[int, ...]) -> dict:
  shape = [1, *input_shape]
  data = [0.5] * int(np.prod(shape))
  return {'name': 'images', 'datatype': 'FP32', 'shape': shape, 'data': data}


# What makes a good tensor a bad one.
_CHANGES = (
  {'name': 'image'},
  {'name': None},
  {'datatype': 'FP16'},
  {'datatype': ['FP32']},
  {'datatype': 'BYTES'},
  {'datatype': 'BYTES', 'shape': [1], 'data': ['no base64!']},
  {'datatype': 'BYTES', 'shape': [1], 'data': ['bm8gaW1hZ2U=']},
  {'datatype': 'BYTES', 'shape': [2], 'data': ['bm8gaW1hZ2U=']},
  {'datatype': 'BYTES', 'shape': [1], 'data': [None]},
  {'datatype': 'BYTES', 'shape': [1], 'data': {}},
  {'datatype': 'UINT8'},
  {'datatype': 'UINT8', 'shape': [1, 0, 0, 1], 'data': []},
  {'datatype': 'UINT8', 'shape': [1, 1, 1, 1], 'data': [256]},
  {'datatype': 'UINT8', 'shape': [1, 1, 1, 1], 'data': [-1]},
  {'shape': None},
  {'shape': 5},
  {'shape': []},
  {'shape': [0, 8, 8, 1]},
  {'shape': [-1, 8, 8, 1]},
  {'shape': [10**9, 8, 8, 1]},
  {'shape': [10**30]},
  {'shape': [True, 8, 8, 1]},
  {'shape': [1, 7, 7, 1]},
  {'data': []},
  {'data': None},
  {'data': 'abc'},
  {'data': ['0.5'] * 64},
  {'data': [[1, 2], [3]]},
  {'data': [float('nan')] * 64},
  {'data': [float('inf')] * 64},
  {'data': [1e300] * 64},
  {'data': [10**400] * 64},
  {'data': [True] * 64},
  {'parameters': []},
  {'parameters': {'binary_data_size': 256}},
  {'parameters': {'binary_data_size': -1}},
  {'parameters': {'binary_data_size': '0'}},
)
# What makes a good request a bad one.
_FIELDS = (
  {'inputs': None},
  {'inputs': []},
  {'inputs': {}},
  {'inputs': [1]},
  {'inputs': [{}, {}]},
  {'id': 5},
  {'outputs': 5},
  {'outputs': [5]},
  {'outputs': [{'name': 'nothing'}]},
  {'outputs': [{'name': ['logits']}]},
  {'outputs': [{'name': 'logits', 'parameters': 5}]},
  {'outputs': [{'name': 'logits', 'parameters': {'classification': 2}}]},
  {'outputs': [{'name': 'logits', 'parameters': {'binary_data': 'yes'}}]},
  {'parameters': 5},
)


def _predict(body: bytes, kind: str = 'image/png') -> bytes:
  return format_request('/predict', body, Content_Type=kind)


def _word(rng: np.random.Generator) -> str:
  letters = rng.integers(ord('a'), ord('z'), rng.integers(1, 20))
  return 'x' + ''.join(map(chr, letters))


def _halve(data: bytes) -> bytes:
  return data[: len(data) // 2]
