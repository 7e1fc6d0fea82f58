"""Formats of image files, recognized by their first bytes."""

from collections.abc import Callable
import functools
import importlib.util
import io
import os
import shlex
import struct
from typing import Any

from PIL import Image
from PIL import ImageFile

from hq_jax.core import files

# Formats of pictures that show in their first bytes, and in whose headers the
# size is that of what is decoded. (A TGA does not show, an EPS is a program, an
# ICO holds other files.)
_FORMATS = (
  *('JPEG', 'PNG', 'GIF', 'BMP', 'WEBP', 'TIFF', 'AVIF', 'HEIF', 'JPEG2000'),
  *('PPM', 'PCX', 'PSD', 'QOI', 'SGI'),
)
# Whose first bytes other files may have too: their headers are read as well.
_WEAK = {'BMP', 'PPM', 'PCX', 'SGI'}
_NUM_FIRST_BYTES = 128

# What `recognize` finds.
IMAGE = 'image'
# What reads formats of ISO base media, and brands that name them.
PACKAGES = {'AVIF': 'pillow>=11.3', 'HEIC': 'pillow-heif'}
_AVIF_BRANDS = {b'avif', b'avis'}
_HEIC_BRANDS = {
  *(b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'hevm', b'hevs'),
  *(b'mif1', b'msf1'),
}

_Accept = Callable[[bytes], bool | str]
_Open = Callable[[Any, Any], ImageFile.ImageFile]


class UnreadableImage(ValueError):
  """The bytes are no image that can be read; one line says why."""


@functools.cache
def has_heif() -> bool:
  """Whether HEIC can be read here."""
  return importlib.util.find_spec('pillow_heif') is not None


def recognize(path: str | os.PathLike[str]) -> str:
  """Looks into a file: `IMAGE`, one of `PACKAGES` that it needs, or ''."""
  try:
    with files.open_regular(path) as file:
      first = file.read(_NUM_FIRST_BYTES)
      for name, (make, accepts) in _get_formats().items():
        if accepts(first[:16]) is not True or _find_brand(first) == 'HEIC':
          continue
        if name not in _WEAK or _has_header(make, file):
          return IMAGE
  except OSError:
    return ''
  brand = _find_brand(first)
  return IMAGE if brand == 'HEIC' and has_heif() else brand


def _has_header(make: _Open, file: Any) -> bool:
  file.seek(0)
  try:
    make(file, '')
  except Exception:  # Broken files make Pillow raise nearly anything.
    return False
  return True


def describe_need(kind: str) -> str:
  """What to install for files of a kind that is not read here."""
  package = PACKAGES[kind]
  return f'{kind} needs {package}: pip install {shlex.quote(package)}'


def open_file(data: bytes) -> ImageFile.ImageFile:
  """Opens the bytes of a file; its pixels are not decoded.

  `Image.open` would refuse images by the number of their pixels, whatever they
  take.
  """
  first = bytes(data[:_NUM_FIRST_BYTES])
  for make, accepts in _get_formats().values():
    if accepts(first[:16]) is True:
      try:
        return make(io.BytesIO(data), '')
      except (SyntaxError, IndexError, TypeError, struct.error):
        continue  # As `Image.open` does it: another format may have begun so.
  brand = _find_brand(first)
  if brand and not (brand == 'HEIC' and has_heif()):
    raise UnreadableImage(f'image is {brand}; {describe_need(brand)}')
  raise UnreadableImage(
    f'image is {len(data)} bytes that begin with {first[:16]!r}, wanted a whole'
    ' file of an image, such as JPEG, PNG, WebP or TIFF'
  )


@functools.cache
def _get_formats() -> dict[str, tuple[_Open, _Accept]]:
  """How to open the formats that can be read here."""
  if has_heif():
    import pillow_heif

    pillow_heif.register_heif_opener()
  Image.init()
  known: dict[str, Any] = Image.OPEN
  return {name: known[name] for name in _FORMATS if name in known}


def _find_brand(first: bytes) -> str:
  """'AVIF' or 'HEIC', from the box that such files begin with."""
  if first[4:8] != b'ftyp':
    return ''
  box = first[8 : int.from_bytes(first[:4])]
  brands = {box[i : i + 4] for i in range(0, len(box), 4)}
  if brands & _AVIF_BRANDS:
    return 'AVIF'
  return 'HEIC' if brands & _HEIC_BRANDS else ''
