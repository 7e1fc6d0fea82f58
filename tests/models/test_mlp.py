"""The perceptron against NumPy, its shapes, and what it is built from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax import models
from hq_jax.models import mlp

MODEL = mlp.MLP(num_classes=3, widths=(6, 5))
SHAPE = (4, 3, 2, 2)


@pytest.fixture(scope='module')
def variables():
  """Variables in which no batch norm is the identity."""
  shapes = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros(SHAPE))
  rng = np.random.default_rng(2)
  return jax.tree.map(
    lambda v: (
      rng.uniform(0.5, 1.5, v.shape)
      if v.ndim == 1
      else rng.normal(size=v.shape) / v.shape[0] ** 0.5
    ).astype(np.float32),
    shapes,
  )


def _reference(variables, x, statistics):
  """Logits in float64; `statistics` from a layer's number and its outputs."""
  params = jax.tree.map(np.float64, variables['params'])
  x = np.float64(x).reshape(len(x), -1)
  for number in (1, 2):
    x = x @ params[f'dense{number}']['kernel']
    mean, var = statistics(number, x)
    norm = params[f'norm{number}']
    x = norm['scale'] * (x - mean) / np.sqrt(var + 1e-5) + norm['bias']
    x = np.maximum(x, 0)
  return x @ params['head']['kernel'] + params['head']['bias']


def test_matches_the_reference(rng, variables):
  x = jnp.asarray(rng.normal(size=SHAPE), jnp.float32)
  stats = jax.tree.map(np.float64, variables['batch_stats'])
  wanted = _reference(
    variables,
    x,
    lambda number, _: tuple(stats[f'norm{number}'][k] for k in ('mean', 'var')),
  )
  logits = jax.jit(MODEL.apply)(variables, x)
  assert logits.dtype == jnp.float32
  np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)


def test_training_uses_the_statistics_of_the_batch(rng, variables):
  x = jnp.asarray(rng.normal(size=SHAPE), jnp.float32)
  seen = {}

  def of_the_batch(number, y):
    seen[f'norm{number}'] = {'mean': y.mean(0), 'var': y.var(0)}
    return y.mean(0), y.var(0)

  wanted = _reference(variables, x, of_the_batch)
  apply = jax.jit(MODEL.apply, static_argnames=('train', 'mutable'))
  logits, updated = apply(variables, x, train=True, mutable=('batch_stats',))
  np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)
  jax.tree.map(
    lambda after, before, y: np.testing.assert_allclose(
      after, 0.9 * np.float64(before) + 0.1 * y, rtol=1e-4, atol=1e-5
    ),
    updated['batch_stats'],
    variables['batch_stats'],
    seen,
  )


def test_names_and_shapes(variables):
  assert jax.tree.map(jnp.shape, variables['params']) == {
    'dense1': {'kernel': (12, 6)},
    'norm1': {'scale': (6,), 'bias': (6,)},
    'dense2': {'kernel': (6, 5)},
    'norm2': {'scale': (5,), 'bias': (5,)},
    'head': {'kernel': (5, 3), 'bias': (3,)},
  }


def test_bfloat16_computes_in_bfloat16_and_keeps_float32(rng, variables):
  model = MODEL.clone(dtype=jnp.bfloat16)
  x = jnp.asarray(rng.normal(size=SHAPE), jnp.float32)
  init = jax.eval_shape(model.init, jax.random.key(0), x)
  assert {leaf.dtype for leaf in jax.tree.leaves(init)} == {jnp.dtype('f4')}
  apply = jax.jit(model.apply, static_argnames='capture_intermediates')
  logits, state = apply(variables, x, capture_intermediates=True)
  assert logits.dtype == jnp.float32
  for name in ('dense1', 'norm1', 'dense2', 'norm2', 'head'):
    (leaf,) = jax.tree.leaves(state['intermediates'][name])
    assert leaf.dtype == jnp.bfloat16
  wanted = jax.jit(MODEL.apply)(variables, x)
  assert not np.array_equal(logits, wanted)
  np.testing.assert_allclose(logits, wanted, rtol=0.1, atol=0.1)


def test_every_norm_has_its_dense_layer(variables):
  params = variables['params']
  assert models.pair_norms(params) == {'norm1': 'dense1', 'norm2': 'dense2'}
  assert models.find_norms(params) == {'norm1': 1e-5, 'norm2': 1e-5}


def test_norms_that_do_not_follow_a_dense_layer_directly_have_none():
  kernel, norm = {'kernel': 0}, {'scale': 0}
  # A bias in between, no such layer, another parent, and a layer of each kind.
  assert (
    models.pair_norms({'dense1': kernel | {'bias': 0}, 'norm1': norm}) == {}
  )
  assert models.pair_norms({'dense1': kernel, 'norm2': norm}) == {}
  assert models.pair_norms({'a': {'dense1': kernel}, 'norm1': norm}) == {}
  found = {'b': {'dense1': kernel, 'norm1': norm}, 'conv1': kernel}
  assert models.pair_norms(found | {'norm1': norm}) == {
    'b/norm1': 'b/dense1',
    'norm1': 'conv1',
  }


def test_is_built_from_plain_values():
  build = lambda **arguments: models.build(
    'mlp', num_classes=7, arguments=arguments
  )
  found = build(widths=[8, 4], dtype='bfloat16')
  assert found == mlp.MLP(7, (8, 4), jnp.bfloat16)
  # What a config leaves out, and what it says is None.
  assert build() == build(widths=None, num_blocks=None)
  assert build().widths == (256, 256, 256)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (
      {'widths': [8], 'num_blocks': [1]},
      r'model\.num_blocks is \[1\], but mlp takes no such argument; wanted one'
      ' of: widths, dtype',
    ),
    ({'widths': [8, 0]}, r'model\.widths is \[8, 0\], wanted ints of at least'),
    ({'widths': []}, r'model\.widths is \[\], wanted ints of at least 1'),
    ({'widths': [100_001]}, r'model\.widths is .* at most 100000 in all'),
    ({'dtype': 'int8'}, r"model\.dtype is 'int8', wanted one of: float32"),
  ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
  with pytest.raises(ValueError, match=f'^{message}'):
    models.build('mlp', num_classes=7, arguments=arguments)
