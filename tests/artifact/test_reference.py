"""A second reader, written from docs/format.md in plain Python alone.

It shares no code with the library: no NumPy, no constriction. Where both
agree on every value, the specification says what the library does.
"""

import itertools
import json
import math
import pathlib
import re
import struct
import zlib

import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.artifact import index_coder
from hq_jax.artifact import ternary_coder
from hq_jax.core import qtensors
from tests.artifact import layers as layers_lib
from tests.artifact import mutations

TYPES = {
  **{'f2': ('TF16', 'e'), 'f4': ('TF32', 'f'), 'f8': ('TF64', 'd')},
  **{'i1': ('TI08', 'b'), 'i2': ('TI16', 'h'), 'i4': ('TI32', 'i')},
  **{'i8': ('TI64', 'q'), 'u1': ('TU08', 'B'), 'u2': ('TU16', 'H')},
  **{'u4': ('TU32', 'I'), 'u8': ('TU64', 'Q')},
}
SCALES = {'t': None, 't2': 'f2', 't4': 'f4'}
INT8_SCALES = {'q': None, 'q2': 'f2', 'q4': 'f4'}
CODEBOOKS = {
  **{'c2': ('f2', None), 'c22': ('f2', 'f2'), 'c24': ('f2', 'f4')},
  **{'c4': ('f4', None), 'c42': ('f4', 'f2'), 'c44': ('f4', 'f4')},
}


def read_sections(data):
  magic, version, num_sections = struct.unpack_from('<8sHH', data)
  assert magic == b'\x89HQF\r\n\x1a\n' and version == 2
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


class Stream:
  """The ANS decoder: a state and the words that are left."""

  def __init__(self, data):
    assert not data.endswith(b'\0')
    padded = data + bytes(-len(data) % 4)
    self.words = list(struct.unpack(f'<{len(padded) // 4}I', padded))
    assert self.words != [0, 1]
    self.words = self.words or [0, 1]
    self.state = 0
    for _ in range(min(2, len(self.words))):
      self.state = self.state << 32 | self.words.pop()

  def pop(self, weights):
    assert sum(weights) == 2**24 and min(weights) >= 1
    low = self.state % 2**24
    symbol, start = 0, 0
    while low >= start + weights[symbol]:
      start += weights[symbol]
      symbol += 1
    self.state = (self.state >> 24) * weights[symbol] + low - start
    if self.state < 2**32 and self.words:
      self.state = self.state << 32 | self.words.pop()
    return symbol


def log2_16(k):
  e = max(0, k.bit_length() - 8)
  return 16 * e + ((k >> e) ** 16).bit_length() - 1


def get_static_weights(f):
  weights = [512 * x for x in f]
  weights[weights.index(max(weights))] -= f.count(0)
  return [max(w, 1) for w in weights]


def pop_indices(stream, K, size, extra):
  """A tensor of K codewords; `extra` is added to what was counted."""
  came = [0] * size if K == 1 else []
  counts = list(extra)
  while len(came) < size:
    n, total = len(came), sum(counts)
    weights = [1 + (2**24 - K) * (2 * c + 1) // (2 * total + K) for c in counts]
    first = weights.index(max(weights))
    weights[first] += 2**24 - sum(weights)
    excess = max(0, weights[first] - (2**24 - 45568))
    others = [0 if i == first else w for i, w in enumerate(weights)]
    weights[first] -= excess
    weights[others.index(max(others))] += excess
    for _ in range(min(size - n, max(32, n // 8))):
      came.append(stream.pop(weights))
    for index in came[n:]:
      counts[index] += 1
  return came


class Contexts:
  """The model of a layer, from the section Contexts."""

  def __init__(self, shape, f):
    *lead, self.height, self.width, rows, columns = [1] * 4 + list(shape)
    self.depth, self.rows, self.columns = math.prod(lead), rows, columns
    assert min(rows, columns) > 0 and max(rows, columns) <= 65536
    self.row, self.column = [
      [[0, 0] for _ in range(n)] for n in (rows, columns)
    ]
    self.total = [1, 2]
    F = max(89, min(2**15 - 89, f[1] + f[2]))
    c = [256, 362, 512, 724, 1024, 1448, 2048, 2896, 4096]
    table = []
    for i in range(16):
      a = 256 * F if i < 8 else c[i - 8] * F
      b = (c[8 - i] if i < 8 else 256) * (2**15 - F)
      one = 1 + 128 * a // (a + b)
      table.append([130 - one, one])
    self.zero = [[list(pair) for pair in table] for _ in range(3)]
    self.sign = [[8, 8] for _ in range(5)]

  def cut(self, index):
    n = self.rows * self.columns
    wanted = max(1024, n // 64, min(65536, index * n // 8))
    level = max(0, (n // wanted).bit_length() - 1)
    tall = -(-self.rows // 2 ** ((level + 1) // 2))
    wide = -(-self.columns // 2 ** (level // 2))
    for left in range(0, self.columns, wide):
      for top in range(0, self.rows, tall):
        yield (
          range(top, min(top + tall, self.rows)),
          range(left, min(left + wide, self.columns)),
        )

  def get_offset(self, k, m):
    K, N = self.total
    h = max(0, N.bit_length() - 20)
    K, N = max(1, K >> h), N >> h
    N = max(N, K + 1)
    return (
      log2_16(k * N + 16 * K)
      - log2_16((m - k) * N + 16 * (N - K))
      - log2_16(16 * K)
      + log2_16(16 * (N - K))
    )

  def decode(self, stream):
    planes = {}
    taps = itertools.product(*map(range, (self.depth, self.height, self.width)))
    for index, (d, y, x) in enumerate(taps):
      planes[d, y, x] = {}
      for rows, columns in self.cut(index):
        self.decode_tile(stream, planes, (d, y, x), rows, columns)
    return [
      plane[i, j]
      for plane in planes.values()
      for i in range(self.rows)
      for j in range(self.columns)
    ]

  def look_around(self, planes, tap, i, j):
    d, y, x = tap
    near = [
      planes.get((d, y - up, x - left), {}).get((i, j), 0)
      for up, left in ((0, 1), (1, 0), (1, 1), (1, -1))
    ]
    beside, s = abs(near[0]) + abs(near[1]), 2 * sum(near[:2]) + sum(near[2:])
    if self.height * self.width == 1:
      assert beside == s == 0
    return beside, s

  def decode_tile(self, stream, planes, tap, rows, columns):
    by_row = {i: self.get_offset(*self.row[i]) for i in rows}
    by_column = {j: self.get_offset(*self.column[j]) for j in columns}
    came = []
    for i, j in itertools.product(rows, columns):
      beside, s = self.look_around(planes, tap, i, j)
      zero = self.zero[beside][
        max(0, min(15, (by_row[i] + by_column[j] + 68) >> 3))
      ]
      sign = self.sign[min(4, abs(s))]
      p = max(89, min(2**15 - 89, 2**15 * zero[1] // sum(zero)))
      q = max(1, min(511, 512 * sign[0] // sum(sign)))
      symbol = stream.pop([2**24 - 512 * p, p * q, p * (512 - q)])
      code = (0, 1, -1)[symbol] * (-1 if s < 0 else 1)
      came.append((symbol, zero, sign, i, j))
      planes[tap][i, j] = code
    for symbol, zero, sign, i, j in came:
      zero[symbol > 0] += 16
      if symbol:
        sign[symbol - 1] += 16
      for counts in (self.row[i], self.column[j], self.total):
        counts[0] += symbol > 0
        counts[1] += 1


class Classes(Contexts):
  """The model of a layer, from the section Classes."""

  def cut_bands(self, index, y, x, classes):
    least = -(-512 // self.columns)
    most = max(least, 2**16 // self.columns)
    top = 0
    while top < self.rows:
      if y or x:
        tall = -(-self.rows * min(index, 8) // 8)
        end = top + max(least, min(most, tall))
      else:
        end = top + least
        while end < self.rows and classes[end] == classes[end - 1]:
          end += 1
        end = min(end, top + most)
      yield range(top, min(end, self.rows))
      top = end

  def decode(self, stream):
    extra = [0, 0, 0, 0, 0, 2, 4, 8, 12, 8, 4, 2, 0, 0, 0, 0]
    came = pop_indices(stream, 16, self.rows + self.columns, extra)
    by_row, by_column = came[: self.rows], came[self.rows :]
    rows = sorted(range(self.rows), key=lambda i: by_row[i])
    columns = sorted(range(self.columns), key=lambda j: by_column[j])
    by_row, by_column = sorted(by_row), sorted(by_column)
    planes = {}
    taps = itertools.product(*map(range, (self.depth, self.height, self.width)))
    for index, tap in enumerate(taps):
      planes[tap] = {}
      for band in self.cut_bands(index, *tap[1:], by_row):
        self.decode_band(stream, planes, tap, band, by_row, by_column)
    return [
      plane[rows.index(i), columns.index(j)]
      for plane in planes.values()
      for i in range(self.rows)
      for j in range(self.columns)
    ]

  def decode_band(self, stream, planes, tap, band, by_row, by_column):
    contexts, signs = {}, {}
    for i, j in itertools.product(band, range(self.columns)):
      beside, signs[i, j] = self.look_around(planes, tap, i, j)
      contexts[i, j] = beside, max(0, min(15, by_row[i] + by_column[j] - 8))
    came = []
    for at in sorted(contexts, key=lambda at: contexts[at]):
      beside, bin = contexts[at]
      planes[tap][at] = self.pop(stream, self.zero[beside][bin])
      came.append((self.zero[beside][bin], planes[tap][at]))
    found = [at for at in contexts if planes[tap][at]]
    for at in sorted(found, key=lambda at: min(4, abs(signs[at]))):
      sign = self.sign[min(4, abs(signs[at]))]
      other = self.pop(stream, sign)
      planes[tap][at] = (-1 if signs[at] < 0 else 1) * (-1 if other else 1)
      came.append((sign, other))
    for counts, symbol in came:
      counts[symbol] += 16

  def pop(self, stream, counts):
    p = max(89, min(2**15 - 89, 2**15 * counts[1] // sum(counts)))
    return stream.pop([2**24 - 512 * p, 512 * p])


def decode_stream(data, layers):
  """`layers`: triples (mode, three frequencies, shape); lists of codes."""
  stream = Stream(data)
  found = []
  for mode, f, shape in layers:
    size = math.prod(shape)
    if 2**15 in f:  # a single symbol
      assert mode == 0
      found.append([(0, 1, -1)[f.index(2**15)]] * size)
    elif mode:
      model = (Contexts, Classes)[mode - 1](shape, f)
      found.append(model.decode(stream))
    else:
      weights = get_static_weights(f)
      codes = [(0, 1, -1)[stream.pop(weights)] for _ in range(size)]
      assert all(f[code] for code in set(codes))
      found.append(codes)
  assert stream.state == 2**32 and not stream.words
  return found


def decode_indices(data, layers):
  """`layers`: pairs (number of codewords, number of indices)."""
  stream = Stream(data)
  found = []
  for K, size in layers:
    found.append(pop_indices(stream, K, size, [0] * K))
  assert stream.state == 2**32 and not stream.words
  return found


def cut(axes, shape):
  """How many slices there are, their shape, and that of each turned round."""
  if axes is None:
    return 1, shape, None
  kept = [i in axes for i in range(len(shape))]
  layers = [*kept, False].index(False)
  if layers and (layers == len(shape) or not kept[-1]):
    layers -= 1
  rest, kept = shape[layers:], kept[layers:]
  turned = rest if kept[0] and not kept[-1] else None
  if turned:
    rest, kept = rest[::-1], kept[::-1]
  if len(rest) != 4 or any(kept[:3]):
    first = len(rest) - 1
    while first > 0 and kept[first] and kept[first - 1]:
      first -= 1
    rest = [math.prod(rest[:first]), math.prod(rest[first:])]
  return math.prod(shape[:layers]), rest, turned


def turn(codes, shape):
  """Codes of the reversed axes, in the order of those of `shape`."""
  steps = [math.prod(shape[:axis]) for axis in range(len(shape))]
  return [
    codes[sum(map(int.__mul__, index, steps))]
    for index in itertools.product(*map(range, shape))
  ]


def decode_ternary(body, specs):
  """`specs`: triples (path, axes or None, shape)."""
  cuts = [cut(axes, shape) for _, axes, shape in specs]
  shapes = [shape for number, shape, _ in cuts for _ in range(number)]
  tables = read_tables(body[: 5 * len(shapes)])
  layers = [(*t, shape) for t, shape in zip(tables, shapes, strict=True)]
  came = iter(decode_stream(body[5 * len(shapes) :], layers))
  found = {}
  for (path, _, _), (number, _, turned) in zip(specs, cuts, strict=True):
    layers = [next(came) for _ in range(number)]
    if turned:
      layers = [turn(layer, turned) for layer in layers]
    found[path] = [code for layer in layers for code in layer], None
  return found


def read_tables(body):
  found = []
  for mode, plus, minus in struct.iter_unpack('<BHH', body):
    f = [2**15 - plus - minus, plus, minus]
    assert mode < 3 and min(f) >= 0 and (max(f) <= 2**15 - 89 or 2**15 in f)
    found.append((mode, f))
  return found


def read_values(body, letter, total):
  size = struct.calcsize(letter)
  low = (size - 1) * total
  planes = body[:low] + zlib.decompress(body[low:], -15)
  assert len(planes) == size * total
  raw = bytes(planes[i * total + j] for j in range(total) for i in range(size))
  return list(struct.unpack(f'<{total}{letter}', raw))


def read(data):
  """path -> (values, scales or None), flat lists of Python numbers.

  Of a codebook tensor, a third list: the codewords.
  """
  sections = read_sections(data)
  head = zlib.decompress(sections['HEAD'][4:], -15)
  assert len(head) == struct.unpack_from('<I', sections['HEAD'])[0]
  specs = read_tree(json.loads(head)['tree'])
  axes = {p: s.pop(1) for p, s in specs if isinstance(s[1:] and s[1], list)}
  ternary = [(p, axes.get(p), s[1:]) for p, s in specs if s[0] in SCALES]
  found = decode_ternary(sections['CODE'], ternary) if ternary else {}
  codebook = [(p, s[1:]) for p, s in specs if s[0] in CODEBOOKS]
  if codebook:
    layers = [(K, math.prod(shape) // d) for _, (K, d, *shape) in codebook]
    runs = decode_indices(sections['INDX'], layers)
    for (path, _), run in zip(codebook, runs, strict=True):
      found[path] = run, None, None
  for encoding, (name, letter) in TYPES.items():
    runs = []
    for path, (kind, *shape) in specs:
      if kind in CODEBOOKS:
        parts = math.prod(shape[:2]), shape[-1]
        for place, of in enumerate(CODEBOOKS[kind]):
          if of == encoding:
            runs.append((path, parts[place], 2 - place))
      elif kind == encoding or (kind in INT8_SCALES and encoding == 'i1'):
        runs.append((path, math.prod(shape), 0))
      elif SCALES.get(kind) == encoding:
        sizes = [shape[axis] for axis in axes.get(path, [-1])]
        runs.append((path, math.prod(sizes), 1))
      elif INT8_SCALES.get(kind) == encoding:
        runs.append((path, shape[-1] if len(shape) > 1 else 1, 1))
    if not runs:
      continue
    values = read_values(sections[name], letter, sum(n for _, n, _ in runs))
    for path, size, place in runs:
      run, values = values[:size], values[size:]
      parts = [*found.get(path, (None, None))]
      parts[place] = run
      found[path] = tuple(parts)
  for path, (kind, *_) in specs:
    assert kind not in INT8_SCALES or -128 not in found[path][0]
  return found


def read_ranges(data):
  body = read_sections(data).get('rngs', b'')
  return struct.unpack(f'<{len(body) // 2}e', body)


def read_nesting(data):
  body = read_sections(data).get('nest')
  if body is None:
    return None
  text = zlib.decompress(body[4:], -15)
  assert len(text) == int.from_bytes(body[:4], 'little')
  return json.loads(text)


def _check(given):
  data = artifact.dumps(given)
  assert read_ranges(data) == given.activation_ranges
  assert read_nesting(data) == given.nesting
  found = read(data)
  assert found.keys() == given.tensors.keys()
  for path, tensor in given.tensors.items():
    values, scale, *_ = found[path]
    if isinstance(tensor, qtensors.TernaryTensor | qtensors.Int8Tensor):
      assert values == tensor.codes.ravel().tolist()
      wanted = None if tensor.scale is None else tensor.scale.ravel().tolist()
      assert scale == wanted
    elif isinstance(tensor, qtensors.CodebookTensor):
      values, scale, codewords = found[path]
      assert values == tensor.indices.ravel().tolist()
      assert codewords == tensor.codewords.ravel().tolist()
      assert scale == (None if tensor.scale is None else tensor.scale.tolist())
    else:
      assert values == tensor.ravel().tolist() and scale is None


def test_agrees_on_a_small_artifact(small):
  _check(small)


def test_agrees_on_stacks(small):
  stacked = mutations.make_stacked()
  _check(small._replace(tensors={**small.tensors, **stacked}))


def nest(node, leaves, names=()):
  if node == 0:
    return leaves['/'.join(names)]
  if node is None:
    return None
  if isinstance(node, dict):
    return {k: nest(x, leaves, (*names, k)) for k, x in node.items()}
  kind, *rest = node
  if kind == 'dict':
    return {k: nest(x, leaves, (*names, str(k))) for k, x in rest}
  found = [nest(x, leaves, (*names, str(i))) for i, x in enumerate(rest)]
  return tuple(found) if kind == 'tuple' else found


def test_agrees_on_nested_tensors():
  data = mutations.make_bases(mutations.EMPTY)['nested']
  leaves = {path: values for path, (values, _) in read(data).items()}
  variables = artifact.to_variables(artifact.loads(data))
  assert nest(read_nesting(data), leaves) == jax.tree.map(
    lambda leaf: leaf.tolist(), variables
  )


def _codebook(rng, shape, size, wide, dtype, scale):
  indices = rng.integers(0, size, shape) * rng.integers(0, 2, shape)
  codewords = rng.normal(size=(size, wide)).astype(dtype)
  scales = None if scale is None else np.arange(shape[-1]).astype(scale)
  return qtensors.CodebookTensor(indices.astype(np.uint8), codewords, scales)


def test_agrees_on_codebook_tensors(small):
  rng = np.random.default_rng(6)
  rows = [
    *((2, 1, 'f2', None), (3, 4, 'f4', None), (256, 2, 'f2', 'f2')),
    *((1, 3, 'f2', 'f4'), (16, 1, 'f4', 'f2'), (100, 5, 'f4', 'f4')),
  ]
  kernels = {
    f'params/v{i}/kernel': _codebook(rng, (3, 7 * i + 1, 5), *row)
    for i, row in enumerate(rows)
  }
  _check(small._replace(tensors={**small.tensors, **kernels}))


@hypothesis.given(
  st.lists(
    st.tuples(st.integers(1, 256), st.integers(0, 300), st.integers(0, 9)),
    max_size=4,
  )
)
def test_agrees_on_any_indices(layers):
  rng = np.random.default_rng(7)
  arrays = [
    np.minimum(rng.geometric(0.01 + skew / 10, n) - 1, size - 1).astype('u1')
    for size, n, skew in layers
  ]
  sizes = [size for size, _, _ in layers]
  found = decode_indices(
    index_coder.encode(arrays, sizes), [layer[:2] for layer in layers]
  )
  assert found == [array.tolist() for array in arrays]


def test_agrees_with_the_indices_of_the_specification():
  page = pathlib.Path(__file__).parents[2] / 'docs' / 'format.md'
  (hex_bytes,) = re.findall(
    r'become the stream `([0-9A-F ]+)`', page.read_text()
  )
  stream = bytes.fromhex(hex_bytes)
  assert index_coder.encode([np.array([2, 0, 1], np.uint8)], [3]) == stream
  assert decode_indices(stream, [(3, 3)]) == [[2, 0, 1]]


def test_agrees_where_an_index_is_as_likely_as_may_be():
  array = np.zeros(9000, np.uint8)
  array[::1000] = 1
  for size in (2, 3, 256):
    stream = index_coder.encode([array], [size])
    assert decode_indices(stream, [(size, 9000)]) == [array.tolist()]


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


def _agree_on_layers(arrays, tables=None):
  tables, stream = ternary_coder.encode(arrays, tables)
  read = read_tables(ternary_coder.pack_tables(tables))
  layers = [(*t, a.shape) for t, a in zip(read, arrays, strict=True)]
  assert decode_stream(stream, layers) == [a.ravel().tolist() for a in arrays]
  return tables


@hypothesis.given(
  st.lists(
    st.lists(st.sampled_from([0, 0, 0, 1, -1]), max_size=100), max_size=4
  )
)
def test_agrees_on_any_stream(layers):
  _agree_on_layers([np.array(layer, np.int8) for layer in layers])


@pytest.mark.parametrize(
  'shape',
  [(3, 3, 12, 32), (2, 2, 3, 9, 31), (5, 40, 36), (96, 50), (3, 1, 1, 700)],
)
@pytest.mark.parametrize('mode', [1, 2])
def test_agrees_on_contexts(shape, mode):
  codes = layers_lib.draw(np.random.default_rng(5), shape)
  arrays = [codes, np.zeros((4, 4), np.int8), -codes]
  found = [ternary_coder.count(array) for array in arrays]
  tables = [
    ternary_coder.Table(way, ternary_coder.find_frequencies(counts))
    for way, counts in zip((mode, 0, mode), found, strict=True)
  ]
  _agree_on_layers(arrays, tables)


@hypothesis.given(
  st.integers(0, 32768),
  st.integers(0, 32768),
  st.integers(0, 3),
  st.binary(max_size=40),
)
def test_agrees_on_any_table(first, second, mode, stream):
  """Also where constriction must rebuild the weights from odd floats."""
  low, high = sorted((first, second))
  table = ternary_coder.Table(mode, (low, high - low, 32768 - high))
  stream = stream.rstrip(b'\0')
  shape = (2, 2, 1, len(stream) // 2)
  packed = ternary_coder.pack_tables([table])
  try:
    expected = ternary_coder.decode(
      stream, ternary_coder.unpack_tables(packed), [shape]
    )
  except ValueError:
    with pytest.raises(AssertionError):
      decode_stream(stream, [(*read_tables(packed)[0], shape)])
  else:
    found = decode_stream(stream, [(*read_tables(packed)[0], shape)])
    assert found == [expected[0].ravel().tolist()]


def test_agrees_with_the_example_of_the_specification(check_equal):
  page = pathlib.Path(__file__).parents[2] / 'docs' / 'format.md'
  text = page.read_text()
  data = bytes.fromhex(text.split('```hex\n')[1].split('```')[0])
  kernel = qtensors.TernaryTensor(
    np.array([[1, 0], [0, -1]], np.int8), np.array([[1, 0.5]], np.float16)
  )
  expected = artifact.Artifact(
    'net', {}, (2,), {}, ('a', 'b'), {'params/k': kernel}, {}
  )
  check_equal(artifact.loads(data), expected)
  assert read(data) == {'params/k': ([1, 0, 0, -1], [1, 0.5])}
  head = zlib.decompress(read_sections(data)['HEAD'][4:], -15).decode()
  assert text.split('```json\n')[1].split('\n```')[0] == head
