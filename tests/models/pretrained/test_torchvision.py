"""Against PyTorch and torchvision themselves, where they are installed."""

import importlib.util

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from hq_jax.core import trees
from hq_jax.models import pretrained
from hq_jax.models.pretrained import architectures
from hq_jax.models.pretrained import checking
from tests.models.pretrained import states
from tests.models.pretrained import torchvision_models

# Not `importorskip`: a torchvision whose operators do not load will do as well.
pytestmark = pytest.mark.skipif(
  not all(map(importlib.util.find_spec, ('torch', 'torchvision'))),
  reason='PyTorch or torchvision is not installed',
)


@pytest.mark.parametrize(
  'architecture',
  [n for n, x in pretrained.ARCHITECTURES.items() if not x.is_transformer],
)
def test_the_names_and_shapes(architecture):
  model = torchvision_models.build(architecture)
  naming = architectures.get(architecture).namings[0]
  shapes = architectures.get_shapes(architecture, states.NUM_CLASSES)
  got = checking.name_shapes(trees.flatten(shapes), naming)
  wanted = torchvision_models.get_shapes(model)
  assert got == {n: x for n, x in wanted.items() if 'num_batches' not in n}


@pytest.mark.parametrize(
  'architecture',
  [
    'resnet18',
    'mobilenet_v2',
    pytest.param('resnet50', marks=pytest.mark.slow),
  ],
)
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_the_logits_through_a_file(tmp_path, recorded, architecture, suffix):
  import torch

  model = torchvision_models.build(architecture)
  shapes = torchvision_models.get_shapes(model)
  assert shapes == {
    name: tuple(x) for name, x in recorded[architecture]['shapes'].items()
  }
  state = states.draw_state(shapes)
  wanted = torchvision_models.compute_logits(model, state)
  path = tmp_path / f'weights{suffix}'
  if suffix == '.pth':
    torch.save(model.state_dict(), path)
  else:
    safetensors_numpy.save_file(state, path)
  ours = architectures.get(architecture).build(states.NUM_CLASSES)
  variables = pretrained.to_flax(
    pretrained.read(path),
    architectures.get_shapes(architecture, states.NUM_CLASSES),
    architecture=architecture,
  )
  got = jax.jit(ours.apply)(variables, states.draw_images())
  scale = np.abs(wanted).max()
  np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * scale)
  # What was recorded is what this torchvision computes too.
  np.testing.assert_allclose(
    recorded[architecture]['logits'], wanted, rtol=0, atol=1e-5 * scale
  )
  # And back, into a network that had other weights.
  back = pretrained.to_torchvision(variables, architecture=architecture)
  again = torchvision_models.compute_logits(
    torchvision_models.build(architecture), back
  )
  np.testing.assert_array_equal(again, wanted)
