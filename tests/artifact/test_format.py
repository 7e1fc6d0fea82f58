import re
import struct
import zlib

import pytest

from hq_jax.artifact import format as container

SECTIONS = [('HEAD', b'abc'), ('note', b''), ('TF16', b'\0\1')]


def _repair(data, num_sections):
  """Recomputes the checksum over preamble and table."""
  end = container.preamble_bytes(num_sections)
  table = data[: end - 4]
  return table + struct.pack('<I', zlib.crc32(table)) + data[end:]


def test_bytes_by_hand():
  table = bytes.fromhex(
    '89485146 0d0a1a0a'  # guard bytes
    '0200 0100'  # version 2, one section
    '48454144 03000000 c2412435'  # HEAD, 3 bytes, CRC-32 of abc: 352441c2
  )
  crc = struct.pack('<I', zlib.crc32(table))
  assert container.pack([('HEAD', b'abc')]) == table + crc + b'abc'


def test_every_flipped_bit_is_found():
  data = container.pack(SECTIONS)
  for index in range(len(data)):
    for bit in range(8):
      damaged = bytearray(data)
      damaged[index] ^= 1 << bit
      with pytest.raises(ValueError):
        container.unpack(bytes(damaged))


def test_every_missing_or_added_byte_is_found():
  data = container.pack(SECTIONS)
  for index in range(len(data)):
    with pytest.raises(ValueError):
      container.unpack(data[:index])
    with pytest.raises(ValueError):
      container.unpack(data[:index] + data[index + 1 :])
    with pytest.raises(ValueError):
      container.unpack(data[:index] + b'\0' + data[index:])
  with pytest.raises(ValueError, match='followed by other bytes'):
    container.unpack(data + b'\0')


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    (b'', 'preamble: the file is empty'),
    (b'PK\3\4', 'preamble: not an .hq file, it starts with'),
    (b'\x89HQF\n\x1a\n', 'preamble: not an .hq file'),
    (container.MAGIC, 'preamble: cut, 8 of 12 bytes'),
    (container.MAGIC + b'\1\0\1\0', 'preamble: version 1, wanted 2'),
    (container.MAGIC + b'\2\0\xff\xff', 'preamble: 65535 sections'),
    (container.MAGIC + b'\2\0\1\0', 'section table: cut, 12 of 28 bytes'),
  ],
)
def test_message_names_the_part(data, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    container.unpack(data)


def test_repeated_and_odd_names_are_refused():
  data = container.pack([('TF16', b'a'), ('TF32', b'a')])
  repeated = _repair(data.replace(b'TF32', b'TF16'), 2)
  with pytest.raises(ValueError, match='repeated name'):
    container.unpack(repeated)
  with pytest.raises(ValueError, match='bad or repeated name'):
    container.unpack(_repair(data.replace(b'TF32', b'TF\n2'), 2))
  for name in ('HEADS', '', '1ABC', 'AB C'):
    with pytest.raises(ValueError, match='section name'):
      container.pack([(name, b'')])
  with pytest.raises(ValueError, match='sections is'):
    container.pack([('HEAD', b''), ('HEAD', b'')])
