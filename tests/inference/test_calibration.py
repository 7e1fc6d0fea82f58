"""Ranges of activations, against the outputs of Flax modules."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax import artifact
from hq_jax import models
from hq_jax.compression import to_artifact
from hq_jax.inference import architectures
from hq_jax.inference import calibration

_ARGUMENTS = {'widths': [4, 6], 'num_blocks': [1, 1]}
_SHAPE = (8, 8, 1)
_MODEL = models.build('small_resnet', num_classes=3, arguments=_ARGUMENTS)


@pytest.fixture(scope='module')
def exported():
  """A small residual network, dense, with placeholders."""
  variables = jax.jit(_MODEL.init)(jax.random.key(0), jnp.zeros((1, *_SHAPE)))
  return to_artifact.make_artifact(
    variables,
    {},
    model='small_resnet',
    model_arguments=_ARGUMENTS,
    input_shape=_SHAPE,
    preprocessing={},
    class_names=('a', 'b', 'c'),
    activation_ranges=calibration.make_placeholders(
      'small_resnet', _ARGUMENTS, _SHAPE, 3
    ),
  )


@pytest.fixture
def images(rng):
  """More than a batch; the largest numbers are in the last image."""
  found = rng.normal(size=(40, *_SHAPE)).astype(np.float32)
  found[-1] *= 5
  return found


def _name(exported, ranges):
  layers = architectures.make_layers(
    exported.model, exported.model_args, _SHAPE, len(exported.class_names)
  )
  return dict(zip(architectures.find_activations(layers), ranges, strict=True))


def test_ranges_are_the_largest_outputs(exported, images):
  ranges = calibration.measure(exported, images)
  assert len(ranges) == len(exported.activation_ranges)
  found = _name(exported, ranges)
  _, state = jax.jit(
    lambda variables, x: _MODEL.apply(
      variables, x, capture_intermediates=True, mutable='intermediates'
    )
  )(artifact.to_variables(exported), images)
  outputs = state['intermediates']
  block = outputs['stage2_block1']
  stem = np.asarray(outputs['norm_stem']['__call__'][0])
  branch, shortcut = (
    np.asarray(block[name]['__call__'][0]) for name in ('norm2', 'norm_proj')
  )
  for name, values in (
    ('norm_stem/relu', np.maximum(stem, 0)),
    ('stage2_block1/norm2', branch),
    ('stage2_block1/norm_proj', shortcut),
    ('stage2_block1/relu', np.maximum(branch + shortcut, 0)),
  ):
    assert found[name] == pytest.approx(np.abs(values).max(), rel=2**-10), name
  # What a file holds, which does not change its size.
  one, other = (
    artifact.dumps(exported._replace(activation_ranges=x))
    for x in (exported.activation_ranges, ranges)
  )
  assert len(one) == len(other)
  assert artifact.loads(other).activation_ranges == ranges


def test_onnxruntime_measures_the_same(exported, images, monkeypatch):
  wanted = calibration.measure(exported, images)
  monkeypatch.setitem(sys.modules, 'jax', None)
  found = calibration.measure(exported, images)
  np.testing.assert_allclose(found, wanted, rtol=2**-10)


def test_zeros_have_a_range(exported, images):
  tensors = {
    path: np.zeros_like(tensor) if 'norm' in path else tensor
    for path, tensor in exported.tensors.items()
  }
  ranges = calibration.measure(exported._replace(tensors=tensors), images)
  assert set(ranges) == {2.0**-14}


def test_no_images_are_refused(exported):
  with pytest.raises(ValueError, match='images is empty, wanted at least one'):
    calibration.measure(exported, [])


@pytest.mark.parametrize(
  ('image', 'message'),
  [
    (np.zeros((9, 8, 1), 'f4'), r'images has one of shape \(9, 8, 1\), wanted'),
    (np.full(_SHAPE, np.nan, 'f4'), 'output of norm_stem/relu is nan, wanted'),
  ],
)
def test_other_images_are_refused(exported, image, message):
  with pytest.raises(ValueError, match=message):
    calibration.measure(exported, [image])
