"""From an image to a network's input, whoever asks for it."""

import io

import numpy as np
from PIL import Image
import pytest

from hq_jax import artifact
from hq_jax.data import eval_batches
from hq_jax.data import normalization
from hq_jax.data import preprocessing as preprocessing_lib
from hq_jax.data.images import decode
from hq_jax.data.sets import datasets
from hq_jax.inference import classifier
from tests.data import encoded

_PLAIN = {'mean': [0.0], 'std': [1.0]}


def _make_classifier(dataset):
  """Of images alone: it has no network."""
  found = artifact.Artifact(
    *('', {}, dataset.image_shape, normalization.preprocessing(dataset)),
    *((), {}, {}),
  )
  return classifier.Classifier(found, 'none', lambda images: images)


def test_predict_sees_what_evaluation_saw(tmp_path):
  files = {
    'RGB': encoded.encode(encoded.draw_smooth(41, 60), 'JPEG'),
    'turned': encoded.encode(
      encoded.draw_smooth(50, 33), 'JPEG', exif=encoded.make_exif(6)
    ),
    'grey': encoded.encode(encoded.draw_smooth(7, 9).convert('L')),
    'CMYK': encoded.encode(encoded.draw_smooth(30, 90).convert('CMYK'), 'JPEG'),
    'clear': encoded.encode(encoded.draw_smooth(30, 20).convert('RGBA')),
  }
  for name, data in files.items():
    for split in ('train', 'test'):
      path = tmp_path / split / name / '1.jpg'
      path.parent.mkdir(parents=True)
      path.write_bytes(data)
  dataset = datasets.load('folder', tmp_path, image_size=16)
  (batch,) = eval_batches.EvalBatches(
    dataset.test,
    preprocessing=normalization.preprocessing(dataset),
    batch_size=len(files),
  )
  model = _make_classifier(dataset)
  paths = [tmp_path / 'test' / name / '1.jpg' for name in sorted(files)]
  np.testing.assert_array_equal(model.preprocess(paths), batch['image'])
  opened = [Image.open(path) for path in paths]
  np.testing.assert_array_equal(model.preprocess(opened), batch['image'])


def test_raw_pixels_are_those_of_training():
  pixels = np.arange(12, dtype=np.uint8).reshape(2, 3, 2)
  found = preprocessing_lib.to_pixels(pixels, (2, 3, 2), _PLAIN)
  np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize('orientation', [1, 6])
@pytest.mark.parametrize(
  ('size', 'shape', 'box'),
  [
    ((40, 20), (10, 10, 3), (10, 0, 30, 20)),
    ((20, 40), (10, 10, 3), (0, 10, 20, 30)),
    ((30, 20), (10, 5, 3), (10, 0, 20, 20)),
    ((30, 20), (20, 30, 1), (0, 0, 30, 20)),
    ((2, 3), (6, 4, 1), (0, 0, 2, 3)),
  ],
)
def test_without_a_crop_the_middle_is_taken(orientation, size, shape, box):
  image = encoded.draw_smooth(size[1], size[0])
  wanted = image.convert('L' if shape[2] == 1 else 'RGB').resize(
    (shape[1], shape[0]), Image.Resampling.BILINEAR, box
  )
  stored = image.transpose(Image.Transpose.ROTATE_90)
  data = encoded.encode(image)
  if orientation == 6:
    data = encoded.encode(stored, exif=encoded.make_exif(6))
  found = preprocessing_lib.to_pixels(data, shape, _PLAIN)
  assert found.shape == shape and found.dtype == np.uint8
  off = found.astype(int) - np.asarray(wanted).reshape(shape)
  # What is resized first, columns or rows, is rounded first.
  assert np.abs(off).max() <= (orientation == 6)


def test_eight_bits_become_the_range_of_training():
  levels = np.array([[0, 51, 255]], np.uint8)
  preprocessing = _PLAIN | {'pixel_min': 1.0, 'pixel_max': 16.0}
  found = preprocessing_lib.to_pixels(
    Image.fromarray(levels), (1, 3, 1), preprocessing
  )
  assert found.dtype == np.float32
  np.testing.assert_allclose(found.ravel(), [1.0, 4.0, 16.0], rtol=1e-6)


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGBA', 'CMYK', 'YCbCr'])
def test_an_open_image_is_what_its_file_is(mode):
  image = encoded.draw_smooth(9, 8).convert(mode)
  file_format = 'TIFF' if mode in ('CMYK', 'YCbCr') else 'PNG'
  opened = Image.open(io.BytesIO(encoded.encode(image, file_format)))
  assert opened.mode == mode
  wanted = encoded.encode(image.convert('RGB'))
  if file_format == 'PNG':
    wanted = encoded.encode(image)
  np.testing.assert_array_equal(decode.decode(opened), decode.decode(wanted))
  # It is as it was.
  assert opened.mode == mode


def test_sixteen_bits_become_the_upper_eight():
  image = Image.fromarray(np.array([[0x1234, 0xFFFF]], np.uint16))
  found = preprocessing_lib.to_pixels(image, (1, 2, 1), _PLAIN)
  assert found.ravel().tolist() == [0x12, 0xFF]


@pytest.mark.parametrize(
  ('size', 'shape'), [((3, 2), (2, 3, 4)), ((5, 5), (2, 3, 4))]
)
def test_channels_that_no_image_has_are_refused(size, shape):
  with pytest.raises(ValueError) as caught:
    preprocessing_lib.to_pixels(Image.new('RGB', size), shape, _PLAIN)
  assert str(caught.value) == (
    'image is no array of shape (2, 3, 4), and cannot be given 4 channels'
  )
