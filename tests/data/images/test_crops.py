import functools
import io
import math

import numpy as np
from PIL import Image
import pytest

from hq_jax.data.images import augment
from hq_jax.data.images import crops
from hq_jax.data.images import decode
from tests.data import encoded


def test_words_are_those_of_the_seed_and_the_position():
  # Philox's stream, which NumPy has promised to keep.
  first = crops.random_words(3, 5)
  stream = np.random.Philox(key=[3, 1]).random_raw(6 * crops.NUM_WORDS)
  assert np.array_equal(first, stream[5 * crops.NUM_WORDS :])
  assert first.dtype == np.uint64 and first.shape == (crops.NUM_WORDS,)
  words = [crops.random_words(s, p) for s in (0, 1) for p in (0, 1, 2**40)]
  words.append(crops.random_words(2**64 - 1, 0))
  assert len(np.unique(np.concatenate(words))) == 7 * crops.NUM_WORDS
  # `augment` has a stream of its own.
  offsets = augment.random_offsets(0, 0, 11, 2**20)
  mine = crops.random_words(0, 0).reshape(11, 4)[:, :2] % np.uint64(2**21 + 1)
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
    words = crops.random_words(0, position)
    box = crops.draw_box(words, height, width, min_area=min_area)
    assert box == _box_by_the_rule(words, height, width, min_area)
    left, top, box_width, box_height = box
    assert 0 <= left < left + box_width <= width
    assert 0 <= top < top + box_height <= height


@pytest.mark.parametrize('shape', [(40, 60), (5, 3), (1, 1000), (1, 1)])
def test_a_random_crop_is_a_resized_box(shape):
  pixels = encoded.draw_noise(*shape)
  data = encoded.encode(Image.fromarray(pixels))
  for position in range(12):
    words = crops.random_words(0, position)
    left, top, width, height = crops.draw_box(words, *shape, min_area=0.3)
    wanted = np.asarray(
      Image.fromarray(pixels).resize(
        (9, 9),
        Image.Resampling.BILINEAR,
        (left, top, left + width, top + height),
      )
    )
    crop = functools.partial(
      crops.random_resized_crop, data, words, size=9, min_area=0.3
    )
    assert np.array_equal(crop(flip=False), wanted)
    flipped = words[40] >= 2**63
    assert np.array_equal(crop(), wanted[:, ::-1] if flipped else wanted)


@pytest.mark.parametrize('orientation', range(2, 9))
def test_crops_are_of_the_upright_image(orientation):
  data = encoded.encode(
    encoded.draw_smooth(41, 28), exif=encoded.make_exif(orientation)
  )
  upright = encoded.encode(Image.fromarray(decode.decode(data)))
  words = crops.random_words(0, orientation)
  for crop in (
    lambda data: crops.center_crop(data, size=13, resize=18),
    lambda data: crops.random_resized_crop(data, words, size=13),
  ):
    # What is resized first, columns or rows, is rounded first.
    assert np.abs(crop(data) - crop(upright).astype(int)).max() <= 1


@pytest.mark.parametrize('orientation', [1, 6])
def test_a_large_jpeg_is_shrunk_while_it_is_decoded(orientation):
  image = encoded.draw_smooth(403, 299)
  data = encoded.encode(
    image, 'JPEG', quality=95, exif=encoded.make_exif(orientation)
  )
  upright = encoded.encode(Image.fromarray(decode.decode(data)))
  shrunk = 0
  for position in range(12):
    words = crops.random_words(0, position)
    found = crops.random_resized_crop(data, words, size=24)
    wanted = crops.random_resized_crop(upright, words, size=24)
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
  data = encoded.encode(encoded.draw_smooth(height, width), 'JPEG')
  shape = -(-width // shrink), -(-height // shrink)
  image = Image.open(io.BytesIO(data))
  image.draft('RGB', (width // shrink, height // shrink))
  assert image.size == shape
  box = 0, 0, width / shrink, height / shrink
  wanted = image.resize((size, size), Image.Resampling.BILINEAR, box)
  # No other part has the whole area and a ratio within the limits.
  words = np.zeros(crops.NUM_WORDS, np.uint64)
  assert crops.draw_box(words, height, width, min_area=1)[2:] == (
    width,
    height,
  )
  found = crops.random_resized_crop(data, words, size=size, min_area=1)
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
  image = encoded.draw_smooth(height, width)
  for mode in ('RGB', 'L'):
    plain = image.convert(mode)
    found = crops.center_crop(encoded.encode(plain), size=size, resize=resize)
    wanted = _center_crop_by_the_rule(plain, size, resize)
    wanted = wanted.reshape(size, size, -1)
    assert found.shape == (size, size, 3)
    assert np.abs(found.astype(int) - wanted).max() <= 1


def test_a_long_image_costs_no_more_than_its_middle():
  # Its resized form would have 256 x 256,000 pixels.
  data = encoded.encode(Image.new('RGB', (1000, 1), (1, 2, 3)))
  found = crops.center_crop(data, size=224, resize=256)
  assert np.array_equal(found, np.broadcast_to([1, 2, 3], (224, 224, 3)))


_random = functools.partial(
  crops.random_resized_crop, words=crops.random_words(0, 0)
)


@pytest.mark.parametrize(
  ('crop', 'arguments', 'message'),
  [
    (_random, {'size': 0}, 'size is 0, wanted an integer, >= 1'),
    (_random, {'size': 2.5}, 'size is 2.5, wanted an integer, >= 1'),
    (_random, {'size': 4, 'min_area': 0}, 'min_area is 0, wanted a fraction'),
    (_random, {'size': 4, 'min_area': 1.1}, 'min_area is 1.1'),
    (_random, {'size': 4, 'min_area': math.nan}, 'min_area is nan'),
    (crops.center_crop, {'size': 5, 'resize': 4}, 'resize is 4, wanted an'),
  ],
)
def test_arguments_out_of_range(crop, arguments, message):
  data = encoded.encode(Image.new('L', (3, 3)))
  with pytest.raises(ValueError, match=f'^{message}') as raised:
    crop(data, **arguments)
  assert not isinstance(raised.value, decode.UnreadableImage)
