"""The small residual network against NumPy, and its shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax import models
from hq_jax.models import small


def _init(model, shape):
  """Variables in which no batch norm is the identity."""
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros(shape))
  rng = np.random.default_rng(2)
  return jax.tree.map(
    lambda v: (
      jnp.asarray(rng.uniform(0.5, 1.5, v.shape), jnp.float32)
      if v.ndim == 1
      else v
    ),
    variables,
  )


def _conv(x, kernel, stride):
  """A convolution with k // 2 zeros around, as sums over its taps."""
  size, pad = kernel.shape[0], kernel.shape[0] // 2
  x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  height = (x.shape[1] - size) // stride + 1
  width = (x.shape[2] - size) // stride + 1
  out = np.zeros((len(x), height, width, kernel.shape[-1]))
  for i in range(size):
    for j in range(size):
      rows = slice(i, i + stride * (height - 1) + 1, stride)
      columns = slice(j, j + stride * (width - 1) + 1, stride)
      out += x[:, rows, columns] @ kernel[i, j]
  return out


def _norm(x, params, stats):
  x = (x - stats['mean']) / np.sqrt(stats['var'] + 1e-5)
  return x * params['scale'] + params['bias']


def _block(x, params, stats, stride):
  y = _conv(x, params['conv1']['kernel'], stride)
  y = np.maximum(_norm(y, params['norm1'], stats['norm1']), 0)
  y = _conv(y, params['conv2']['kernel'], 1)
  y = _norm(y, params['norm2'], stats['norm2'])
  if 'conv_proj' in params:
    x = _conv(x, params['conv_proj']['kernel'], stride)
    x = _norm(x, params['norm_proj'], stats['norm_proj'])
  return np.maximum(x + y, 0)


def _reference(variables, x):
  """The network of two stages, of one and two blocks, in float64."""
  wide = jax.tree.map(lambda v: np.asarray(v, np.float64), variables)
  params, stats = wide['params'], wide['batch_stats']
  x = _conv(np.asarray(x, np.float64), params['conv_stem']['kernel'], 1)
  x = np.maximum(_norm(x, params['norm_stem'], stats['norm_stem']), 0)
  for name, stride in (
    ('stage1_block1', 1),
    ('stage2_block1', 2),
    ('stage2_block2', 1),
  ):
    x = _block(x, params[name], stats[name], stride)
  return x.mean((1, 2)) @ params['head']['kernel'] + params['head']['bias']


MODEL = small.SmallResNet(num_classes=3, widths=(4, 6), num_blocks=(1, 2))


@pytest.fixture(scope='module')
def variables():
  return _init(MODEL, (1, 8, 8, 2))


@pytest.mark.parametrize('shape', [(2, 8, 8, 2), (1, 5, 7, 2)])
def test_matches_the_reference(rng, variables, shape):
  x = jnp.asarray(rng.normal(size=shape), jnp.float32)
  logits = jax.jit(MODEL.apply)(variables, x)
  assert logits.dtype == jnp.float32
  np.testing.assert_allclose(
    logits, _reference(variables, x), rtol=1e-4, atol=1e-4
  )


def test_names_and_shapes(variables):
  shapes = jax.tree.map(jnp.shape, variables['params'])
  assert set(shapes) == {
    'conv_stem',
    'norm_stem',
    'stage1_block1',
    'stage2_block1',
    'stage2_block2',
    'head',
  }
  assert shapes['conv_stem'] == {'kernel': (3, 3, 2, 4)}
  assert shapes['head'] == {'kernel': (6, 3), 'bias': (3,)}
  block = shapes['stage2_block1']
  assert block['conv1'] == {'kernel': (3, 3, 4, 6)}
  assert block['conv2'] == {'kernel': (3, 3, 6, 6)}
  assert block['conv_proj'] == {'kernel': (1, 1, 4, 6)}
  # Where width and resolution stay, the shortcut has no weights.
  assert set(shapes['stage1_block1']) == {'conv1', 'conv2', 'norm1', 'norm2'}
  assert set(shapes['stage2_block2']) == {'conv1', 'conv2', 'norm1', 'norm2'}


def test_the_number_of_parameters():
  model = small.SmallResNet(num_classes=10)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1))
  )
  convs = 9 * (32 + 2 * 32**2 + 32 * 64 + 64**2 + 64 * 128 + 128**2)
  shortcuts = 32 * 64 + 64 * 128
  norms = 2 * (3 * 32 + 3 * 64 + 3 * 128)
  wanted = convs + shortcuts + norms + 128 * 10 + 10
  leaves = jax.tree.leaves(shapes['params'])
  assert sum(leaf.size for leaf in leaves) == wanted


def test_training_uses_and_updates_the_statistics(rng, variables):
  x = jnp.asarray(rng.normal(size=(16, 8, 8, 2)), jnp.float32)
  logits, updated = MODEL.apply(
    variables, x, train=True, mutable=['batch_stats']
  )
  assert not np.allclose(logits, MODEL.apply(variables, x))
  wide = jax.tree.map(np.float64, variables)
  params, stats = wide['params'], wide['batch_stats']
  stem = _conv(np.float64(x), params['conv_stem']['kernel'], 1)
  batch = {'mean': stem.mean((0, 1, 2)), 'var': stem.var((0, 1, 2))}
  block = _conv(
    np.maximum(_norm(stem, params['norm_stem'], batch), 0),
    params['stage1_block1']['conv1']['kernel'],
    1,
  )
  for y, before, after in (
    (stem, stats['norm_stem'], updated['batch_stats']['norm_stem']),
    (
      block,
      stats['stage1_block1']['norm1'],
      updated['batch_stats']['stage1_block1']['norm1'],
    ),
  ):
    for name, value in (('mean', y.mean((0, 1, 2))), ('var', y.var((0, 1, 2)))):
      wanted = 0.9 * before[name] + 0.1 * value
      np.testing.assert_allclose(after[name], wanted, rtol=1e-4, atol=1e-5)
  # Every norm of the network, those in the blocks too.
  jax.tree.map(
    lambda a, b: np.testing.assert_array_compare(np.not_equal, a, b),
    variables['batch_stats'],
    updated['batch_stats'],
  )


def test_examples_do_not_mix_in_evaluation(rng, variables):
  x = jnp.asarray(rng.normal(size=(4, 8, 8, 2)), jnp.float32)
  apply = jax.jit(MODEL.apply)
  np.testing.assert_allclose(
    apply(variables, x)[::-1], apply(variables, x[::-1]), rtol=1e-5, atol=1e-6
  )


def test_bfloat16_computes_in_bfloat16_and_keeps_float32(rng, variables):
  model = MODEL.clone(dtype=jnp.bfloat16)
  x = jnp.asarray(rng.normal(size=(2, 8, 8, 2)), jnp.float32)
  init = jax.eval_shape(model.init, jax.random.key(0), x)
  assert {leaf.dtype for leaf in jax.tree.leaves(init)} == {jnp.dtype('f4')}
  logits, state = model.apply(variables, x, capture_intermediates=True)
  assert logits.dtype == jnp.float32
  inside = state['intermediates']
  for name in ('conv_stem', 'norm_stem', 'stage2_block1', 'head'):
    leaves = jax.tree.leaves(inside[name])
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.bfloat16)}
  wanted = MODEL.apply(variables, x)
  assert not np.array_equal(logits, wanted)
  np.testing.assert_allclose(logits, wanted, rtol=0.1, atol=0.1)


def test_widths_and_blocks_must_agree():
  model = small.SmallResNet(num_classes=3, widths=(4, 6), num_blocks=(1,))
  with pytest.raises(ValueError, match='zip'):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'widths': 3}, r'model\.widths is 3, wanted ints'),
    ({'widths': [0]}, r'model\.widths is \[0\], wanted ints'),
    ({'num_blocks': [10**9]}, r'1000000000\], wanted at most 1000 in all'),
    ({'widths': 'ab'}, r"model\.widths is 'ab', wanted ints"),
    ({'num_blocks': [True]}, r'model\.num_blocks is \[True\], wanted ints'),
    ({'dtype': ['float32']}, r"model\.dtype is \['float32'\], wanted one of"),
    ({'depth': 3}, r'model\.depth is 3, but small_resnet takes no such'),
  ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    models.build('small_resnet', num_classes=10, arguments=arguments)
