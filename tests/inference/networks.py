"""Every network of `hq_jax.models`, for small images."""

import pytest

_VIT = {'patch_size': 2, 'width': 16, 'depth': 2, 'num_heads': 2}

# Name, arguments, shape of an image.
NETWORKS = (
  ('mlp', {'widths': [16, 8]}, (6, 5, 2)),
  ('small_resnet', {'widths': [4, 8], 'num_blocks': [1, 2]}, (7, 6, 1)),
  ('small_resnet', {'widths': [4, 4], 'num_blocks': [1, 1]}, (1, 1, 1)),
  ('small_resnet', {'widths': [4, 8], 'num_blocks': [0, 1]}, (8, 7, 1)),
  ('resnet20', {}, (32, 32, 3)),
  ('resnet56', {}, (32, 32, 3)),
  ('resnet18', {}, (40, 64, 3)),
  ('resnet34', {}, (32, 32, 3)),
  ('resnet50', {}, (64, 64, 3)),
  ('resnet101', {}, (32, 32, 3)),
  ('mobilenet_v2', {}, (48, 32, 3)),
  ('vit', {**_VIT, 'layer_scale': True}, (8, 6, 3)),
  ('vit', {**_VIT, 'pool': 'mean'}, (8, 6, 3)),
)
_SLOW = ('resnet56', 'resnet34', 'resnet50', 'resnet101')


def list_params(*slow):
  """The same, for tests that compute: the large ones are marked slow."""
  return tuple(
    pytest.param(*network, marks=pytest.mark.slow)
    if network[0] in (*_SLOW, *slow)
    else network
    for network in NETWORKS
  )


PARAMS = list_params()
