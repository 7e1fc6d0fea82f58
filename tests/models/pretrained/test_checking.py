"""Weights that are not those of the network are refused in one line."""

import re

import numpy as np
import pytest

from hq_jax.core import trees
from hq_jax.models import pretrained
from hq_jax.models.pretrained import architectures
from hq_jax.models.pretrained import checking
from hq_jax.models.pretrained import names
from tests.models.pretrained import states


def _make_ones(architecture, naming=0, num_classes=states.NUM_CLASSES):
  """Weights of a network that take no memory."""
  shapes = architectures.get_shapes(architecture, num_classes)
  naming = architectures.get(architecture).namings[naming]
  wanted = checking.name_shapes(trees.flatten(shapes), naming)
  return {
    name: np.broadcast_to(np.float32(1), shape)
    for name, shape in wanted.items()
  }


@pytest.fixture
def refuse(mobilenet_shapes):
  """Returns a function: weights to why they are none of MobileNetV2."""

  def refuse(state, **kwargs):
    kwargs = {'architecture': 'mobilenet_v2', 'path': 'a/b.pth'} | kwargs
    with pytest.raises(ValueError) as caught:
      pretrained.to_flax(state, mobilenet_shapes, **kwargs)
    message = str(caught.value)
    assert '\n' not in message
    return message

  return refuse


def test_missing_names(mobilenet_state, refuse):
  state = dict(mobilenet_state)
  lost = [n for n in state if n.startswith('features.3.') and 'num' not in n]
  for name in lost:
    del state[name]
  assert len(lost) == 15
  message = refuse(state)
  pattern = (
    r'a/b\.pth: the weights do not fit mobilenet_v2 \(missing:'
    r' (features\.3\.\S+, ){2}features\.3\.\S+ and 12 more\)'
  )
  assert re.fullmatch(pattern, message), message


def test_names_that_are_not_wanted(mobilenet_state, refuse):
  extra = {'ema.decay': np.ones(2), 'features.1.se.weight': np.ones(2)}
  message = refuse(mobilenet_state | extra)
  assert '(not wanted: ema.decay, features.1.se.weight)' in message
  # A name may be anything, and an error is one line nonetheless.
  message = refuse(mobilenet_state | {f'x\n{"y" * 1000}': np.ones(2)})
  assert len(message) < 300 and r'x\nyy' in message


def test_wrong_shapes(mobilenet_state, refuse):
  name = 'features.0.0.weight'
  state = mobilenet_state | {name: np.ones((32, 1, 3, 3), np.float32)}
  message = refuse(state, path='')
  assert message == (
    'the weights do not fit mobilenet_v2 (wrong shape: features.0.0.weight'
    ' (32, 1, 3, 3) for (32, 3, 3, 3))'
  )


def test_another_network():
  shapes = architectures.get_shapes('resnet18', states.NUM_CLASSES)
  # In the names of Hugging Face, with other classes; all of ResNet-18 is there.
  state = _make_ones('resnet34', naming=1, num_classes=3)
  pattern = r'\(not wanted: .* and \d+ more\), they look like resnet34$'
  with pytest.raises(ValueError, match=pattern):
    pretrained.to_flax(state, shapes, architecture='resnet18', new_head=True)


def test_a_network_that_is_not_known(mobilenet_state, refuse):
  # The names of MobileNetV2 in other shapes, and other layers before the head.
  state = mobilenet_state | {'features.18.0.weight': np.ones((9, 9, 1, 1))}
  assert 'look like' not in refuse(state)


def test_the_other_mobilenet_of_hugging_face(refuse):
  name = 'mobilenet_v2.conv_stem.first_conv.convolution.weight'
  message = refuse({name: np.ones((32, 3, 3, 3))})
  assert 'the MobileNetV2 of Hugging Face, which pads otherwise' in message


def test_no_weights_at_all(refuse):
  assert re.search(r'\(missing: \S+, \S+, \S+ and \d+ more\)', refuse({}))


def test_another_head(mobilenet_state, refuse):
  for name in ('classifier.1.weight', 'classifier.1.bias'):
    shape = (1000, *mobilenet_state[name].shape[1:])
    mobilenet_state = mobilenet_state | {name: np.zeros(shape, np.float32)}
  message = refuse(mobilenet_state)
  assert message == (
    'a/b.pth: the head of the weights is not that of the model (wrong shape:'
    ' classifier.1.bias (1000,) for (20,), classifier.1.weight (1000, 1280) for'
    ' (20, 1280)), --config.pretrained_head=False trains a new one'
  )


def test_no_head(mobilenet_state, refuse):
  state = {n: x for n, x in mobilenet_state.items() if 'classifier' not in n}
  message = refuse(state)
  assert '(missing: classifier.1.bias, classifier.1.weight)' in message
  assert '--config.pretrained_head=False' in message


@pytest.mark.parametrize(
  ('name', 'value', 'message'),
  [
    ('features.18.0.weight', np.nan, 'has values that are not finite'),
    ('features.18.0.weight', -np.inf, 'has values that are not finite'),
    # Finite in float64 alone.
    ('features.18.0.weight', np.float64(1e39), 'that are not finite'),
    ('features.18.1.running_var', -1e-3, 'negative values, wanted variances'),
    ('features.18.1.weight', np.int8(1), 'is int8, wanted floating point'),
  ],
)
def test_values(mobilenet_state, refuse, name, value, message):
  array = mobilenet_state[name].astype(np.result_type(value))
  array.flat[-1] = value
  got = refuse(mobilenet_state | {name: array})
  assert got.startswith(f'a/b.pth: {name} ') and message in got


def test_values_of_a_head_that_is_not_used(mobilenet_state, mobilenet_shapes):
  name = 'classifier.1.bias'
  state = mobilenet_state | {name: np.full(20, np.nan, np.float32)}
  pretrained.to_flax(
    state, mobilenet_shapes, architecture='mobilenet_v2', new_head=True
  )


def test_an_architecture_that_is_not_there(refuse):
  message = refuse({}, architecture='vgg16')
  assert message == (
    "architecture is 'vgg16', wanted one of: resnet18, resnet34, resnet50,"
    ' resnet101, mobilenet_v2'
  )


def test_a_model_that_is_not_of_the_architecture(refuse):
  message = refuse({}, architecture='resnet18')
  assert re.search("module 'block1/.*' has no name", message)


@pytest.mark.parametrize(
  ('path', 'message'),
  [
    ('params/block18x/conv_expand/kernel', "module 'block18x/conv_expand' has"),
    ('params/head/codes', 'params/head/codes is no leaf of these networks'),
  ],
)
def test_leaves_that_have_no_name(path, message):
  with pytest.raises(ValueError, match=message):
    names.name_leaves([path], names.torchvision_mobilenet)
