"""Damaged and hostile files; a reader without JAX."""

import os
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.artifact import byte_planes
from hq_jax.artifact import format as container
from hq_jax.artifact import reader
from hq_jax.core import qtensors

EMPTY = artifact.Artifact('', {}, (), {}, (), {}, {})


@pytest.fixture(scope='module')
def data(small):
  return artifact.dumps(small)


def _repack(data, changes):
  """The same file with other bodies and good checksums; None removes one."""
  sections = container.unpack(data) | changes
  kept = [(k, v) for k, v in sections.items() if v is not None]
  return container.pack(kept)


def _with_tree(tree, sections=()):
  """A file with this JSON text as its tree."""
  text = (
    '{"args":{},"classes":[],"input":[],"model":"","preprocessing":{},'
    f'"tree":{tree}}}'
  ).encode()
  body = struct.pack('<I', len(text)) + byte_planes.deflate(text)
  return container.pack([('HEAD', body), *sections])


def test_message_names_file_and_section(data, tmp_path):
  path = tmp_path / 'net.hq'
  damaged = bytearray(data)
  damaged[-1] ^= 1
  path.write_bytes(damaged)
  with pytest.raises(ValueError) as caught:
    artifact.read(path)
  assert str(caught.value) == (
    f'{path}: section rngs: damaged (its checksum differs)'
  )


def test_what_is_no_file_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'none\.hq: no such file'):
    artifact.read(tmp_path / 'none.hq')
  with pytest.raises(ValueError, match='cannot be read, Is a directory'):
    artifact.read(tmp_path)
  os.mkfifo(tmp_path / 'pipe.hq')
  with pytest.raises(ValueError, match='wanted a regular file'):
    artifact.read(tmp_path / 'pipe.hq')
  (tmp_path / 'empty.hq').touch()
  with pytest.raises(
    ValueError, match=r'empty\.hq: preamble: the file is empty'
  ):
    artifact.read(tmp_path / 'empty.hq')
  with open(tmp_path / 'huge.hq', 'wb') as file:
    file.truncate(reader.MAX_FILE_BYTES + 1)
  with pytest.raises(ValueError, match='wanted at most'):
    artifact.read(tmp_path / 'huge.hq')


def test_of_a_file_with_holes_only_its_table_is_read(data, tmp_path):
  path = tmp_path / 'holes.hq'
  path.write_bytes(data)
  os.truncate(path, reader.MAX_FILE_BYTES)
  tracemalloc.start()
  with pytest.raises(ValueError) as caught:
    artifact.read(path)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert str(caught.value) == (
    f'{path}: section rngs: followed by other bytes, got {1 << 32} bytes,'
    f' wanted {len(data)}'
  )
  assert peak < 1 << 20


def test_sections_are_all_there_and_all_known(data):
  for name in ('HEAD', 'CODE', 'TF16', 'TF32', 'TI08'):
    with pytest.raises(ValueError, match=f'section {name}: missing'):
      artifact.loads(_repack(data, {name: None}))
  for name in ('WHAT', 'TF64'):
    with pytest.raises(ValueError, match=f'section {name}: unknown'):
      artifact.loads(_repack(data, {name: b''}))


def test_ancillary_sections_are_skipped(data, small, check_equal):
  longer = _repack(data, {'note': b'by hand'})
  check_equal(artifact.loads(longer), small)
  assert len(longer) == len(data) + 12 + 7


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'CODE': b'\0' * 14}, 'section CODE: 14 bytes, wanted 15'),
    ({'CODE': b'\xff' * 15}, 'section CODE: model table 0'),
    ({'CODE': b'\0\0\1\0\1' * 3 + b'\1\0'}, 'section CODE: ternary .* stream'),
    ({'TF16': b''}, 'section TF16: 0 bytes cannot hold 11'),
    ({'TF32': bytes(100)}, 'section TF32: '),
    ({'TI08': b'\x07'}, 'section TI08: damaged DEFLATE stream'),
    ({'HEAD': b'\0\0\0\0'}, 'section HEAD: the DEFLATE stream'),
    ({'rngs': b''}, 'section rngs: 0 bytes, wanted 2 for each of 1 to 8192'),
    ({'rngs': b'\0F\0'}, 'section rngs: 3 bytes'),
    ({'rngs': b'\0F' * 8193}, 'section rngs: 16386 bytes'),
    ({'rngs': b'\0F\0|'}, r'section rngs: activation_ranges\[1\] is inf'),
    ({'rngs': b'\0~'}, r'section rngs: activation_ranges\[0\] is nan'),
    ({'rngs': b'\0\0'}, r'section rngs: activation_ranges\[0\] is 0.0'),
    ({'rngs': b'\0\xc6'}, r'section rngs: activation_ranges\[0\] is -6.0'),
  ],
)
def test_hostile_bodies_are_refused(data, changes, message):
  with pytest.raises(ValueError, match=message):
    artifact.loads(_repack(data, changes))


@pytest.mark.parametrize(
  'tree',
  [
    '{"k":["t",2147483648]}',
    '{"k":["t",46340,46340]}',
    '{"k":["t",4194304]}',
    '{"k":["f2",2147483648]}',
    '{"k":["i1",2147483648]}',
    '{"k":["t2",0,2147483648]}',
    '{"k":["i1",32768,0,65536]}',
    '{"k":["i1",32768,0,65537]}',
    '{"k":["q",1,2147483648]}',
    '{"k":["q",2,2147483647]}',
    '{"k":["q2",2147483648]}',
    '{"k":["q2",0,2147483648]}',
  ],
)
def test_sizes_are_bounded_before_anything_is_allocated(tree):
  sections = []
  if '"t' in tree:
    sections.append(('CODE', bytes(4)))
  if any(encoding in tree for encoding in ('"f2"', '"t2"', '"q2"')):
    sections.append(('TF16', b'\x03\0'))
  if '"i1"' in tree or '"q' in tree:
    sections.append(('TI08', b'\x03\0'))
  hostile = _with_tree(tree, sections)
  tracemalloc.start()
  try:
    if ',0,65536' in tree:  # no elements: nothing wrong with it
      assert artifact.loads(hostile).tensors['k'].size == 0
    else:
      with pytest.raises(ValueError):
        artifact.loads(hostile)
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
  finally:
    tracemalloc.stop()


def test_the_code_without_an_opposite_is_refused():
  codes = np.array([[127, -127]], np.int8)
  written = artifact.dumps(
    EMPTY._replace(tensors={'k': qtensors.Int8Tensor(codes)})
  )
  hostile = _repack(
    written, {'TI08': byte_planes.encode(codes[0] - np.int8(1))}
  )
  with pytest.raises(ValueError, match=r"section TI08: 'k': code -128"):
    artifact.loads(hostile)


def test_many_zeros_need_many_bytes():
  zeros = qtensors.TernaryTensor(np.zeros((3000, 3000), np.int8))
  with pytest.raises(ValueError, match='9000000 coded weights in a file of'):
    artifact.dumps(EMPTY._replace(tensors={'k': zeros}))
  fewer = qtensors.TernaryTensor(np.zeros((1024, 1024), np.int8))
  assert len(artifact.dumps(EMPTY._replace(tensors={'k': fewer}))) < 200


def test_too_many_codes_are_a_fault_of_the_header():
  hostile = _with_tree('{"k":["t",2000,2000]}', [('CODE', bytes(5))])
  message = 'section HEAD: 4000000 coded weights in a file of'
  with pytest.raises(ValueError, match=message):
    artifact.loads(hostile)


def test_a_norm_in_the_header_needs_its_tensors():
  hostile = _with_tree('{"params":{"n":{"":1e-5}}}')
  with pytest.raises(ValueError, match="section HEAD: folded norm 'n'"):
    artifact.loads(hostile)
  for epsilon in ('"a"', 'null', '[]', '1', '1e999', '-0.5', '{}'):
    hostile = _with_tree(f'{{"params":{{"n":{{"":{epsilon}}}}}}}')
    with pytest.raises(ValueError, match='section HEAD: '):
      artifact.loads(hostile)


def test_reading_needs_no_jax(small, tmp_path):
  path = tmp_path / 'net.hq'
  artifact.write(path, small)
  script = """
import sys

class Block:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in ('jax', 'jaxlib', 'flax', 'optax', 'chex'):
      raise ImportError(name + ' is blocked')

sys.meta_path.insert(0, Block())
try:
  import jax
except ImportError:
  pass
else:
  raise SystemExit('jax was not blocked')
from hq_jax import artifact

found = artifact.read(sys.argv[1])
data = open(sys.argv[1], 'rb').read()
artifact.layers(data)
variables = artifact.to_variables(found)
print(len(found.tensors), sum(artifact.sizes(data).values()),
      variables['params']['b']['kernel'].shape)
"""
  done = subprocess.run(
    [sys.executable, '-c', script, str(path)],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  size = path.stat().st_size
  assert done.stdout.split('\n')[0] == f'{len(small.tensors)} {size} (4, 2)'
