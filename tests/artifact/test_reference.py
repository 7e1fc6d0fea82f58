"""A second reader, written from docs/format.md in plain Python alone.

It shares no code with the library: no NumPy, no constriction. Where both
agree on every value, the specification says what the library does.
"""

import json
import math
import pathlib
import struct
import zlib

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from hq_jax import artifact
from hq_jax import tensors
from hq_jax.artifact import coder

TYPES = {
  **{'f2': ('TF16', 'e'), 'f4': ('TF32', 'f'), 'f8': ('TF64', 'd')},
  **{'i1': ('TI08', 'b'), 'i2': ('TI16', 'h'), 'i4': ('TI32', 'i')},
  **{'i8': ('TI64', 'q'), 'u1': ('TU08', 'B'), 'u2': ('TU16', 'H')},
  **{'u4': ('TU32', 'I'), 'u8': ('TU64', 'Q')},
}
SCALES = {'t': None, 't2': 'f2', 't4': 'f4'}


def read_sections(data):
  magic, version, num_sections = struct.unpack_from('<8sHH', data)
  assert magic == b'\x89HQF\r\n\x1a\n' and version == 1
  start = 12 + 12 * num_sections + 4
  assert struct.unpack_from('<I', data, start - 4)[0] == zlib.crc32(
    data[: start - 4]
  )
  sections = {}
  for index in range(num_sections):
    name, size, crc = struct.unpack_from('<4sII', data, 12 + 12 * index)
    sections[name.decode()] = data[start : start + size]
    assert zlib.crc32(data[start : start + size]) == crc
    start += size
  assert start == len(data)
  return sections


def read_tree(node, names=()):
  """Pairs (path, [encoding, *shape]), sorted by the names of the path."""
  if isinstance(node, list):
    return [('/'.join(names), node)]
  found = []
  for name in sorted(node):
    if name:  # the empty name holds the epsilon of a folded norm
      found += read_tree(node[name], (*names, name))
  return found


def decode_stream(stream, layers):
  """`layers`: pairs (three weights, number of codes); lists of codes."""
  padded = stream + bytes(-len(stream) % 4)
  words = list(struct.unpack(f'<{len(padded) // 4}I', padded))
  state = 0
  for _ in range(min(2, len(words))):
    state = state << 32 | words.pop()
  found = []
  for weights, size in layers:
    if max(weights) == 2**24 - 2:  # a single symbol
      found.append([(0, 1, -1)[weights.index(max(weights))]] * size)
      continue
    codes = []
    for _ in range(size):
      low = state % 2**24
      symbol, start = 0, 0
      while low >= start + weights[symbol]:
        start += weights[symbol]
        symbol += 1
      state = (state >> 24) * weights[symbol] + low - start
      if state < 2**32 and words:
        state = state << 32 | words.pop()
      codes.append((0, 1, -1)[symbol])
    found.append(codes)
  assert state == 0 and not words
  return found


def read_weights(body, num_layers):
  found = []
  for plus, minus in struct.iter_unpack('<HH', body[: 4 * num_layers]):
    frequencies = [32768 - plus - minus, plus, minus]
    weights = [512 * f for f in frequencies]
    weights[weights.index(max(weights))] -= frequencies.count(0)
    found.append([max(w, 1) for w in weights])
  return found


def read_values(body, letter, total):
  size = struct.calcsize(letter)
  low = (size - 1) * total
  planes = body[:low] + zlib.decompress(body[low:], -15)
  assert len(planes) == size * total
  raw = bytes(planes[i * total + j] for j in range(total) for i in range(size))
  return list(struct.unpack(f'<{total}{letter}', raw))


def read(data):
  """path -> (values, scales or None), flat lists of Python numbers."""
  sections = read_sections(data)
  head = zlib.decompress(sections['HEAD'][4:], -15)
  assert len(head) == struct.unpack_from('<I', sections['HEAD'])[0]
  specs = read_tree(json.loads(head)['tree'])
  ternary = [(p, math.prod(s[1:])) for p, s in specs if s[0] in SCALES]
  found = {}
  if ternary:
    weights = read_weights(sections['CODE'], len(ternary))
    layers = [(w, n) for w, (_, n) in zip(weights, ternary, strict=True)]
    codes = decode_stream(sections['CODE'][4 * len(ternary) :], layers)
    found = {p: (c, None) for c, (p, _) in zip(codes, ternary, strict=True)}
  for encoding, (name, letter) in TYPES.items():
    runs = []
    for path, (kind, *shape) in specs:
      if kind == encoding:
        runs.append((path, math.prod(shape)))
      elif SCALES.get(kind) == encoding:
        runs.append((path, shape[-1]))
    if not runs:
      continue
    values = read_values(sections[name], letter, sum(n for _, n in runs))
    for path, size in runs:
      run, values = values[:size], values[size:]
      found[path] = (found[path][0], run) if path in found else (run, None)
  return found


def _check(given):
  found = read(artifact.dumps(given))
  assert found.keys() == given.tensors.keys()
  for path, tensor in given.tensors.items():
    values, scale = found[path]
    if isinstance(tensor, tensors.TernaryTensor):
      assert values == tensor.codes.ravel().tolist()
      assert scale == (None if tensor.scale is None else tensor.scale.tolist())
    else:
      assert values == tensor.ravel().tolist() and scale is None


def test_agrees_on_a_small_artifact(small):
  _check(small)


@pytest.mark.parametrize('sparsity', [0.0, 0.7])
def test_agrees_on_a_network(make_net, sparsity):
  given = make_net(sparsity)
  small = {
    path: tensor
    for path, tensor in given.tensors.items()
    if 'stem' in path or 'stage0' in path or 'head' in path
  }
  norms = {n: e for n, e in given.folded_norms.items() if 'stage0' in n}
  _check(given._replace(tensors=small, folded_norms=norms))


@hypothesis.given(
  st.lists(
    st.lists(st.sampled_from([0, 0, 0, 1, -1]), max_size=100), max_size=4
  )
)
def test_agrees_on_any_stream(layers):
  arrays = [np.array(layer, np.int8) for layer in layers]
  tables = [coder.frequencies(coder.count(array)) for array in arrays]
  stream = coder.encode(arrays, tables)
  weights = read_weights(coder.pack_tables(tables), len(tables))
  sized = list(zip(weights, map(len, layers), strict=True))
  assert decode_stream(stream, sized) == layers


@hypothesis.given(st.integers(0, 32768), st.integers(0, 32768), st.binary())
def test_agrees_on_any_table(first, second, stream):
  """Also where constriction must rebuild the weights from odd floats."""
  low, high = sorted((first, second))
  table = (low, high - low, 32768 - high)
  stream = stream.rstrip(b'\0')
  weights = read_weights(coder.pack_tables([table]), 1)
  size = 2 * len(stream)
  try:
    expected = coder.decode(stream, [table], [size])[0].tolist()
  except ValueError:
    with pytest.raises(AssertionError):
      codes = decode_stream(stream, [(weights[0], size)])[0]
      symbols = {(0, 1, -1)[i] for i in range(3) if table[i]}
      assert set(codes) <= symbols
  else:
    assert decode_stream(stream, [(weights[0], size)]) == [expected]


def test_agrees_with_the_example_of_the_specification(check_equal):
  page = pathlib.Path(__file__).parents[2] / 'docs' / 'format.md'
  text = page.read_text()
  data = bytes.fromhex(text.split('```hex\n')[1].split('```')[0])
  kernel = tensors.TernaryTensor(
    np.array([[1, 0], [0, -1]], np.int8), np.array([1, 0.5], np.float16)
  )
  expected = artifact.Artifact(
    'net', {}, (2,), {}, ('a', 'b'), {'params/k': kernel}, {}
  )
  check_equal(artifact.loads(data), expected)
  assert read(data) == {'params/k': ([1, 0, 0, -1], [1, 0.5])}
  head = zlib.decompress(read_sections(data)['HEAD'][4:], -15).decode()
  assert text.split('```json\n')[1].split('\n```')[0] == head
