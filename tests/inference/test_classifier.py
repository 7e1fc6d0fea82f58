"""Classifiers from files: what they answer, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

import hq_jax
from hq_jax import artifact
from hq_jax import models
from hq_jax.compression import to_artifact
from hq_jax.inference import architectures
from hq_jax.inference import network
from tests.data import encoded

_ARGUMENTS = {'widths': [4], 'num_blocks': [1], 'dtype': 'float32'}
_RANGE = {'pixel_min': 0.0, 'pixel_max': 16.0, 'mean': [4.5], 'std': [6.0]}


@pytest.fixture(scope='module')
def model():
  return models.build('small_resnet', num_classes=3, arguments=_ARGUMENTS)


@pytest.fixture(scope='module')
def exported(model):
  """The artifact of a small network, dense."""
  variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  return to_artifact.make_artifact(
    variables,
    {},
    model='small_resnet',
    model_arguments=_ARGUMENTS,
    input_shape=(8, 8, 1),
    preprocessing=_RANGE,
    class_names=('a', 'b', 'c'),
  )


@pytest.fixture(scope='module')
def path(tmp_path_factory, exported):
  found = str(tmp_path_factory.mktemp('file') / 'model.hq')
  artifact.write(found, exported)
  return found


@pytest.fixture(scope='module')
def classifier(path):
  return hq_jax.load(path, engine='jax')


def _draw(*shape):
  return np.random.default_rng(0).integers(0, 17, shape, np.uint8)


def test_logits_are_those_of_flax(classifier, model):
  images = _draw(40, 8, 8, 1)
  inputs = (images - np.float32(4.5)) / np.float32(6)
  np.testing.assert_array_equal(classifier.preprocess(images), inputs)
  wanted = model.apply(classifier.variables, inputs)
  found = classifier.logits(images)
  assert (found.shape, found.dtype) == ((40, 3), np.float32)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_predictions(classifier):
  images = _draw(2, 8, 8, 1)
  logits = classifier.logits(images).astype(np.float64)
  found = classifier.predict(images)
  assert len(found) == 2
  for row, (classes, probabilities) in zip(logits, found, strict=True):
    order = np.argsort(-row)
    assert classes == tuple('abc'[i] for i in order)
    wanted = np.exp(row) / np.exp(row).sum()
    np.testing.assert_allclose(probabilities, wanted[order], rtol=1e-6)
  one = classifier.predict(images[1, :, :, 0], top=1)
  assert one.classes == found[1].classes[:1]
  assert one.probabilities == found[1].probabilities[:1]


def test_a_list_of_all_kinds(classifier, tmp_path):
  grey = Image.fromarray(np.full((8, 8), 255, np.uint8))
  data = encoded.encode(grey)
  file = tmp_path / 'a.png'
  file.write_bytes(encoded.encode(grey.resize((40, 30)).convert('RGB')))
  raw = np.full((8, 8, 1), 16, np.uint8)
  images = [file, str(file), data, bytearray(data), grey, raw, raw[..., 0]]
  found = classifier.preprocess([*images[:3], *images[4:]])
  np.testing.assert_allclose(found, np.float32((16 - 4.5) / 6), rtol=1e-6)
  assert classifier.preprocess(images[3]).shape == (1, 8, 8, 1)


@pytest.mark.parametrize(
  ('images', 'message'),
  [
    ([], 'images is empty, wanted at least one image'),
    (
      np.zeros((2, 8, 8, 1), np.float32),
      'images[0]: image is float32, wanted uint8: of pixels in 0..1,'
      ' (255 * image).round().astype(np.uint8)',
    ),
    (
      [_draw(8, 8), np.zeros((9, 9), np.uint8)],
      'images[1]: image has the shape (9, 9, 1), wanted (8, 8, 1); give an'
      ' image of 0 to 255 as a PIL image',
    ),
    (
      np.full((8, 8), 17, np.uint8),
      'image: image has a pixel of 17, wanted 0 to 16, as in training; give an'
      ' image of 0 to 255 as a PIL image',
    ),
    (
      np.zeros((8, 8, 2), np.uint8),
      'image: image has the shape (8, 8, 2), wanted 1 or 3 channels at the end',
    ),
    (
      np.zeros(8, np.uint8),
      'image: image has the shape (8,), wanted (height, width, channels) or'
      ' (height, width)',
    ),
    (['/nowhere/a.png'], '/nowhere/a.png: no such file'),
    (
      [b'<html>'],
      "images[0]: image is 6 bytes that begin with b'<html>', wanted a whole"
      ' file of an image, such as JPEG, PNG, WebP or TIFF',
    ),
    (
      Image.new('F', (8, 8)),
      'image: image has pixels of floats (mode F), wanted 8 bits for each'
      ' channel',
    ),
    (
      iter([]),
      'images is of type list_iterator, wanted paths, bytes, PIL images, arrays'
      ' of uint8, or a list of them',
    ),
  ],
)
def test_what_is_no_image_is_one_line(classifier, images, message):
  with pytest.raises((ValueError, OSError)) as caught:
    classifier.predict(images)
  assert str(caught.value) == message


def test_a_top_below_one_is_refused(classifier):
  with pytest.raises(ValueError, match=r'^top is 0, wanted an int of at least'):
    classifier.predict(_draw(8, 8), top=0)


@pytest.mark.parametrize('engine', ['onnxruntime', 'jax'])
def test_a_file_without_class_names_has_numbers(tmp_path, exported, engine):
  path = str(tmp_path / 'model.hq')
  artifact.write(path, exported._replace(class_names=()))
  found = hq_jax.load(path, engine)
  assert found.class_names == ('0', '1', '2')
  assert found.logits(_draw(8, 8)).shape == (1, 3)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'model_args': _ARGUMENTS | {'widths': [6]}},
      'params/conv_stem/kernel has shape (3, 3, 1, 4), wanted (3, 3, 1, 6)',
    ),
    (
      {'model_args': {'widths': [4, 4], 'num_blocks': [1, 1]}},
      'params/stage2_block1/conv1/kernel has shape None, wanted (3, 3, 4, 4)',
    ),
    (
      {'input_shape': (8, 8, 3)},
      'params/conv_stem/kernel has shape (3, 3, 1, 4), wanted (3, 3, 3, 4)',
    ),
    (
      {'tensors': {'params/other': np.zeros(2, np.float32)}},
      'params/other has shape (2,), wanted None',
    ),
    (
      {'tensors': {'params/\x1b]0;x\x07\x1b[2J': np.zeros(2, np.float32)}},
      r'params/\x1b]0;x\x07\x1b[2J has shape (2,), wanted None',
    ),
    (
      {'tensors': {'params/conv_stem/kernel': np.full((3, 3, 1, 4), 2**40)}},
      'params/conv_stem/kernel is int64, wanted floating point',
    ),
    (
      {'folded_norms': {}},
      'batch_stats/norm_stem/mean has shape None, wanted (4,)',
    ),
    ({'input_shape': (8,)}, 'input_shape is (8,), wanted (height, width,'),
    ({'model': 'vgg'}, "model is 'vgg', wanted one of: mlp, small_resnet"),
    ({'preprocessing': {}}, 'mean is None, wanted 1 finite number(s)'),
    (
      {'preprocessing': _RANGE | {'resize': 9, 'crop': 7}},
      'crop is 7, but input_shape is (8, 8, 1)',
    ),
    (
      {'preprocessing': _RANGE | {'pixel_min': 16}},
      'pixel_max is 16.0, wanted more than pixel_min, 16',
    ),
    (
      {'preprocessing': _RANGE | {'pixel_max': 'a'}},
      "pixel_max is 'a', wanted a finite number",
    ),
  ],
)
def test_a_file_that_contradicts_itself_is_refused(
  tmp_path, exported, changes, message
):
  path = str(tmp_path / 'model.hq')
  if 'tensors' in changes:
    changes = {'tensors': exported.tensors | changes['tensors']}
  artifact.write(path, exported._replace(**changes))
  with pytest.raises(ValueError) as caught:
    hq_jax.load(path, engine='jax')
  assert str(caught.value).startswith(f'{path}: {message}')


def test_the_engines_agree_and_say_what_they_are(classifier, path, exported):
  images = _draw(40, 8, 8, 1)
  wanted = classifier.logits(images)
  other = hq_jax.load(path)
  assert (other.engine, other.activations) == ('onnxruntime', 'float32')
  np.testing.assert_allclose(other.logits(images), wanted, rtol=1e-4, atol=1e-5)


def test_a_file_with_ranges_has_int8_activations(
  classifier, tmp_path, exported
):
  path = str(tmp_path / 'model.hq')
  layers = network.read_layers(exported)
  count = len(architectures.find_activations(layers))
  artifact.write(path, exported._replace(activation_ranges=(4.0,) * count))
  images = _draw(40, 8, 8, 1)
  wanted = classifier.logits(images)
  exact, rounded = (
    hq_jax.load(path, activations=activations)
    for activations in ('float32', None)
  )
  assert (exact.activations, rounded.activations) == ('float32', 'int8')
  np.testing.assert_allclose(exact.logits(images), wanted, rtol=1e-4, atol=1e-5)
  found = rounded.logits(images)
  assert 0 < np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()


@pytest.mark.parametrize(
  ('engine', 'activations', 'message'),
  [
    (None, 'int4', "activations is 'int4', wanted 'float32', 'int8' or None"),
    ('jax', 'int8', ": activations is 'int8', wanted 'float32': int8 takes"),
    (None, 'int8', ": activations is 'int8', wanted 'float32': int8 takes"),
  ],
)
def test_activations_that_there_cannot_be_are_refused(
  path, engine, activations, message
):
  with pytest.raises(ValueError) as caught:
    hq_jax.load(path, engine, activations=activations)
  assert str(caught.value).removeprefix(path).startswith(message)


def test_an_unknown_engine_is_refused(path):
  with pytest.raises(ValueError) as caught:
    hq_jax.load(path, engine='tflite')
  assert str(caught.value) == (
    "engine is 'tflite', wanted one of: onnxruntime, jax"
  )
