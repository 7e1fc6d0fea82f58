"""Vision transformers: sizes, layouts, and the whole of one in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax import models
from hq_jax.core import trees
from hq_jax.models import vit
from tests import compiling

# As timm counts those of DeiT.
NUM_PARAMETERS = {
  'vit_ti16': 5_717_416,
  'vit_s16': 22_050_664,
  'vit_b16': 86_567_656,
}


def _norm(x, params):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  return x * params['scale'] + params['bias']


def _attend(x, params):
  query, key, value = (
    np.einsum('ntd,dhk->nhtk', x, params[name]['kernel'])
    + params[name]['bias'][:, None]
    for name in ('query', 'key', 'value')
  )
  scores = query @ key.swapaxes(-1, -2) / math.sqrt(query.shape[-1])
  weights = np.exp(scores)
  weights /= weights.sum(-1, keepdims=True)
  y = np.einsum('nhtk,hkd->ntd', weights @ value, params['out']['kernel'])
  return y + params['out']['bias']


def _mlp(x, params):
  x = x @ params['up']['kernel'] + params['up']['bias']
  x = x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
  return x @ params['down']['kernel'] + params['down']['bias']


def compute_logits(images, params, patch_size, pool):
  """What a network of these parameters says, in float64."""
  params = jax.tree.map(np.float64, params)
  n, height, width, channels = images.shape
  rows, columns = height // patch_size, width // patch_size
  x = images.reshape(n, rows, patch_size, columns, patch_size, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows * columns, -1)
  kernel = params['patch_embed']['kernel']
  x = x @ kernel.reshape(-1, kernel.shape[-1]) + params['patch_embed']['bias']
  if pool == 'token':
    token = np.broadcast_to(params['class_token'], (n, 1, x.shape[-1]))
    x = np.concatenate([token, x], axis=1)
  x = x + params['position_embedding']
  for layer in range(len(params['blocks']['norm1']['scale'])):
    block = jax.tree.map(
      lambda leaf, layer=layer: leaf[layer], params['blocks']
    )
    y = _attend(_norm(x, block['norm1']), block['attention'])
    x = x + y * block.get('layer_scale1', 1)
    y = _mlp(_norm(x, block['norm2']), block['mlp'])
    x = x + y * block.get('layer_scale2', 1)
  x = _norm(x, params['norm'])
  x = x[:, 0] if pool == 'token' else x.mean(1)
  return x @ params['head']['kernel'] + params['head']['bias']


@pytest.mark.parametrize(
  ('pool', 'layer_scale'), [('token', False), ('mean', True)]
)
def test_it_matches_the_reference(rng, pool, layer_scale):
  arguments = {
    'patch_size': 2,
    'width': 12,
    'depth': 3,
    'num_heads': 3,
    'pool': pool,
    'layer_scale': layer_scale,
  }
  model = models.build('vit', num_classes=5, arguments=arguments)
  x = rng.normal(size=(2, 4, 6, 3)).astype(np.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), x)
  variables = jax.tree.map(
    lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes
  )
  wanted = compute_logits(x, variables['params'], 2, pool)
  got = compiling.quick_jit(model.apply)(variables, x)
  assert got.shape == (2, 5) and got.dtype == jnp.float32
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', NUM_PARAMETERS)
def test_the_number_of_parameters(name):
  model = models.build(name, num_classes=1000, arguments={})
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3))
  )
  assert sum(x.size for x in jax.tree.leaves(shapes)) == NUM_PARAMETERS[name]


def test_the_layout():
  model = vit.ViT(7, 2, 12, depth=3, num_heads=4, layer_scale=True)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1))
  )
  params = shapes['params']
  leaves = {path: leaf.shape for path, leaf in trees.flatten(params).items()}
  projection = {'kernel': (3, 12, 4, 3), 'bias': (3, 4, 3)}
  stacked = {'scale': (3, 12), 'bias': (3, 12)}
  assert leaves == trees.flatten(
    {
      'patch_embed': {'kernel': (2, 2, 1, 12), 'bias': (12,)},
      'class_token': (1, 1, 12),
      'position_embedding': (1, 17, 12),
      'blocks': {
        'norm1': stacked,
        'attention': {
          'query': projection,
          'key': projection,
          'value': projection,
          'out': {'kernel': (3, 4, 3, 12), 'bias': (3, 12)},
        },
        'layer_scale1': (3, 12),
        'norm2': stacked,
        'mlp': {
          'up': {'kernel': (3, 12, 48), 'bias': (3, 48)},
          'down': {'kernel': (3, 48, 12), 'bias': (3, 12)},
        },
        'layer_scale2': (3, 12),
      },
      'norm': {'scale': (12,), 'bias': (12,)},
      'head': {'kernel': (12, 7), 'bias': (7,)},
    },
    is_leaf=lambda x: isinstance(x, tuple),
  )
  stacked = {path for path in leaves if path.startswith('blocks/')}
  assert models.find_layer_axes(params) == dict.fromkeys(stacked, (0,))
  # Layer norms do not fold as batch norms do.
  assert models.find_norms(params) == models.pair_norms(params) == {}


def test_every_kernel_begins_with_weights_of_its_own():
  model = vit.ViT(3, 2, 8, depth=2, num_heads=2)
  init = compiling.quick_jit(model.init)
  params = init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))['params']
  for path, leaf in trees.flatten(params).items():
    if not path.endswith(('bias', 'scale')):
      assert np.all(leaf != 0), path
      assert len(np.unique(leaf)) > 0.9 * leaf.size, path


@pytest.mark.parametrize(
  ('arguments', 'shape', 'message'),
  [
    ({'num_heads': 5}, (8, 8), r'num_heads is 5, wanted a divisor of model\.w'),
    ({'patch_size': 3}, (9, 8), r'patch_size is 3, wanted .* images, 9 and 8'),
    ({'pool': 'max'}, (8, 8), r"pool is 'max', wanted one of: token, mean"),
    ({'depth': 0}, (8, 8), r'depth is 0, wanted an int from 1 to 1000$'),
    ({'depth': 10**9}, (8, 8), r'depth is 1000000000, wanted an int from 1'),
    ({'width': True}, (8, 8), r'width is True, wanted an int from 1 to 100000'),
    ({'layer_scale': 1}, (8, 8), r'layer_scale is 1, wanted a bool$'),
  ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, shape, message):
  with pytest.raises(ValueError, match=rf'^model\.{message}'):
    model = models.build('vit', num_classes=3, arguments=arguments)
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape, 1)))
