from concurrent import futures
import io
import math
import struct
import zlib

import numpy as np
from PIL import Image
from PIL import ImageOps
import pytest

from hq_jax.data import augment
from hq_jax.data import images

_LOSSLESS = {
  'PNG': {},
  'BMP': {},
  'GIF': {},
  'WEBP': {'lossless': True, 'exact': True},
}


def _encode(image, file_format='PNG', **options):
  file = io.BytesIO()
  image.save(file, file_format, **options)
  return file.getvalue()


def _noise(height, width, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


def _smooth(height, width, seed=0):
  """What a lossy file changes little."""
  image = Image.fromarray(_noise(5, 4, seed))
  return image.resize((width, height), Image.Resampling.BICUBIC)


def _png(width, height, bits, color_type, rows):
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


def _exif(orientation, order='>', entries=1):
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


@pytest.mark.parametrize('file_format', _LOSSLESS)
def test_lossless_files_give_their_pixels(file_format):
  # Few enough colours for the palette of a GIF.
  pixels = _noise(9, 14) // 128 * 255
  options = _LOSSLESS[file_format]
  data = _encode(Image.fromarray(pixels), file_format, **options)
  found = images.decode(data)
  assert found.dtype == np.uint8
  assert np.array_equal(found, pixels)
  assert np.array_equal(images.decode(memoryview(data)), pixels)


def test_jpeg():
  image = _smooth(40, 60)
  data = _encode(image, 'JPEG', quality=95)
  assert np.abs(images.decode(data) - np.asarray(image, int)).max() < 12
  assert np.array_equal(
    images.decode(data), np.asarray(Image.open(io.BytesIO(data)))
  )


@pytest.mark.parametrize('file_format', ['PNG', 'JPEG'])
def test_grey(file_format):
  # The luma of ITU-R 601: 0.299, 0.587 and 0.114.
  colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
  for color, grey in zip(colors, (76, 150, 29, 255), strict=True):
    data = _encode(Image.new('RGB', (16, 8), color), file_format)
    found = images.decode(data, channels=1)
    assert found.shape == (8, 16, 1)
    assert np.abs(found.astype(int) - grey).max() <= 1
  data = _encode(Image.new('L', (16, 8), 93), file_format)
  assert np.array_equal(images.decode(data), np.full((8, 16, 3), 93))
  assert np.array_equal(images.decode(data, 1), np.full((8, 16, 1), 93))


def test_cmyk():
  image = Image.new('CMYK', (16, 16), (0, 255, 255, 0))
  found = images.decode(_encode(image, 'JPEG', quality=95)).astype(int)
  assert np.abs(found - [255, 0, 0]).max() <= 3
  image = Image.new('CMYK', (16, 16), (0, 0, 0, 255))
  assert images.decode(_encode(image, 'JPEG'), channels=1).max() <= 3


def test_palettes():
  image = Image.new('P', (2, 1))
  image.putpalette([10, 20, 30, 200, 100, 0])
  image.putpixel((1, 0), 1)
  wanted = [[[10, 20, 30], [200, 100, 0]]]
  assert images.decode(_encode(image)).tolist() == wanted
  # One opacity for each colour, of which Pillow would warn, or one colour
  # that is not there at all.
  data = _encode(image, transparency=b'\xff\x00')
  assert images.decode(data).tolist() == [[[10, 20, 30], [255, 255, 255]]]
  for file_format in ('PNG', 'GIF'):
    data = _encode(image, file_format, transparency=0)
    assert images.decode(data).tolist() == [[[255, 255, 255], [200, 100, 0]]]


@pytest.mark.parametrize('file_format', ['PNG', 'WEBP'])
def test_what_is_transparent_lies_over_white(file_format):
  # 255 - alpha of white, and alpha of the colour, over 255.
  pixels = np.array([[[0, 60, 0, 255], [0, 60, 0, 51], [9, 9, 9, 0]]], np.uint8)
  data = _encode(Image.fromarray(pixels), file_format, **_LOSSLESS[file_format])
  wanted = [[[0, 60, 0], [204, 216, 204], [255, 255, 255]]]
  assert images.decode(data).tolist() == wanted


def test_grey_with_alpha():
  pixels = np.array([[[0, 255], [0, 51], [7, 0]]], np.uint8)
  data = _encode(Image.fromarray(pixels, 'LA'))
  assert images.decode(data, channels=1).tolist() == [[[0], [204], [255]]]


def test_16_bits_become_the_upper_8():
  grey = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
  found = images.decode(_encode(Image.fromarray(grey)), channels=1)
  assert found.ravel().tolist() == [0, 0, 1, 128, 255]
  color = struct.pack('>6H', 0, 65535, 0x1234, 256, 255, 32768)
  found = images.decode(_png(2, 1, 16, 2, [color]))
  assert found.tolist() == [[[0, 255, 0x12], [1, 0, 128]]]


def test_1_bit():
  data = _png(8, 1, 1, 0, [b'\xa0'])
  wanted = [255, 0, 255, 0, 0, 0, 0, 0]
  assert images.decode(data, channels=1).ravel().tolist() == wanted


def test_only_the_first_frame_counts():
  first, second = (Image.new('L', (3, 2), grey) for grey in (10, 200))
  for file_format in ('GIF', 'WEBP', 'PNG'):
    data = _encode(
      first,
      file_format,
      save_all=True,
      append_images=[second],
      **_LOSSLESS[file_format],
    )
    assert images.decode(data).tolist() == np.full((2, 3, 3), 10).tolist()


@pytest.mark.parametrize('order', ['>', '<'])
@pytest.mark.parametrize('orientation', range(10))
def test_orientation(orientation, order):
  image = Image.fromarray(_noise(3, 5))
  exif = _exif(orientation, order)
  for file_format in ('PNG', 'WEBP', 'JPEG'):
    options = _LOSSLESS.get(file_format, {})
    data = _encode(image, file_format, exif=exif, **options)
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(images.decode(data), np.asarray(wanted))


def test_a_phone_held_upright():
  # 6: the camera's right side was the top, so what it wrote as the first
  # column, from the bottom to the top, is the first row.
  image = Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], np.uint8))
  data = _encode(image, exif=_exif(6))
  assert images.decode(data, 1)[..., 0].tolist() == [[4, 1], [5, 2], [6, 3]]


@pytest.mark.parametrize('num_bytes', range(6, 44))
def test_exif_that_ends_too_early_turns_nothing(num_bytes):
  image = _smooth(4, 6)
  exif = _exif(6)[:num_bytes]
  data = _encode(image, 'JPEG', exif=exif)
  # The value is there from byte 38 on.
  assert images.decode(data).shape == (
    (6, 4, 3) if num_bytes >= 38 else (4, 6, 3)
  )


def test_exif_that_is_broken_turns_nothing():
  for exif in (b'', b'Exif\0\0', b'Exif\0\0XX*\0', _exif(6, entries=9000)[:30]):
    data = _encode(_smooth(4, 6), 'JPEG', exif=exif)
    assert images.decode(data).shape == (4, 6, 3)
  # It says more than there is, of a resolution that Pillow looks for.
  exif = b'Exif\0\0MM\0*' + struct.pack('>IHHHII', 8, 9, 0x011A, 5, 900, 2**31)
  assert images.decode(_encode(_smooth(4, 6), 'JPEG', exif=exif)).shape[0] == 4


def _make_broken():
  image = Image.fromarray(_noise(40, 50))
  files = {
    name: _encode(image, name) for name in ('JPEG', 'PNG', 'GIF', 'BMP', 'WEBP')
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
  yield 'a PNG of no pixels', _png(0, 5, 8, 2, [])
  # More pixels than anyone has memory for.
  yield 'a large PNG', _png(50_000, 50_000, 8, 2, [b'x'])
  size = struct.pack('>HH', 65_000, 65_000)
  yield 'a large JPEG', jpeg[: start + 5] + size + jpeg[start + 9 :]
  yield 'a large GIF', b'GIF89a' + b'\xff' * 4 + files['GIF'][10:]
  size = struct.pack('<ii', 50_000, 50_000)
  yield 'a large BMP', files['BMP'][:18] + size + files['BMP'][26:]


@pytest.mark.parametrize(
  'data', [pytest.param(data, id=name) for name, data in _make_broken()]
)
def test_what_is_broken_is_an_unreadable_image(data):
  words = images.random_words(0, 0)
  for read in (
    images.decode,
    lambda data: images.random_resized_crop(data, words, size=8),
    lambda data: images.center_crop(data, size=8, resize=9),
  ):
    with pytest.raises(images.UnreadableImage) as raised:
      read(data)
    assert str(raised.value).startswith('image: got ')
    assert len(str(raised.value).splitlines()) == 1


def test_too_many_pixels_are_named():
  data = _png(20_000, 5_000, 8, 0, [b'x'])
  with pytest.raises(images.UnreadableImage, match='got 20000 x 5000 pixels'):
    images.decode(data)


@pytest.mark.parametrize('file_format', ['JPEG', 'PNG', 'GIF', 'BMP', 'WEBP'])
def test_wrong_bytes_give_pixels_or_an_unreadable_image(file_format):
  data = _encode(_smooth(20, 30), file_format, exif=_exif(6))
  rng = np.random.default_rng(0)
  for _ in range(150):
    wrong = bytearray(data)
    # Most of what can go wrong is in the first bytes.
    for i in rng.integers(0, rng.choice([60, len(data)]), 3):
      wrong[i] = rng.integers(256)
    try:
      assert images.decode(bytes(wrong)).dtype == np.uint8
    except images.UnreadableImage as error:
      assert '\n' not in str(error)


def test_threads_get_the_same():
  files = [_encode(_smooth(40, 50, seed), 'JPEG') for seed in range(20)]
  read = lambda i: images.random_resized_crop(
    files[i], images.random_words(0, i), size=16
  )
  with futures.ThreadPoolExecutor(4) as pool:
    found = list(pool.map(read, range(20)))
  for i in range(20):
    assert np.array_equal(found[i], read(i))


def test_words_are_those_of_the_seed_and_the_position():
  # Philox's stream, which NumPy has promised to keep.
  first = images.random_words(3, 5)
  stream = np.random.Philox(key=[3, 1]).random_raw(6 * images.NUM_WORDS)
  assert np.array_equal(first, stream[5 * images.NUM_WORDS :])
  assert first.dtype == np.uint64 and first.shape == (images.NUM_WORDS,)
  words = [images.random_words(s, p) for s in (0, 1) for p in (0, 1, 2**40)]
  words.append(images.random_words(2**64 - 1, 0))
  assert len(np.unique(np.concatenate(words))) == 7 * images.NUM_WORDS
  # `augment` has a stream of its own.
  offsets = augment.random_offsets(0, 0, 11, 2**20)
  mine = images.random_words(0, 0).reshape(11, 4)[:, :2] % np.uint64(2**21 + 1)
  assert not (mine.astype(np.int64) - 2**20 == offsets).any()


def _box_by_the_rule(words, height, width, min_area):
  """torchvision's `RandomResizedCrop.get_params`, with words for its draws."""
  draws = words.astype(object)
  for i in range(10):
    area, aspect, x, y = ((word >> 11) / 2**53 for word in draws[4 * i :][:4])
    target = height * width * (min_area * (1 - area) + area)
    ratio = (3 / 4) ** (1 - aspect) * (4 / 3) ** aspect
    w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
    if 0 < w <= width and 0 < h <= height:
      return int(x * (width - w + 1)), int(y * (height - h + 1)), w, h
  if width / height < 3 / 4:
    w, h = width, round(width / (3 / 4))
  elif width / height > 4 / 3:
    w, h = round(height * 4 / 3), height
  else:
    w, h = width, height
  return (width - w) // 2, (height - h) // 2, w, h


@pytest.mark.parametrize('min_area', [0.08, 0.5, 1.0])
@pytest.mark.parametrize(
  ('height', 'width'),
  [(375, 500), (500, 375), (1, 1), (1, 1000), (1000, 2), (2, 3), (90, 7)],
)
def test_boxes_follow_the_rule(height, width, min_area):
  for position in range(100):
    words = images.random_words(0, position)
    box = images.draw_box(words, height, width, min_area=min_area)
    assert box == _box_by_the_rule(words, height, width, min_area)
    left, top, box_width, box_height = box
    assert 0 <= left < left + box_width <= width
    assert 0 <= top < top + box_height <= height


def test_the_central_box_where_none_fits():
  draw = lambda *size: images.draw_box(
    images.random_words(0, 0), *size, min_area=1
  )
  # 1 high and 4/3 wide; 30 wide and 40 high.
  assert draw(1, 1000) == (499, 0, 1, 1)
  assert draw(2, 101) == (49, 0, 3, 2)
  assert draw(100, 30) == (0, 30, 30, 40)
  assert draw(30, 100) == (30, 0, 40, 30)


def test_boxes_are_spread_as_they_should_be():
  boxes = np.array(
    [
      images.draw_box(images.random_words(1, i), 4000, 4000, min_area=0.08)
      for i in range(3000)
    ]
  ).T
  left, top, width, height = boxes
  areas = width * height / 4000**2
  assert 0.0799 < areas.min() < 0.09
  # Up to 9/16 of a square every ratio fits, so that areas are uniform.
  counts = np.histogram(areas, [0.08, 0.24, 0.40, 0.56])[0]
  assert np.abs(counts / counts.mean() - 1).max() < 0.15
  ratios = np.log(width / height) / np.log(4 / 3)
  assert np.abs(ratios).max() < 1.01
  small = np.abs(ratios[areas < 0.56])
  # Uniform over 0..1: mean 1/2, variance 1/12.
  assert abs(small.mean() - 1 / 2) < 0.03
  assert abs(small.var() - 1 / 12) < 0.01
  places = left / (4001 - width), top / (4001 - height)
  for place in places:
    assert abs(place.mean() - 1 / 2) < 0.03
    assert abs(place.var() - 1 / 12) < 0.01
  assert abs(np.corrcoef(*places)[0, 1]) < 0.06


@pytest.mark.parametrize('shape', [(40, 60), (5, 3), (1, 1000), (1, 1)])
@pytest.mark.parametrize('channels', [1, 3])
def test_a_random_crop_is_a_resized_box(shape, channels):
  pixels = _noise(*shape)
  if channels == 1:
    pixels = pixels[..., 0]
  data = _encode(Image.fromarray(pixels))
  for position in range(12):
    words = images.random_words(0, position)
    found = images.random_resized_crop(
      data, words, size=9, min_area=0.3, channels=channels
    )
    left, top, width, height = images.draw_box(words, *shape, min_area=0.3)
    wanted = Image.fromarray(pixels).resize(
      (9, 9),
      Image.Resampling.BILINEAR,
      (left, top, left + width, top + height),
    )
    wanted = np.asarray(wanted).reshape(9, 9, channels)
    flipped = words[40] >= 2**63
    assert np.array_equal(found, wanted[:, ::-1] if flipped else wanted)
    found = images.random_resized_crop(
      data, words, size=9, min_area=0.3, channels=channels, flip=False
    )
    assert np.array_equal(found, wanted)


def test_half_of_the_crops_are_flipped():
  flips = [images.random_words(0, i)[40] >> np.uint64(63) for i in range(2000)]
  assert abs(np.mean(flips) - 1 / 2) < 0.04


@pytest.mark.parametrize('orientation', range(2, 9))
def test_crops_are_of_the_upright_image(orientation):
  data = _encode(_smooth(41, 28), exif=_exif(orientation))
  upright = _encode(Image.fromarray(images.decode(data)))
  words = images.random_words(0, orientation)
  for crop in (
    lambda data: images.center_crop(data, size=13, resize=18),
    lambda data: images.random_resized_crop(data, words, size=13),
  ):
    # What is resized first, columns or rows, is rounded first.
    assert np.abs(crop(data) - crop(upright).astype(int)).max() <= 1


@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_large_jpeg_is_shrunk_while_it_is_decoded(orientation):
  image = _smooth(403, 299)
  data = _encode(image, 'JPEG', quality=95, exif=_exif(orientation))
  upright = _encode(Image.fromarray(images.decode(data)))
  shrunk = 0
  for position in range(12):
    words = images.random_words(0, position)
    found = images.random_resized_crop(data, words, size=24)
    wanted = images.random_resized_crop(upright, words, size=24)
    off = np.abs(found - wanted.astype(int))
    assert off.max() < 12 and off.mean() < 2
    shrunk += not np.array_equal(found, wanted)
  assert shrunk


@pytest.mark.parametrize(
  ('height', 'width', 'size', 'shrink'),
  [
    (47, 47, 24, 1),
    (48, 48, 24, 2),
    (95, 95, 24, 2),
    (96, 96, 24, 4),
    (192, 192, 24, 8),
    (400, 400, 24, 8),
    # The smaller side decides.
    (75, 100, 25, 2),
  ],
)
def test_no_more_is_lost_in_decoding_than_in_resizing(
  height, width, size, shrink
):
  data = _encode(_smooth(height, width), 'JPEG')
  shape = -(-width // shrink), -(-height // shrink)
  image = Image.open(io.BytesIO(data))
  image.draft('RGB', (width // shrink, height // shrink))
  assert image.size == shape
  box = 0, 0, width / shrink, height / shrink
  wanted = image.resize((size, size), Image.Resampling.BILINEAR, box)
  # No other part has the whole area and a ratio within the limits.
  words = np.zeros(images.NUM_WORDS, np.uint64)
  assert images.draw_box(words, height, width, min_area=1)[2:] == (
    width,
    height,
  )
  found = images.random_resized_crop(data, words, size=size, min_area=1)
  assert np.array_equal(found, np.asarray(wanted))


def _center_crop_by_the_rule(image, size, resize):
  """torchvision's `Resize` and `CenterCrop`, one after the other."""
  width, height = image.size
  short, long = min(image.size), max(image.size)
  other = int(resize * long / short)
  shape = (resize, other) if width <= height else (other, resize)
  image = image.resize(shape, Image.Resampling.BILINEAR)
  left = round((shape[0] - size) / 2.0)
  top = round((shape[1] - size) / 2.0)
  return np.asarray(image.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize(
  ('height', 'width', 'size', 'resize'),
  [
    (375, 500, 224, 256),
    (500, 333, 224, 256),
    (224, 224, 224, 256),
    (256, 256, 224, 256),
    (61, 47, 31, 40),
    (1, 40, 5, 6),
    (40, 1, 6, 6),
    (1, 1, 3, 4),
  ],
)
def test_a_center_crop_is_that_of_two_steps(height, width, size, resize):
  image = _smooth(height, width)
  for channels, mode in ((3, 'RGB'), (1, 'L')):
    plain = image.convert(mode)
    found = images.center_crop(
      _encode(plain), size=size, resize=resize, channels=channels
    )
    wanted = _center_crop_by_the_rule(plain, size, resize)
    assert found.shape == (size, size, channels)
    assert np.abs(found.astype(int) - wanted.reshape(found.shape)).max() <= 1


@pytest.mark.parametrize(
  ('side', 'size', 'start'),
  # Halves are rounded to the even number.
  [(4, 2, 1), (5, 2, 2), (3, 2, 0), (7, 4, 2), (4, 4, 0)],
)
def test_nothing_is_resized_where_the_size_is_right(side, size, start):
  pixels = _noise(side, side + 2)
  found = images.center_crop(
    _encode(Image.fromarray(pixels)), size=size, resize=side
  )
  left = round((side + 2 - size) / 2)
  wanted = pixels[start : start + size, left : left + size]
  assert np.array_equal(found, wanted)


def test_a_long_image_costs_no_more_than_its_middle():
  # Its resized form would have 256 x 256,000 pixels.
  data = _encode(Image.new('RGB', (1000, 1), (1, 2, 3)))
  found = images.center_crop(data, size=224, resize=256)
  assert np.array_equal(found, np.broadcast_to([1, 2, 3], (224, 224, 3)))


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'size': 0}, 'size: got 0, wanted an integer, >= 1'),
    ({'size': 2.5}, 'size: got 2.5, wanted an integer, >= 1'),
    (
      {'size': 4, 'min_area': 0},
      r'min_area: got 0, wanted a fraction in \(0, 1\]',
    ),
    ({'size': 4, 'min_area': 1.1}, 'min_area: got 1.1'),
    ({'size': 4, 'min_area': math.nan}, 'min_area: got nan'),
    ({'size': 4, 'channels': 4}, 'channels: got 4, wanted 1 or 3'),
  ],
)
def test_arguments_out_of_range(arguments, message):
  data = _encode(Image.new('L', (3, 3)))
  words = images.random_words(0, 0)
  with pytest.raises(ValueError, match=f'^{message}') as raised:
    images.random_resized_crop(data, words, **arguments)
  assert not isinstance(raised.value, images.UnreadableImage)


def test_a_center_crop_larger_than_the_image():
  data = _encode(Image.new('L', (3, 3)))
  with pytest.raises(
    ValueError, match=r'^resize: got 4, wanted an integer, >= 5'
  ):
    images.center_crop(data, size=5, resize=4)
  with pytest.raises(ValueError, match=r'^channels: got 2'):
    images.center_crop(data, size=5, resize=5, channels=2)
  with pytest.raises(ValueError, match=r'^channels: got 0'):
    images.decode(data, channels=0)
