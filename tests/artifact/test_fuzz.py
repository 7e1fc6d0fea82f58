"""20,000 damaged files, and those that ask for as much as a file may."""

import pathlib
import struct
import zipfile
import zlib

import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.artifact import byte_planes
from hq_jax.artifact import header as headers
from hq_jax.artifact import inspect
from hq_jax.artifact import layout
from hq_jax.artifact import ternary_coder
from hq_jax.core import qtensors
from tests.artifact import mutations
from tests.artifact import outcomes

# Found by `fuzz_reader`, each the smallest that reaches what it does.
CORPUS = pathlib.Path(__file__).with_name('corpus.zip')
READERS = (artifact.loads, inspect.describe)
# Of the changed files, how many come from each base.
SHARES = {
  'small': 0.25,
  'contexts': 0.3,
  'int8': 0.1,
  'codebook': 0.15,
  'plain': 0.12,
  'nested': 0.1,
  'empty': 0.08,
  'stacked': 0.2,
}
MIB = 1 << 20
DICT = '{"a":'
WIDE = '\U0001f600'  # four bytes in UTF-8, and four for all others in Python


@pytest.fixture(scope='module')
def bases(small):
  return mutations.make_bases(small)


def _mutate(base, name, index):
  seed = (sorted(SHARES).index(name), index)
  return mutations.mutate(base, np.random.default_rng(seed))


def _few_or_slow(few, many):
  slow = pytest.param(10_000, many, marks=pytest.mark.slow)
  return pytest.mark.parametrize(('start', 'number'), [(0, few), slow])


@_few_or_slow(1000, 20_000)
@pytest.mark.parametrize('name', SHARES)
def test_damaged_files_are_refused_or_good(bases, name, start, number):
  outcome = [
    outcomes.check(_mutate(bases[name], name, index))
    for index in range(start, start + round(SHARES[name] * number))
  ]
  refused = {found for found in outcome if isinstance(found, str)}
  num_good = sum(not isinstance(found, str) for found in outcome)
  # The changes are of use only where they get beyond the checksums.
  assert 0.02 < num_good / len(outcome) < 0.5
  assert len(refused) > 20


@_few_or_slow(150, 2000)
@pytest.mark.parametrize('name', SHARES)
def test_damaged_files_take_little_memory(bases, name, start, number):
  for index in range(start, start + round(SHARES[name] * number)):
    data = _mutate(bases[name], name, index)
    for read in READERS:
      peak = outcomes.measure_peak(read, data)
      assert peak <= outcomes.allow_peak(data), (index, read)


def test_changes_follow_from_the_seed(bases):
  for name, base in bases.items():
    first, again, other = (_mutate(base, name, index) for index in (1, 1, 2))
    assert first == again
    assert first != other


def test_good_files_are_good(bases):
  for base in bases.values():
    assert artifact.dumps(outcomes.check(base)) == base


def test_corpus():
  with zipfile.ZipFile(CORPUS) as corpus:
    files = [corpus.read(name) for name in corpus.namelist()]
  found = [outcomes.check(data) for data in files]
  assert len(files) > 80
  assert sum(isinstance(one, str) for one in found) > 20
  assert sum(not isinstance(one, str) for one in found) > 20


def _file(tree='{}', sections=(), args='{}', classes='[]'):
  text = (
    f'{{"args":{args},"classes":{classes},"input":[],"model":"",'
    f'"preprocessing":{{}},"tree":{tree}}}'
  ).encode()
  return mutations.pack([('HEAD', mutations.make_head(text)), *sections])


def _values(encoding, num_bytes, tail=b''):
  name, dtype = layout.DTYPES[encoding]
  size = num_bytes // dtype.itemsize
  low = np.random.default_rng(0).bytes((dtype.itemsize - 1) * size)
  body = low + byte_planes.deflate(bytes(size)) + tail
  return _file(f'{{"k":["{encoding}",{size}]}}', [(name, body)])


def _int8(size, code=b'\0'):
  body = byte_planes.deflate(code * size)
  return _file(f'{{"k":["q",2,{size // 2}]}}', [('TI08', body)])


def _one_symbol(size, spare=0):
  body = struct.pack('<BHH', 0, ternary_coder.TOTAL, 0)
  more = [('note', bytes(spare))] if spare else []
  return _file(f'{{"k":["t",{size}]}}', [('CODE', body), *more])


def _ternary(shape, mode, density=0.1):
  rng = np.random.default_rng(1)
  p = [density / 2, 1 - density, density / 2]
  codes = rng.choice(np.array([-1, 0, 1], np.int8), shape, p=p)
  table = ternary_coder.Table(
    mode, ternary_coder.find_frequencies(ternary_coder.count(codes))
  )
  tables, stream = ternary_coder.encode([codes], [table])
  body = ternary_coder.pack_tables(tables) + stream
  return _file(f'{{"k":["t",{",".join(map(str, shape))}]}}', [('CODE', body)])


def _indices(shape, size, wide=1):
  found = np.random.default_rng(2).integers(0, size, shape).astype(np.uint8)
  kernel = qtensors.CodebookTensor(found, np.ones((size, wide), np.float16))
  return artifact.dumps(
    artifact.Artifact('', {}, (), {}, (), {'k': kernel}, {})
  )


def _tensors(tensor, *sections, folder='f'):
  number = headers.MAX_PATHS // 4
  rows = ','.join(f'"{i:x}":{tensor}' for i in range(number))
  bodies = [(name, make(number)) for name, make in sections]
  return _file(f'{{"{folder}":{{{rows}}}}}', bodies)


def _bomb(name, size):
  stream = zlib.compress(bytes(64 * MIB), 9, -15)
  if name == 'HEAD':
    return mutations.pack([('HEAD', struct.pack('<I', size) + stream)])
  encoding = {'TI08': 'i1', 'TF16': 'f2'}[name]
  return _file(f'{{"k":["{encoding}",{size}]}}', [(name, bytes(size) + stream)])


def _half(number):
  return bytes(number) + byte_planes.deflate(bytes(number))


def _stack(number, num_tables=None):
  num_tables = number if num_tables is None else num_tables
  table = struct.pack('<BHH', 0, 1 << 13, 1 << 13)
  body = table * num_tables + bytes(number // 256) + b'\1'
  return _file(
    f'{{"k":["t2",[0,2],{number},2,1]}}', [('CODE', body), ('TF16', b'')]
  )


def _stream(num_codes, num_bytes):
  table = ternary_coder.pack_tables(
    [ternary_coder.Table(False, (1 << 14, 1 << 13, 1 << 13))]
  )
  body = table + np.random.default_rng(0).bytes(num_bytes) + b'\1'
  return _file(f'{{"k":["t",{num_codes}]}}', [('CODE', body)])


def _zeros(number):
  return byte_planes.deflate(bytes(number))


def _deep(start, middle, end, depth=60):
  return f'{start * depth}{middle}{end * depth},' * (20_000 // depth)


def _numbers(number):
  return ','.join(f'"{i}"' for i in range(number))


def _epsilon(depth):
  return _file(f'{{"params":{{"n":{{"":{"[" * depth}{"]" * depth}}}}}}}')


HOSTILE = {
  **{
    f'{encoding} values': lambda encoding=encoding: _values(encoding, 4 * MIB)
    for encoding in layout.DTYPES
  },
  'bytes behind int8': lambda: _values('i1', 3, bytes(4 * MIB)),
  'bytes behind float64': lambda: _values('f8', 24, bytes(4 * MIB)),
  'int8 codes': lambda: _int8(4 * MIB),
  'int8 codes without opposite': lambda: _int8(4 * MIB, b'\x80'),
  'one symbol, free': lambda: _one_symbol(layout.FREE_CODES),
  'one symbol, as many as may be': lambda: _one_symbol(1100 << 14, 1000),
  'static codes': lambda: _ternary((1000, 1000), 0),
  'contexts, all codes in one tile': lambda: _ternary((8, 1, 257, 255), 1),
  'contexts, many codes': lambda: _ternary((3, 3, 500, 500), 1),
  'contexts, many tiles': lambda: _ternary((1000, 1, 1, 16, 6), 1, 0.66),
  'a stream for other codes': lambda: _stream(200, 4 * MIB),
  'contexts, small kernels': lambda: _ternary((3, 3, 16, 16), 1),
  'contexts, 2^16 rows': lambda: _ternary((1 << 16, 1), 1),
  'contexts, 2^16 rows, taps': lambda: _ternary((3, 3, 1 << 16, 1), 1),
  'contexts, 2^16 columns': lambda: _ternary((1, 1 << 16), 1),
  'classes, one band': lambda: _ternary((3, 1, 512, 512), 2, 0.4),
  'classes, many codes': lambda: _ternary((3, 3, 500, 500), 2),
  'classes, many bands': lambda: _ternary((1000, 1, 1, 16, 32), 2, 0.66),
  'classes, 2^16 rows': lambda: _ternary((3, 1, 1 << 16, 1), 2),
  'classes, 2^16 columns': lambda: _ternary((3, 1, 1, 1 << 16), 2),
  'a bomb in HEAD': lambda: _bomb('HEAD', headers.MAX_BYTES),
  'a bomb in TI08': lambda: _bomb('TI08', 3),
  'a bomb in TF16': lambda: _bomb('TF16', 3),
  'empty lists': lambda: _file(args=f'{{"a":[{"[]," * 32000}0]}}'),
  'deep lists': lambda: _file(args=f'{{"a":[{_deep("[", "", "]")}0]}}'),
  'deep dicts': lambda: _file(args=f'{{"a":[{_deep(DICT, "1", "}")}0]}}'),
  'the deepest list': lambda: _file(args='[' * 60_000),
  'the deepest epsilon': lambda: _epsilon(900),
  'names': lambda: _file(classes=f'[{_numbers(65_000)}]'),
  'a wide text': lambda: _file(args=f'{{"a":"{WIDE}{"a" * 1_000_000}"}}'),
  'a wide text of spaces': lambda: _file(
    args=f'{{"a":"{WIDE}"{" " * 1_000_000}}}'
  ),
  'int8 scalars': lambda: _tensors('["i1"]', ('TI08', _zeros)),
  'int8 tensors': lambda: _tensors(
    '["q2",1,1]', ('TF16', _half), ('TI08', _zeros)
  ),
  'ternary tensors': lambda: _tensors(
    '["t2",1,1]', ('CODE', lambda n: bytes(5 * n)), ('TF16', _half)
  ),
  'layers, as many as may be': lambda: _stack(1 << 14),
  'layers, too many': lambda: _stack(1 << 24, 0),
  'layers without a code': lambda: _file(
    '{"k":["t2",[0,1],2147483648,0]}', [('CODE', b''), ('TF16', b'')]
  ),
  'indices': lambda: _indices((1000, 1000), 256),
  'indices of wide codewords': lambda: _indices((100, 100), 200, 64),
  'one codeword, free': lambda: _indices((1 << 10, 1 << 9), 1, 2),
  'one wide codeword': lambda: _indices((1 << 6, 1 << 10), 1, 16),
  'codebook tensors': lambda: _tensors(
    '["c2",2,1,1,1]',
    ('INDX', lambda n: bytes(n // 8) + b'\1'),
    ('TF16', lambda n: _half(2 * n)),
  ),
  'wide paths': lambda: _tensors('["i1"]', ('TI08', _zeros), folder=WIDE * 200),
  'wide paths, too many': lambda: _tensors('["i1"]', folder=WIDE * 900),
  'an ancillary section': lambda: _file('{}', [('note', bytes(4 * MIB))]),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', HOSTILE)
def test_memory_is_bounded_by_what_a_file_may_declare(name):
  data = HOSTILE[name]()
  outcomes.check(data)
  limit = outcomes.allow_peak(data)
  for read in READERS:
    assert outcomes.measure_peak(read, data) <= limit, read
