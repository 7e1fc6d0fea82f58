"""PyTorch's logits are ours."""

import importlib.util

import numpy as np
import pytest
from safetensors import numpy as safetensors

from hq_jax import artifact as artifact_lib
from hq_jax.inference import export
from hq_jax.models import pretrained
from tests.inference import drawn_files
from tests.inference import networks

_NEEDS_TORCH = pytest.mark.skipif(
  importlib.util.find_spec('torch') is None, reason='PyTorch is not installed'
)


# Slow, for the quick tests run without PyTorch.
@pytest.mark.slow
@_NEEDS_TORCH
@pytest.mark.parametrize(('name', 'arguments', 'shape'), networks.NETWORKS)
def test_logits(name, arguments, shape):
  import torch

  artifact = drawn_files.make(name, arguments, shape)
  images = drawn_files.draw_images(artifact)
  wanted = drawn_files.apply_flax(artifact, images)
  network = export.to_torch(artifact)
  with torch.no_grad():
    moved = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    found = network(torch.from_numpy(moved)).numpy()
  largest = np.abs(wanted).max()
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * largest)


@pytest.mark.parametrize(
  'name',
  [
    'resnet18',
    'mobilenet_v2',
    pytest.param('resnet50', marks=pytest.mark.slow),
  ],
)
def test_the_file_has_the_names_of_torchvision(name):
  artifact = drawn_files.make(name, {}, (32, 32, 3))
  found = safetensors.load(export.to_safetensors(artifact))
  wanted = pretrained.to_torchvision(
    artifact_lib.to_variables(artifact), architecture=name
  )
  assert found.keys() == wanted.keys()
  for key, values in wanted.items():
    assert found[key].dtype == values.dtype
    np.testing.assert_array_equal(found[key], values)


def test_the_names_of_perceptrons():
  artifact = drawn_files.make('mlp', {'widths': [4]}, (2, 2, 1))
  found = safetensors.load(export.to_safetensors(artifact))
  assert {key: x.shape for key, x in found.items()} == {
    'fc1.weight': (4, 4),
    'bn1.weight': (4,),
    'bn1.bias': (4,),
    'bn1.running_mean': (4,),
    'bn1.running_var': (4,),
    'bn1.num_batches_tracked': (),
    'fc.weight': (5, 4),
    'fc.bias': (5,),
  }
