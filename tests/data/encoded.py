"""Small image files, written by Pillow or by hand."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

LOSSLESS = {
  'PNG': {},
  'BMP': {},
  'GIF': {},
  'WEBP': {'lossless': True, 'exact': True},
  'TIFF': {},
  'JPEG2000': {},
  'PPM': {},
  'PCX': {},
  'SGI': {},
  'QOI': {},
}


def encode(image, file_format='PNG', **options):
  file = io.BytesIO()
  image.save(file, file_format, **options)
  return file.getvalue()


def draw_noise(height, width, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


def draw_smooth(height, width, seed=0):
  """What a lossy file changes little."""
  image = Image.fromarray(draw_noise(5, 4, seed))
  return image.resize((width, height), Image.Resampling.BICUBIC)


def make_png(width, height, bits, color_type, rows):
  """A PNG file, by hand: Pillow does not write all there are."""
  chunk = lambda kind, body: (
    struct.pack('>I', len(body))
    + kind
    + body
    + struct.pack('>I', zlib.crc32(kind + body))
  )
  header = struct.pack('>IIBBBBB', width, height, bits, color_type, 0, 0, 0)
  body = zlib.compress(b''.join(b'\0' + row for row in rows))
  return (
    b'\x89PNG\r\n\x1a\n'
    + chunk(b'IHDR', header)
    + chunk(b'IDAT', body)
    + chunk(b'IEND', b'')
  )


def make_exif(orientation, order='>', entries=1):
  """EXIF by hand, in either byte order, behind another entry."""
  start = b'MM\0*' if order == '>' else b'II*\0'
  entry = struct.pack(f'{order}HHIHH', 0x0112, 3, 1, orientation, 0)
  other = struct.pack(f'{order}HHII', 0x0100, 4, 1, 77)
  return (
    b'Exif\0\0'
    + start
    + struct.pack(f'{order}IH', 8, entries + 1)
    + other
    + entry
    + bytes(4)
  )
