"""Weights that are not those of the network are refused in one line."""

import re

import numpy as np
import pytest

from hq_jax.core import torch_names as names
from hq_jax.core import trees
from hq_jax.models import pretrained
from hq_jax.models.pretrained import architectures
from hq_jax.models.pretrained import checking
from tests.models.pretrained import states


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
  lost = [n for n in mobilenet_state if n.startswith('features.3.')]
  state = {n: x for n, x in mobilenet_state.items() if n not in lost}
  pattern = (
    r'a/b\.pth: the weights do not fit mobilenet_v2 \(missing:'
    r' (features\.3\.\S+, ){2}features\.3\.\S+ and 12 more\)'
  )
  message = refuse(state)
  assert re.fullmatch(pattern, message), message


def test_names_that_are_not_wanted(mobilenet_state, refuse):
  # A name may be anything, and an error is one line nonetheless.
  extra = {'ema.decay': np.ones(2), f'x\n{"y" * 1000}': np.ones(2)}
  message = refuse(mobilenet_state | extra)
  assert r'(not wanted: ema.decay, x\nyy' in message and len(message) < 300


def test_wrong_shapes(mobilenet_state, refuse):
  name = 'features.0.0.weight'
  state = mobilenet_state | {name: np.ones((32, 1, 3, 3), np.float32)}
  assert refuse(state, path='') == (
    'the weights do not fit mobilenet_v2 (wrong shape: features.0.0.weight'
    ' (32, 1, 3, 3) for (32, 3, 3, 3))'
  )


def test_another_network(mobilenet_state, refuse):
  # In the names of Hugging Face, with other classes; all of ResNet-18 is there.
  shapes = architectures.get_shapes('resnet34', 3)
  leaves, naming = trees.flatten(shapes), names.hugging_face_resnet
  state = {
    name: np.broadcast_to(np.float32(1), shape)
    for name, shape in checking.name_shapes(leaves, naming).items()
  }
  shapes = architectures.get_shapes('resnet18', states.NUM_CLASSES)
  pattern = r'\(not wanted: .* and \d+ more\), they look like resnet34$'
  with pytest.raises(ValueError, match=pattern):
    pretrained.to_flax(state, shapes, architecture='resnet18', new_head=True)
  # The names of MobileNetV2 in other shapes are those of no network.
  state = mobilenet_state | {'features.18.0.weight': np.ones((9, 9, 1, 1))}
  assert 'look like' not in refuse(state)
  name = 'mobilenet_v2.conv_stem.first_conv.convolution.weight'
  message = refuse({name: np.ones((32, 3, 3, 3))})
  assert 'the MobileNetV2 of Hugging Face, which pads otherwise' in message


def test_another_head_or_none(mobilenet_state, refuse):
  head = {
    'classifier.1.weight': np.zeros((1000, 1280), np.float32),
    'classifier.1.bias': np.zeros(1000, np.float32),
  }
  assert refuse(mobilenet_state | head) == (
    'a/b.pth: the head of the weights is not that of the model (wrong shape:'
    ' classifier.1.bias (1000,) for (20,), classifier.1.weight (1000, 1280) for'
    ' (20, 1280)), --config.pretrained_head=False trains a new one'
  )
  message = refuse({n: x for n, x in mobilenet_state.items() if n not in head})
  assert '(missing: classifier.1.bias, classifier.1.weight)' in message
  assert '--config.pretrained_head=False' in message


@pytest.mark.parametrize(
  ('name', 'value', 'message'),
  [
    ('features.18.0.weight', np.nan, 'has values that are not finite'),
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


def test_another_architecture(refuse):
  assert refuse({}, architecture='vgg16') == (
    "architecture is 'vgg16', wanted one of: resnet18, resnet34, resnet50,"
    ' resnet101, mobilenet_v2, vit, vit_ti16, vit_s16, vit_b16'
  )
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
