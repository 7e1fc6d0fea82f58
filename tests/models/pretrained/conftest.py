"""Drawn weights and the shapes that they are for, made once."""

import pytest

from hq_jax.models.pretrained import architectures
from tests.models.pretrained import states


@pytest.fixture(scope='session')
def recorded():
  """Shapes and logits of torchvision, by network."""
  return states.load_recorded()


@pytest.fixture(scope='session')
def mobilenet_state(recorded):
  """Weights of MobileNetV2 in torchvision's names; not to be changed."""
  return states.draw_state(recorded['mobilenet_v2']['shapes'])


@pytest.fixture(scope='session')
def mobilenet_shapes():
  """The shapes of our MobileNetV2's variables."""
  return architectures.get_shapes('mobilenet_v2', states.NUM_CLASSES)
