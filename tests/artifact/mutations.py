"""Damages files: from single bits to whole headers behind good checksums."""

import json
import struct
import zlib

import numpy as np

from hq_jax import artifact
from hq_jax.artifact import byte_planes
from hq_jax.artifact import format as container
from hq_jax.artifact import layout
from hq_jax.artifact import slices
from hq_jax.core import qtensors

_FIXED = struct.Struct('<8sHH')
_ROW = struct.Struct('<4sII')
_NAMES = (
  *('HEAD', 'CODE', 'INDX', 'TF16', 'TF32', 'TI08', 'TU64'),
  *('WHAT', 'note', 'rngs', 'nest'),
)
_NUMBERS = (
  *(0, 1, 2, 127, 128, 255, 1 << 15, 1 << 16, (1 << 31) - 1, 1 << 31),
  *(1 << 20, 1 << 22, 1 << 24, (1 << 32) - 1, 1 << 32, 1 << 62, 1 << 63),
  1 << 64,
)
_TEXT_SECTIONS = layout.HEADER, layout.NESTING
_SIZES = (*_NUMBERS, -1, -(1 << 63), 0.0, 2.0, 1e300, True, None, '4', [4], {})
_ENCODINGS = (*layout.DTYPES, *layout.SCALES, 'q8', '', 'f16')
_TEXTS = (
  *('', '/', 'a/b', 'kernel', 'scale', '\0', '\n', 'é', '猫', '\U0001f600'),
  *('\ud800', 'n' * 300, 'n' * 2000),
)
_BLOCKS = (
  *(b'NaN', b'Infinity', b'1e999', b'-0.0', b'[' * 2000, b'{"a":' * 2000),
  *(b'9' * 5000, b'\xff', b'\\ud800', b' ' * 5000, b'[],' * 30000),
  *(b'{},' * 30000, b'""'),
)


EMPTY = artifact.Artifact('', {}, (), {}, (), {}, {})


def make_bases(small):
  """Files of every kind, by name, the largest of some kB."""
  empty = EMPTY
  contents = {
    'small': small,
    'contexts': _make_contexts(),
    'int8': empty._replace(tensors=_make_int8()),
    'codebook': empty._replace(tensors=_make_codebook()),
    'plain': empty._replace(tensors=_make_plain()),
    'empty': empty,
    'stacked': empty._replace(tensors=make_stacked()),
    'nested': empty._replace(
      tensors=_make_nested(),
      nesting={
        'params': {
          'a/b': ['list', 0, ['tuple', 0, None]],
          'c': ['dict', [3, {}], [-7, {'d': 0}]],
        },
      },
    ),
  }
  return {name: artifact.dumps(given) for name, given in contents.items()}


def _make_nested():
  paths = 'params/a/b/0', 'params/a/b/1/0', 'params/c/-7/d'
  return {path: np.arange(i, 3, dtype='f2') for i, path in enumerate(paths)}


def pack(sections):
  """A file of (name, body) with good checksums, whatever the names are."""
  rows = [
    (name.encode(), len(body), zlib.crc32(body)) for name, body in sections
  ]
  fixed = container.MAGIC, container.VERSION, len(rows)
  return _join(fixed, rows, b''.join(body for _, body in sections))


def make_head(text, size=None):
  """The body of HEAD with this text, of `size` bytes as it says."""
  size = len(text) if size is None else size
  return struct.pack('<I', size) + byte_planes.deflate(text)


def mutate(data, rng):
  """Damages a good file.

  Args:
    data: of the file.
    rng: of NumPy; the same state gives the same bytes.

  Returns:
    Other bytes, though once in a while the same ones.
  """
  more = [_pick(_MORE_KINDS, rng) for _ in range(rng.choice(3, p=_MORE))]
  for kind in (_pick(_KINDS, rng), *more):
    try:
      data = kind(data, rng)
    except ValueError:  # nothing there, or no longer, to which it applies
      data = mutate_bytes(data, rng)
  return data


def mutate_bytes(data, rng):
  """Flips, cuts, inserts, repeats or moves a few bytes."""
  changed = bytearray(data)
  start, end = sorted(rng.integers(0, len(data) + 1, 2).tolist())
  few = min(len(data), start + int(rng.integers(1, 9)))
  action = rng.integers(8)
  if action == 0 and changed:
    changed[start % len(changed)] ^= 1 << int(rng.integers(8))
  elif action == 1:
    del changed[start:]
  elif action == 2:
    del changed[start:few]
  elif action == 3:
    changed[start:start] = rng.bytes(rng.integers(1, 9))
  elif action == 4:
    changed[start:few] = rng.bytes(few - start)
  elif action == 5:
    changed[start:start] = changed[start : min(end, start + 64)]
  elif action == 6:
    width = int(rng.choice([1, 2, 4, 8]))
    number = _pick(_NUMBERS, rng) % (1 << 8 * width)
    changed[start : start + width] = number.to_bytes(width, 'little')
  else:
    changed += changed[start:few] or rng.bytes(4)
  return bytes(changed)


def mutate_table(data, rng):
  """Changes rows of the section table; its checksum is good again."""
  fixed, rows, rest = _split(data)
  magic, version, number = fixed
  row, other = (int(rng.integers(len(rows))) for _ in range(2))
  name, length, checksum = rows[row]
  action = rng.integers(8)
  if action == 0:
    rows[row], rows[other] = rows[other], rows[row]
  elif action == 1:  # swaps the names alone
    rows[row] = rows[other][0], length, checksum
    rows[other] = name, *rows[other][1:]
  elif action == 2:
    rows[row] = _pick(_NAMES, rng).encode(), length, checksum
  elif action == 3:  # both fields: a length of 2^63 for whoever reads 8 bytes
    number_of_64 = _pick((*_NUMBERS, length - 1, length + 1), rng)
    low, high = number_of_64 % (1 << 32), (number_of_64 >> 32) % (1 << 32)
    rows[row] = name, low, high or checksum
  elif action == 4:
    rows[row] = name, length, int(rng.integers(1 << 32))
  elif action == 5:
    rows.insert(row, rows[other])
  elif action == 6:
    del rows[row]
  else:
    number = _pick(_NUMBERS, rng) % (1 << 16)
    version = int(rng.choice([version, 0, 1, 3]))
  if action in (5, 6) and rng.integers(2):
    number = len(rows)
  return _join((magic, version, number), rows, rest)


def mutate_sections(data, rng):
  """Swaps, drops, adds or renames whole sections; all checksums are good."""
  sections = list(container.unpack(data).items())
  first, second = (int(rng.integers(len(sections))) for _ in range(2))
  action = rng.integers(4)
  if action == 0:
    one, other = sections[first], sections[second]
    sections[first], sections[second] = (one[0], other[1]), (other[0], one[1])
  elif action == 1:
    del sections[first]
  elif action == 2:
    sections[first] = _pick(_NAMES, rng), sections[first][1]
  else:
    sections.insert(first, (_pick(_NAMES, rng), rng.bytes(rng.integers(40))))
  return pack(sections)


def mutate_body(data, rng):
  """Changes bytes within a section; all checksums are good."""
  sections = container.unpack(data)
  name = _pick(sorted(sections), rng)
  return _replace(data, name, mutate_bytes(bytes(sections[name]), rng))


def mutate_text(data, rng):
  """Changes bytes of a JSON text, which is deflated again."""
  names = [name for name in _TEXT_SECTIONS if name in container.unpack(data)]
  name = _pick(names or [layout.HEADER], rng)
  text = _get_text(data, name)
  start = int(rng.integers(len(text) + 1))
  action = rng.integers(4)
  if action == 0:
    text = text[:start] + _pick(_BLOCKS, rng) + text[start:]
  elif action == 1:  # repeats a key with its value
    keys = [i for i, byte in enumerate(text) if byte in b'{,']
    start = _pick(keys, rng) + 1 if keys else 0
    end = text.find(b',', start)
    text = text[:start] + text[start : end + 1] + text[start:]
  else:
    text = mutate_bytes(text, rng)
  size = None if rng.integers(8) else _pick(_NUMBERS, rng) % (1 << 32)
  return _replace(data, name, make_head(text, size))


def mutate_header(data, rng):
  """Changes shapes, encodings, names, depth or fields of the header."""
  fields = json.loads(_get_text(data))
  found = list(_iterate(fields['tree'], ()))
  action = rng.integers(8)
  if action < 4 and found:
    path, tensor = found[int(rng.integers(len(found)))]
    _set(fields['tree'], path, _mutate_tensor(tensor, rng))
  elif action == 4 and found:
    path, tensor = found[int(rng.integers(len(found)))]
    folder = _get(fields['tree'], path[:-1])
    folder[_pick(_TEXTS, rng)] = folder.pop(path[-1])
  elif action == 5:
    deep = _pick([['f2'], 0.5, {}, ['t', 0, 3]], rng)
    for _ in range(_pick([1, 3, 62, 63, 64, 65, 200], rng)):
      deep = {_pick(['a', 'b', ''], rng): deep}
    fields['tree'][_pick(['params', 'deep'], rng)] = deep
  elif action == 6:
    value = _pick([*_SIZES, [[[0.5]]], {'a': {'': 0.5}}, ['x']], rng)
    fields[_pick(sorted(fields), rng)] = value
  else:
    number = int(rng.integers(2, 40))
    more = {f'{i}': [_pick(_ENCODINGS, rng), i % 3, 2] for i in range(number)}
    fields['tree']['more'] = more
  text = json.dumps(fields, separators=(',', ':')).encode()
  return _replace(data, layout.HEADER, make_head(text))


def mutate_codes(data, rng):
  """Changes the models' tables or the stream of the ternary codes."""
  body = bytearray(container.unpack(data).get(layout.CODES, b''))
  tree = json.loads(_get_text(data))['tree']
  specs = [_make_spec('', *tensor) for _, tensor in _iterate(tree, ())]
  num_tables = slices.count(layout.ternary(specs))
  start = 5 * num_tables
  if len(body) < max(start, 1):
    raise ValueError('no codes')
  action = rng.integers(5)
  if action < 3 and num_tables:
    frequency = [0, 1, 88, 89, 1 << 14, 32679, 32680, 32767, 32768, 65535]
    row = 5 * int(rng.integers(num_tables))
    mode, plus, minus = struct.unpack_from('<BHH', body, row)
    changes = [
      (mode ^ 1, plus, minus),
      (int(rng.choice([2, 255])), plus, minus),
      (mode, minus, plus),
      (mode, _pick(frequency, rng), minus),
      (mode, plus, _pick(frequency, rng)),
      (_pick([0, 1], rng), _pick(frequency, rng), 0),
      (_pick([0, 1], rng), 0, _pick(frequency, rng)),
    ]
    struct.pack_into('<BHH', body, row, *_pick(changes, rng))
  elif action == 3:
    body[start:] = rng.bytes(rng.integers(0, 2 * len(body) + 9)) + b'\1'
  else:
    body[start:] = mutate_bytes(bytes(body[start:]), rng)
  return _replace(data, layout.CODES, bytes(body))


def mutate_indices(data, rng):
  """Changes the stream of the indices, or takes another one."""
  body = bytes(container.unpack(data).get(layout.INDICES, b''))
  if not body:
    raise ValueError('no indices')
  if rng.integers(2):
    body = mutate_bytes(body, rng)
  else:
    body = rng.bytes(rng.integers(0, 2 * len(body) + 9)) + b'\1'
  return _replace(data, layout.INDICES, body)


def mutate_deflate(data, rng):
  """Replaces a DEFLATE stream: bombs, junk behind it, stored blocks."""
  sections = container.unpack(data)
  name = _pick(sorted(set(sections) - {layout.CODES, layout.INDICES}), rng)
  body = bytes(sections[name])
  has_size = name in _TEXT_SECTIONS
  start = 4 if has_size else int(rng.integers(len(body) + 1))
  size = _pick([0, 1, 1000, 1 << 20, 1 << 22], rng)
  streams = [
    byte_planes.deflate(bytes(size)),
    zlib.compress(bytes(size), 0, -15),
    zlib.compress(bytes(size)),
    body[start:] + rng.bytes(9),
    body[start:] * 2,
    b'\x03\x00',
    b'\x07',
    b'\0' * 20,
  ]
  head = body[:start]
  if has_size and rng.integers(2):
    head = struct.pack('<I', size)
  return _replace(data, name, head + _pick(streams, rng))


def rebuild(data, rng):
  """Gives the tensors other shapes and encodings, and sections that fit."""
  fields = json.loads(_get_text(data))
  specs = []
  for path, tensor in _iterate(fields['tree'], ()):
    changed = tensor
    if rng.integers(4) == 0:
      shape = rng.choice([0, 1, 2, 3, 5, 40], rng.integers(1, 6)).tolist()
      encoding = _pick(sorted(_ENCODINGS[:-3]), rng)
      is_codebook = encoding in layout.CODEBOOK
      book = [_pick([1, 2, 5, 256], rng), _pick([1, 1, 2], rng)]
      changed = [encoding, *(book if is_codebook else []), *shape]
      if layout.TERNARY.get(encoding) and rng.integers(2):
        changed.insert(1, _pick_axes(len(shape), rng))
    _set(fields['tree'], path, changed)
    specs.append(_make_spec('/'.join(path), *changed))
  sections = {layout.HEADER: make_head(json.dumps(fields).encode())}
  num_tables = slices.count(layout.ternary(specs))
  if layout.ternary(specs):
    rows = rng.choice([0, 0, 1, 9000, 15000, 32768], (num_tables, 2))
    modes = rng.integers(0, 2, num_tables)
    tables = [
      struct.pack('<BHH', mode if 0 < sum(row) < 32679 else 0, *row)
      for mode, row in zip(modes.tolist(), rows.tolist(), strict=True)
    ]
    body = b''.join(tables) + rng.bytes(rng.integers(0, 300))
    sections[layout.CODES] = body
  if layout.codebook(specs):
    sections[layout.INDICES] = rng.bytes(rng.integers(0, 90)) + b'\1'
  for encoding, runs in layout.runs_by_encoding(specs).items():
    name, dtype = layout.DTYPES[encoding]
    size = sum(run.size for run in runs)
    values = np.frombuffer(rng.bytes(dtype.itemsize * size), dtype)
    sections[name] = byte_planes.encode(values)
  return pack(list(sections.items()))


# What applies to damaged files as well, and what to good ones alone.
_MORE_KINDS = (
  mutate_bytes,
  mutate_table,
  mutate_sections,
  mutate_body,
  mutate_text,
)
_MORE = [0.7, 0.2, 0.1]  # how likely 0, 1 and 2 further changes are
_KINDS = (
  *_MORE_KINDS,
  *(mutate_header, mutate_header, mutate_codes, mutate_codes),
  mutate_indices,
  mutate_deflate,
  rebuild,
)


def _make_contexts():
  rng = np.random.default_rng(11)
  found = {}
  for index, shape in enumerate([(3, 3, 8, 16), (3, 3, 32, 32), (48, 64)]):
    # Some channels are dense, most are not; neighbours have the same sign.
    density = rng.choice([0.02, 0.8], shape[-2:], p=[0.8, 0.2])
    signs = rng.choice(np.array([-1, 1], np.int8), shape[-2:])
    codes = np.where(rng.random(shape) < density, signs, np.int8(0))
    found[f'params/block{index}/kernel'] = qtensors.TernaryTensor(codes)
    for leaf in ('scale', 'bias'):
      values = rng.normal(1, 0.1, shape[-1]).astype(np.float16)
      found[f'params/block{index}/norm/{leaf}'] = values
  norms = {f'block{index}/norm': 1e-5 for index in range(3)}
  return artifact.Artifact(
    'resnet', {'width': 8}, (32, 32, 3), {}, ('a', 'b'), found, norms
  )


def _make_int8():
  rng = np.random.default_rng(12)
  codes = rng.integers(-127, 128, (5, 7)).astype(np.int8)
  return {
    'params/a': qtensors.Int8Tensor(codes),
    'params/b': qtensors.Int8Tensor(codes.T, np.ones(5, np.float32)),
  }


def _make_codebook():
  rng = np.random.default_rng(14)
  draw = lambda size, shape: rng.integers(0, size, shape).astype(np.uint8)
  book = rng.normal(size=(16, 4)).astype(np.float16)
  levels = np.array([[-1], [0], [0.5]], np.float32)
  scale = np.array([0.5, 2], np.float16)
  return {
    'params/a': qtensors.CodebookTensor(draw(16, (3, 3, 2, 5)), book),
    'params/b': qtensors.CodebookTensor(draw(3, (40, 2)), levels, scale),
    'params/c': qtensors.CodebookTensor(draw(1, (4, 1)), book[:1]),
    'params/d': qtensors.TernaryTensor(draw(2, (4, 2)).astype(np.int8)),
    'params/e': scale,
  }


def make_stacked():
  """Stacks of layers, several axes of channels, outputs that come first."""
  rng = np.random.default_rng(17)
  found = {}
  for index, (shape, axes) in enumerate(
    [
      ((3, 24, 2, 32), (0, 2, 3)),
      ((3, 2, 32, 24), (0, 3)),
      ((40, 32), (0,)),
      ((2, 9, 7, 3, 2), (0, 1)),
      ((2, 3, 2, 8, 9), (0, 4)),
      ((5, 6), ()),
    ]
  ):
    # Some numbers are dense along the last axis, most are not.
    density = rng.choice([0.03, 0.9], (*shape[:-1], 1), p=[0.8, 0.2])
    signs = rng.choice(np.array([-1, 1], np.int8), shape)
    sizes = [n if axis in axes else 1 for axis, n in enumerate(shape)]
    found[f'params/{index}/kernel'] = qtensors.TernaryTensor(
      np.where(rng.random(shape) < density, signs, np.int8(0)),
      rng.normal(size=sizes).astype(np.float16 if index % 2 else np.float32),
    )
  return found


def _make_plain():
  rng = np.random.default_rng(13)
  return {
    f'params/{encoding}': np.frombuffer(rng.bytes(6 * dtype.itemsize), dtype)
    for encoding, (_, dtype) in layout.DTYPES.items()
  }


def _mutate_tensor(tensor, rng):
  encoding, *shape = tensor
  axis = int(rng.integers(len(shape) + 1))
  action = rng.integers(7)
  if action == 6:
    return [encoding, _pick_axes(len(shape), rng), *shape]
  if action == 0:
    return [_pick(_ENCODINGS, rng), *shape]
  if action == 1:
    return [encoding, *shape[:axis], _pick(_SIZES, rng), *shape[axis:]]
  if action == 2:
    return [encoding, *shape[:axis], *shape[axis + 1 :]]
  if action == 3:  # the same elements otherwise
    return [encoding, *rng.permutation(np.array(shape, int)).tolist()]
  if action == 4:
    return [encoding, *shape, *[1] * int(rng.integers(1, 40))]
  size = _pick([*_SIZES, int(rng.integers(1, 2000))], rng)
  return [encoding, *shape[:axis], size, *shape[axis + 1 :]]


def _pick_axes(num_axes, rng):
  """Some axes of scales, now and then none that there are."""
  if rng.integers(6) == 0:
    return _pick([[-1], [num_axes], [0, 0], [1, 0], [True], [0.5], [[]]], rng)
  return [axis for axis in range(num_axes) if rng.integers(2)]


def _make_spec(path, encoding, *sizes):
  if sizes and isinstance(sizes[0], list):
    return layout.Spec(path, encoding, sizes[1:], (), tuple(sizes[0]))
  split = 2 if encoding in layout.CODEBOOK else 0
  return layout.Spec(path, encoding, sizes[split:], sizes[:split])


def _pick(choices, rng):
  return choices[int(rng.integers(len(choices)))]


def _split(data):
  """Preamble, rows and bodies as they stand, for a table that is whole."""
  if len(data) < _FIXED.size:
    raise ValueError('no table')
  magic, version, number = _FIXED.unpack_from(data)
  end = _FIXED.size + _ROW.size * number
  if not number or len(data) < end + 4:
    raise ValueError('no table')
  rows = list(_ROW.iter_unpack(data[_FIXED.size : end]))
  return (magic, version, number), rows, data[end + 4 :]


def _join(fixed, rows, rest):
  table = _FIXED.pack(*fixed) + b''.join(_ROW.pack(*row) for row in rows)
  return table + struct.pack('<I', zlib.crc32(table)) + rest


def _replace(data, name, body):
  sections = container.unpack(data) | {name: body}
  return pack(list(sections.items()))


def _get_text(data, name=layout.HEADER):
  body = container.unpack(data).get(name, b'')
  if len(body) < 4:
    raise ValueError('no text')
  return byte_planes.inflate(body[4:], struct.unpack_from('<I', body)[0])


def _iterate(node, path):
  """The tensors of a tree: (names, [encoding, sizes]) each."""
  if isinstance(node, list) and node and isinstance(node[0], str):
    yield path, node
  elif isinstance(node, dict):
    for name, child in node.items():
      yield from _iterate(child, (*path, name))


def _get(tree, path):
  for name in path:
    tree = tree[name]
  return tree


def _set(tree, path, value):
  _get(tree, path[:-1])[path[-1]] = value
