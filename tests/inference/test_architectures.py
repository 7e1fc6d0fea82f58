"""The lists of layers are those of the Flax networks."""

import jax
import pytest

from hq_jax import models
from hq_jax.core import trees
from hq_jax.inference import architectures
from hq_jax.inference import layer as layer_lib
from tests.inference import networks


def _shape_of_leaves(layers):
  """The parameters that the lists ask for, by path."""
  found = {}
  for layer in layers:
    for leaf, shape in layer_lib.list_tensors(layer).items():
      stack = () if layer.place is None else (layer.place + 1,)
      found[f'{layer.module or layer.name}{leaf}'] = (*stack, *shape)
  return found


@pytest.mark.parametrize(('name', 'arguments', 'shape'), networks.NETWORKS)
def test_tensors_are_those_of_flax(name, arguments, shape):
  model = models.build(name, num_classes=5, arguments=arguments)
  image = jax.ShapeDtypeStruct((1, *shape), 'float32')
  expected = jax.eval_shape(model.init, jax.random.key(0), image)['params']
  layers = architectures.make_layers(name, arguments, shape, 5)
  found = _shape_of_leaves(layers)
  assert found == {path: x.shape for path, x in trees.flatten(expected).items()}


def test_activations_of_a_residual_block():
  layers = architectures.make_layers(
    'small_resnet', {'widths': [4, 8], 'num_blocks': [1, 1]}, (8, 8, 1), 3
  )
  assert architectures.find_activations(layers) == {
    'norm_stem/relu': False,
    'stage1_block1/norm1/relu': False,
    'stage1_block1/norm2': True,
    'stage1_block1/relu': False,
    'stage2_block1/norm1/relu': False,
    'stage2_block1/norm2': True,
    'stage2_block1/norm_proj': True,
    'stage2_block1/relu': False,
  }


@pytest.mark.parametrize(
  ('name', 'arguments', 'message'),
  [
    ('resnet19', {}, 'model is'),
    ('mlp', {'depth': 3}, 'takes no such argument'),
    ('mlp', {'widths': [0]}, 'at least 1'),
    ('small_resnet', {'widths': [4], 'num_blocks': [10**9]}, 'at most 1000 in'),
    ('small_resnet', {'widths': [4]}, 'the same length'),
  ],
)
def test_what_no_network_has_is_refused(name, arguments, message):
  with pytest.raises(ValueError, match=message):
    architectures.make_layers(name, arguments, (8, 8, 1), 3)
