"""Files of small vision transformers: drawn weights of every kind."""

import math

import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.core import qtensors

INPUT_SHAPE = (8, 8, 3)
# All forms: with a class token or the mean, with and without layer scales.
FORMS = [
  (pool, has_scale) for pool in ('token', 'mean') for has_scale in (False, True)
]
_PATCH, _WIDTH, _DEPTH, _HEADS, _CLASSES = 2, 16, 2, 2, 5


def make(pool, layer_scale):
  """An artifact whose blocks are ternary, with scales for all outputs."""
  rng = np.random.default_rng(7)
  tensors = {}
  for path, (shape, inputs) in _list_shapes(pool, layer_scale).items():
    fan_in = math.prod(shape[axis] for axis in inputs)
    values = (rng.normal(size=shape) / fan_in**0.5).astype(np.float32)
    if path.startswith('blocks/') and path.endswith('/kernel'):
      tensors[f'params/{path}'] = _make_ternary(values, inputs)
    elif path.startswith(('patch_embed', 'blocks/mlp/up', 'position')):
      tensors[f'params/{path}'] = artifact_lib.quantize_int8(values)
    else:
      tensors[f'params/{path}'] = values.astype(np.float16)
  arguments = {'patch_size': _PATCH, 'width': _WIDTH, 'depth': _DEPTH}
  arguments |= {'num_heads': _HEADS, 'pool': pool, 'layer_scale': layer_scale}
  return artifact_lib.Artifact(
    'vit',
    arguments,
    INPUT_SHAPE,
    {'mean': [120.0] * 3, 'std': [60.0] * 3},
    tuple('abcde'),
    tensors,
    {},
  )


def _list_shapes(pool, layer_scale):
  """The shape of each tensor, and the axes that a product sums over."""
  has_token = pool == 'token'
  height, width, channels = INPUT_SHAPE
  number = height // _PATCH * (width // _PATCH) + has_token
  heads = _HEADS, _WIDTH // _HEADS
  hidden = 4 * _WIDTH
  found = {
    'patch_embed/kernel': ((_PATCH, _PATCH, channels, _WIDTH), (0, 1, 2)),
    'patch_embed/bias': ((_WIDTH,), ()),
    'position_embedding': ((1, number, _WIDTH), ()),
    'norm/scale': ((_WIDTH,), ()),
    'norm/bias': ((_WIDTH,), ()),
    'head/kernel': ((_WIDTH, _CLASSES), (0,)),
    'head/bias': ((_CLASSES,), ()),
  }
  if has_token:
    found['class_token'] = ((1, 1, _WIDTH), ())
  block = {
    'attention/out/kernel': ((*heads, _WIDTH), (1, 2)),
    'attention/out/bias': ((_WIDTH,), ()),
    'mlp/up/kernel': ((_WIDTH, hidden), (1,)),
    'mlp/up/bias': ((hidden,), ()),
    'mlp/down/kernel': ((hidden, _WIDTH), (1,)),
    'mlp/down/bias': ((_WIDTH,), ()),
  }
  for name in ('query', 'key', 'value'):
    block[f'attention/{name}/kernel'] = ((_WIDTH, *heads), (1,))
    block[f'attention/{name}/bias'] = (heads, ())
  for number in (1, 2):
    block[f'norm{number}/scale'] = block[f'norm{number}/bias'] = ((_WIDTH,), ())
    if layer_scale:
      block[f'layer_scale{number}'] = ((_WIDTH,), ())
  stacks = {
    f'blocks/{path}': ((_DEPTH, *shape), inputs)
    for path, (shape, inputs) in block.items()
  }
  return found | stacks


def _make_ternary(values, inputs):
  """Codes with half of them zeros, a scale for each layer and output."""
  large = np.abs(values) > np.median(np.abs(values))
  codes = (np.sign(values) * large).astype(np.int8)
  size = np.abs(values * large).sum(inputs, keepdims=True)
  scale = size / np.maximum(large.sum(inputs, keepdims=True), 1)
  return qtensors.TernaryTensor(codes, scale.astype(np.float16))
