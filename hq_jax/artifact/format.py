"""The container: guard bytes, version, a table of checked sections."""

from collections.abc import Sequence
import struct
import zlib

# A byte above 127 (no text file), both line endings and an end-of-file mark:
# a transfer that alters any of them breaks the first eight bytes.
MAGIC = b'\x89HQF\r\n\x1a\n'
VERSION = 2
MAX_SECTIONS = 64

_FIXED = struct.Struct('<8sHH')  # magic, version, number of sections
_ROW = struct.Struct('<4sII')  # name, length in bytes, CRC-32 of the body
_CRC = struct.Struct('<I')


def preamble_bytes(num_sections: int) -> int:
  """The length of all that stands before the first section's body."""
  return _FIXED.size + _ROW.size * num_sections + _CRC.size


def is_critical(name: str) -> bool:
  """Whether a reader that does not know this section must refuse the file.

  As in PNG: the first letter is upper case.
  """
  return name[0].isupper()


def pack(sections: Sequence[tuple[str, bytes | memoryview]]) -> bytes:
  """Writes preamble, section table and bodies."""
  names = [name for name, _ in sections]
  if len(names) > MAX_SECTIONS or len(set(names)) < len(names):
    raise ValueError(
      f'sections is {names}, wanted at most {MAX_SECTIONS} different ones'
    )
  parts = [_FIXED.pack(MAGIC, VERSION, len(sections))]
  for name, body in sections:
    if not _is_name(name.encode()):
      raise ValueError(f'section name is {name!r}, wanted 4 letters, digits')
    if len(body) >= 1 << 32:
      raise ValueError(f'section {name}: {len(body)} bytes, wanted < 2^32')
    parts.append(_ROW.pack(name.encode(), len(body), zlib.crc32(body)))
  table = b''.join(parts)
  bodies = [body for _, body in sections]
  return b''.join([table, _CRC.pack(zlib.crc32(table)), *bodies])


def check_length(first: bytes, num_bytes: int) -> None:
  """Refuses a file by its first bytes, with the whole table, and its length."""
  _unpack_table(first, num_bytes)


def unpack(data: bytes) -> dict[str, memoryview]:
  """The inverse of `pack`: verifies every byte before it returns any."""
  rows, start = _unpack_table(data, len(data))
  sections = {}
  view = memoryview(data)
  for name, length, checksum in rows:
    body = view[start : start + length]
    if zlib.crc32(body) != checksum:
      raise ValueError(f'section {name}: damaged (its checksum differs)')
    sections[name] = body
    start += length
  return sections


def _unpack_table(
  data: bytes, num_bytes: int
) -> tuple[list[tuple[str, int, int]], int]:
  num_sections = _unpack_fixed(data)
  end = preamble_bytes(num_sections)
  if len(data) < end:
    raise ValueError(f'section table: cut, {len(data)} of {end} bytes')
  table = data[: end - _CRC.size]
  if _CRC.unpack(data[len(table) : end])[0] != zlib.crc32(table):
    raise ValueError('section table: damaged (its checksum differs)')
  rows, names = [], set()
  for raw, length, checksum in _ROW.iter_unpack(table[_FIXED.size :]):
    if not _is_name(raw) or raw in names:
      raise ValueError(f'section table: bad or repeated name {raw!r}')
    names.add(raw)
    rows.append((raw.decode('ascii'), length, checksum))
  total = end + sum(length for _, length, _ in rows)
  if num_bytes != total:
    last = rows[-1][0] if rows else 'table'
    what = 'cut' if num_bytes < total else 'followed by other bytes'
    raise ValueError(
      f'section {last}: {what}, got {num_bytes} bytes, wanted {total}'
    )
  return rows, end


def _unpack_fixed(data: bytes) -> int:
  if not data:
    raise ValueError('preamble: the file is empty')
  start = data[: len(MAGIC)]
  if start != MAGIC[: len(start)]:
    raise ValueError(f'preamble: not an .hq file, it starts with {start!r}')
  if len(data) < _FIXED.size:
    raise ValueError(f'preamble: cut, {len(data)} of {_FIXED.size} bytes')
  _, version, num_sections = _FIXED.unpack_from(data)
  if version != VERSION:
    raise ValueError(f'preamble: version {version}, wanted {VERSION}')
  if num_sections > MAX_SECTIONS:
    raise ValueError(
      f'preamble: {num_sections} sections, wanted at most {MAX_SECTIONS}'
    )
  return num_sections


def _is_name(raw: bytes) -> bool:
  return len(raw) == 4 and raw.isalnum() and raw[:1].isalpha()
