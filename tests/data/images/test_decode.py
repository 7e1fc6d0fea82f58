import functools
import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
from PIL import Image
from PIL import ImageOps
import pytest

from hq_jax.data.images import crops
from hq_jax.data.images import decode
from hq_jax.data.images import formats
from hq_jax.data.images import memory
from tests import runs
from tests.data import encoded


@pytest.mark.parametrize('file_format', encoded.LOSSLESS)
def test_lossless_files_give_their_pixels(file_format):
  # Few enough colours for the palette of a GIF.
  pixels = encoded.draw_noise(9, 14) // 128 * 255
  options = encoded.LOSSLESS[file_format]
  data = encoded.encode(Image.fromarray(pixels), file_format, **options)
  found = decode.decode(data)
  assert found.dtype == np.uint8
  assert np.array_equal(found, pixels)
  assert np.array_equal(decode.decode(memoryview(data)), pixels)


@pytest.mark.parametrize('file_format', ['JPEG', 'AVIF'])
def test_files_that_lose_a_little(file_format):
  image = encoded.draw_smooth(40, 60)
  data = encoded.encode(image, file_format, quality=95)
  assert np.abs(decode.decode(data) - np.asarray(image, int)).mean() < 2
  assert np.array_equal(
    decode.decode(data), np.asarray(Image.open(io.BytesIO(data)))
  )


@pytest.mark.parametrize('file_format', ['PNG', 'JPEG'])
def test_grey(file_format):
  # The luma of ITU-R 601: 0.299, 0.587 and 0.114.
  colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
  for color, grey in zip(colors, (76, 150, 29, 255), strict=True):
    data = encoded.encode(Image.new('RGB', (16, 8), color), file_format)
    found = decode.decode(data, channels=1)
    assert found.shape == (8, 16, 1)
    assert np.abs(found.astype(int) - grey).max() <= 1
  data = encoded.encode(Image.new('L', (16, 8), 93), file_format)
  assert np.array_equal(decode.decode(data), np.full((8, 16, 3), 93))
  assert np.array_equal(decode.decode(data, 1), np.full((8, 16, 1), 93))


def test_cmyk():
  image = Image.new('CMYK', (16, 16), (0, 255, 255, 0))
  found = decode.decode(encoded.encode(image, 'JPEG', quality=95)).astype(int)
  assert np.abs(found - [255, 0, 0]).max() <= 3
  image = Image.new('CMYK', (16, 16), (0, 0, 0, 255))
  assert decode.decode(encoded.encode(image, 'JPEG'), channels=1).max() <= 3


def test_palettes():
  image = Image.new('P', (2, 1))
  image.putpalette([10, 20, 30, 200, 100, 0])
  image.putpixel((1, 0), 1)
  wanted = [[[10, 20, 30], [200, 100, 0]]]
  assert decode.decode(encoded.encode(image)).tolist() == wanted
  # One opacity for each colour, of which Pillow would warn, or one colour
  # that is not there at all.
  data = encoded.encode(image, transparency=b'\xff\x00')
  assert decode.decode(data).tolist() == [[[10, 20, 30], [255, 255, 255]]]
  for file_format in ('PNG', 'GIF'):
    data = encoded.encode(image, file_format, transparency=0)
    assert decode.decode(data).tolist() == [[[255, 255, 255], [200, 100, 0]]]


@pytest.mark.parametrize('file_format', ['PNG', 'WEBP'])
def test_what_is_transparent_lies_over_white(file_format):
  # 255 - alpha of white, and alpha of the colour, over 255.
  pixels = np.array([[[0, 60, 0, 255], [0, 60, 0, 51], [9, 9, 9, 0]]], np.uint8)
  data = encoded.encode(
    Image.fromarray(pixels), file_format, **encoded.LOSSLESS[file_format]
  )
  wanted = [[[0, 60, 0], [204, 216, 204], [255, 255, 255]]]
  assert decode.decode(data).tolist() == wanted


def test_grey_with_alpha():
  pixels = np.array([[[0, 255], [0, 51], [7, 0]]], np.uint8)
  data = encoded.encode(Image.fromarray(pixels, 'LA'))
  assert decode.decode(data, channels=1).tolist() == [[[0], [204], [255]]]


def _grey(values, file_format='PNG', **options):
  image = Image.fromarray(np.array([values], np.uint16))
  return encoded.encode(image, file_format, **options)


def _with_significant_bits(png, bits):
  body = b'sBIT' + bytes([bits])
  chunk = b'\0\0\0\1' + body + struct.pack('>I', zlib.crc32(body))
  return png[:33] + chunk + png[33:]  # Behind the header.


_PGM = b'P5 3 1 4095\n' + struct.pack('>3H', 0, 100, 2048)


@pytest.mark.parametrize(
  ('data', 'wanted'),
  [
    # The least depth that holds them: 16, 14, 12, 10 or 8 bits.
    (_grey([0, 255, 256, 32768, 65535]), [0, 0, 1, 128, 255]),
    (_grey([0, 64, 16383]), [0, 1, 255]),
    (_grey([0, 15, 16, 2048, 4095]), [0, 0, 1, 128, 255]),
    (_grey([0, 100, 300], 'TIFF'), [0, 25, 75]),
    (_grey([0, 100, 255]), [0, 100, 255]),
    (Image.fromarray(np.array([[0, 100, 300]], '>u2')), [0, 25, 75]),
    (Image.fromarray(np.array([[0, 2**23]], np.int32)), [0, 128]),
    # That which the file declares.
    (_with_significant_bits(_grey([0, 100, 2048]), 12), [0, 6, 128]),
    (_with_significant_bits(_grey([0, 100, 65535]), 12), [0, 0, 255]),
    (_grey([0, 100, 2048], 'TIFF', tiffinfo={281: 4095}), [0, 6, 128]),
    (_PGM, [0, 6, 128]),
    # Black and white may be the other way round, and one may be no colour.
    (_grey([0, 16, 4095], 'TIFF', tiffinfo={262: 0}), [255, 254, 0]),
    (_grey([0, 16, 4095], transparency=16), [0, 255, 255]),
  ],
)
def test_more_bits_become_the_upper_8_that_are_used(data, wanted):
  assert decode.decode(data, channels=1).ravel().tolist() == wanted
  words = crops.random_words(0, 0)
  if isinstance(data, bytes):
    found = crops.random_resized_crop(data, words, size=8)
    assert min(wanted) <= found.min() <= found.max() <= max(wanted)


def test_colours_of_16_bits_become_the_upper_8():
  color = struct.pack('>6H', 0, 65535, 0x1234, 256, 255, 32768)
  found = decode.decode(encoded.make_png(2, 1, 16, 2, [color]))
  assert found.tolist() == [[[0, 255, 0x12], [1, 0, 128]]]


@pytest.mark.parametrize(
  ('dtype', 'message'),
  [(np.int32, r'a pixel of -5, wanted none below 0'), (np.float32, 'floats')],
)
def test_pixels_that_are_no_levels_are_refused(dtype, message):
  image = Image.fromarray(np.array([[-5, 100]], dtype))
  for data in image, encoded.encode(image, 'TIFF'):
    with pytest.raises(decode.UnreadableImage, match=f'^image has .*{message}'):
      decode.decode(data)


def test_1_bit():
  data = encoded.make_png(8, 1, 1, 0, [b'\xa0'])
  wanted = [255, 0, 255, 0, 0, 0, 0, 0]
  assert decode.decode(data, channels=1).ravel().tolist() == wanted


def test_only_the_first_frame_counts():
  first, second = (Image.new('L', (3, 2), grey) for grey in (10, 200))
  for file_format in ('GIF', 'WEBP', 'PNG'):
    data = encoded.encode(
      first,
      file_format,
      save_all=True,
      append_images=[second],
      **encoded.LOSSLESS[file_format],
    )
    assert decode.decode(data).tolist() == np.full((2, 3, 3), 10).tolist()


@pytest.mark.parametrize('file_format', ['PNG', 'WEBP', 'JPEG', 'TIFF', 'AVIF'])
@pytest.mark.parametrize('orientation', range(10))
def test_orientation(orientation, file_format):
  image = Image.fromarray(encoded.draw_noise(3, 5))
  options = encoded.LOSSLESS.get(file_format, {})
  for order in '<>':
    exif = encoded.make_exif(orientation, order)
    data = encoded.encode(image, file_format, exif=exif, **options)
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(decode.decode(data), np.asarray(wanted))


def test_a_phone_held_upright():
  # 6: the camera's right side was the top, so what it wrote as the first
  # column, from the bottom to the top, is the first row.
  image = Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], np.uint8))
  data = encoded.encode(image, exif=encoded.make_exif(6))
  assert decode.decode(data, 1)[..., 0].tolist() == [[4, 1], [5, 2], [6, 3]]


def _exif_behind_the_pixels(image):
  data = encoded.encode(image, exif=encoded.make_exif(6))
  start = data.index(b'eXIf') - 4
  end = start + 12 + int.from_bytes(data[start : start + 4])
  return data[:start] + data[end:-12] + data[start:end] + data[-12:]


_XMP = b'<rdf:Description tiff:Orientation="6"/>'
_LONG, _BYTE = (
  b'Exif\0\0II*\0' + struct.pack('<IHHHIII', 8, 1, 0x0112, kind, 1, 6, 0)
  for kind in (4, 1)
)


@pytest.mark.parametrize(
  'make',
  [
    pytest.param(_exif_behind_the_pixels, id='behind the pixels of a PNG'),
    pytest.param(lambda x: encoded.encode(x, 'JPEG', xmp=_XMP), id='XMP'),
    pytest.param(lambda x: encoded.encode(x, 'JPEG', exif=_LONG), id='LONG'),
    pytest.param(lambda x: encoded.encode(x, 'JPEG', exif=_BYTE), id='BYTE'),
  ],
)
def test_an_orientation_in_another_place(make):
  data = make(encoded.draw_smooth(4, 6))
  assert decode.decode(data).shape == (6, 4, 3)
  file = decode.read_header(data)
  assert decode.get_upright_size(file) == (4, 6)
  upright = encoded.encode(Image.fromarray(decode.decode(data)))
  found, wanted = (
    crops.center_crop(x, size=3, resize=4).astype(int) for x in (data, upright)
  )
  assert np.abs(found - wanted).max() <= 1


# Pillow warns of it.
@pytest.mark.filterwarnings('ignore')
def test_exif_that_is_broken_turns_nothing():
  whole = encoded.make_exif(6)
  # The entry is there from byte 40 on.
  cut = [(whole[:num_bytes], num_bytes >= 40) for num_bytes in range(6, 44)]
  # It says more than there is, of a resolution that Pillow looks for.
  more = b'Exif\0\0MM\0*' + struct.pack('>IHHHII', 8, 9, 0x011A, 5, 900, 2**31)
  broken = b'', b'Exif\0\0XX*\0', more, encoded.make_exif(6, entries=9000)[:30]
  for exif, turns in [*cut, *((exif, False) for exif in broken)]:
    data = encoded.encode(encoded.draw_smooth(4, 6), 'JPEG', exif=exif)
    assert decode.decode(data).shape == ((6, 4, 3) if turns else (4, 6, 3))


def _make_broken():
  image = Image.fromarray(encoded.draw_noise(40, 50))
  files = {
    name: encoded.encode(image, name)
    for name in ('JPEG', 'PNG', 'GIF', 'BMP', 'WEBP')
  }
  jpeg = files['JPEG']
  start = jpeg.index(b'\xff\xc0')
  yield 'empty', b''
  yield 'text', b'no image\nat all'
  yield 'only the start of a JPEG', b'\xff\xd8\xff'
  yield 'a JPEG header', jpeg[: jpeg.index(b'\xff\xda')]
  yield 'only the start of a PNG', b'\x89PNG\r\n\x1a\n'
  for name, data in files.items():
    for fraction in (0.02, 0.3, 0.6, 0.9):
      yield f'{fraction} of a {name}', data[: int(fraction * len(data))]
  png = bytearray(files['PNG'])
  png[len(png) // 2] ^= 1
  yield 'a PNG with a wrong byte', bytes(png)
  yield 'a PNG of no pixels', encoded.make_png(0, 5, 8, 2, [])
  # More pixels than anyone has memory for.
  yield 'a large PNG', encoded.make_png(50_000, 50_000, 8, 2, [b'x'])
  size = struct.pack('>HH', 65_000, 65_000)
  yield 'a large JPEG', jpeg[: start + 5] + size + jpeg[start + 9 :]
  yield 'a large GIF', b'GIF89a' + b'\xff' * 4 + files['GIF'][10:]
  size = struct.pack('<ii', 50_000, 50_000)
  yield 'a large BMP', files['BMP'][:18] + size + files['BMP'][26:]


@pytest.mark.parametrize(
  'data', [pytest.param(data, id=name) for name, data in _make_broken()]
)
def test_what_is_broken_is_an_unreadable_image(data):
  words = crops.random_words(0, 0)
  for read in (
    decode.decode,
    lambda data: crops.random_resized_crop(data, words, size=8),
    lambda data: crops.center_crop(data, size=8, resize=9),
  ):
    with pytest.raises(decode.UnreadableImage) as raised:
      read(data)
    assert str(raised.value).startswith('image is ')
    assert len(str(raised.value).splitlines()) == 1


def test_pixels_of_a_large_phone_are_read():
  # Pillow warns of them, and refuses the second by itself.
  for size, file_format in (
    ((12_000, 9_000), 'JPEG'),
    ((15_000, 12_000), 'JPEG'),
    ((10_000, 9_000), 'TIFF'),
  ):
    data = encoded.encode(Image.new('L', size, 99), file_format)
    found = crops.center_crop(data, size=4, resize=5)
    assert found.ravel().tolist() == [99] * 48


def test_a_jpeg_that_would_take_too_much_is_halved_while_it_is_decoded(
  monkeypatch,
):
  image = encoded.draw_smooth(300, 400)
  data = encoded.encode(image, 'JPEG', quality=95, exif=encoded.make_exif(6))
  whole = crops.center_crop(data, size=20, resize=25).astype(int)
  monkeypatch.setattr(memory, 'MAX_BYTES', len(data) + 400 * 300 * 6)
  halved = crops.center_crop(data, size=20, resize=25)
  assert 0 < np.abs(halved - whole).max() < 12
  with pytest.raises(decode.UnreadableImage, match='400 x 300 pixels'):
    decode.decode(data)


@pytest.mark.parametrize(
  ('width', 'height', 'color_type', 'wanted'),
  [(20_000, 15_000, 2, 'RGB'), (12_000, 12_000, 6, 'RGBA')],
)
def test_what_takes_more_than_a_gigabyte_is_refused(
  width, height, color_type, wanted
):
  data = encoded.make_png(width, height, 8, color_type, [b'x'])
  message = rf'^image is {width} x {height} pixels \(PNG, {wanted}\) that take'
  for read in (
    decode.decode,
    functools.partial(crops.center_crop, size=8, resize=9),
  ):
    with pytest.raises(decode.UnreadableImage, match=message):
      read(data)


# Prints how many bytes it takes to crop one image after another.
_MEASURE = """
import sys
from hq_jax.data.images import crops
from hq_jax.data.images import memory

def read(name):
  with open('/proc/self/status') as file:
    return next(int(x.split()[1]) for x in file if x.startswith(name)) * 1024

memory.MAX_BYTES = int(sys.argv[1])
for path in sys.argv[2:]:
  with open(path, 'rb') as file:
    data = file.read()
  before = read('VmRSS')
  crops.center_crop(data, size=8, resize=9)
print(read('VmHWM') - before)
"""


@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='no VmHWM')
@pytest.mark.parametrize(
  ('mode', 'file_format', 'options', 'bytes_per_pixel'),
  [
    ('RGBA', 'PNG', {}, 8),
    ('P', 'PNG', {'transparency': 0}, 5),
    ('RGB', 'JPEG', {'progressive': True, 'subsampling': 0}, 10),
    ('RGBA', 'WEBP', {'lossless': True}, 16),
    ('RGB', 'TIFF', {'compression': 'tiff_lzw', 'tiffinfo': {274: 6}}, 9),
  ],
)
def test_no_more_memory_is_taken_than_is_counted(
  tmp_path, mode, file_format, options, bytes_per_pixel
):
  width, height = 4000, 3000
  for name, size in (('small', (9, 9)), ('large', (width, height))):
    data = encoded.encode(Image.new(mode, size), file_format, **options)
    (tmp_path / name).write_bytes(data)
  most = bytes_per_pixel * width * height + 2 * len(data)
  paths = [str(tmp_path / name) for name in ('small', 'large')]
  done = subprocess.run(
    [sys.executable, '-c', _MEASURE, str(most), *paths],
    cwd=runs.ROOT,
    capture_output=True,
    check=True,
  )
  assert int(done.stdout) < most + 24e6


@pytest.mark.parametrize('file_format', ['JPEG', 'AVIF', *encoded.LOSSLESS])
def test_wrong_bytes_give_pixels_or_an_unreadable_image(file_format):
  data = encoded.encode(
    encoded.draw_smooth(20, 30), file_format, exif=encoded.make_exif(6)
  )
  rng = np.random.default_rng(0)
  for _ in range(150):
    wrong = bytearray(data)
    # Most of what can go wrong is in the first bytes.
    for i in rng.integers(0, rng.choice([60, len(data)]), 3):
      wrong[i] = rng.integers(256)
    try:
      assert decode.decode(bytes(wrong)).dtype == np.uint8
    except decode.UnreadableImage as error:
      assert '\n' not in str(error)


@pytest.mark.parametrize('brand', [b'heic', b'mif1'])
@pytest.mark.skipif(formats.has_heif(), reason='HEIC is read')
def test_what_heic_needs_is_said(brand):
  data = b'\0\0\0\x18ftyp' + brand + b'\0\0\0\0mif1heic' + bytes(99)
  with pytest.raises(decode.UnreadableImage, match=r'pip install pillow-heif$'):
    decode.decode(data)


def test_heic(tmp_path):
  heif = pytest.importorskip('pillow_heif')
  image = encoded.draw_smooth(40, 60)
  file = io.BytesIO()
  heif.from_pillow(image).save(file, quality=95, chroma=444)
  found = decode.decode(file.getvalue()).astype(int)
  assert np.abs(found - np.asarray(image)).mean() < 2
  path = tmp_path / 'no ending'
  path.write_bytes(file.getvalue())
  assert formats.recognize(path) == formats.IMAGE


@pytest.mark.parametrize('channels', [0, 2, 4, None])
def test_other_channels(channels):
  data = encoded.encode(Image.new('L', (3, 3)))
  with pytest.raises(ValueError, match=r'^channels is .+, wanted 1 or 3$'):
    decode.decode(data, channels=channels)
