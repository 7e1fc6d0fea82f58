"""Dtypes that differ, and JAX's strict modes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import transforms
from tests.transforms import steps
from tests.transforms import table

DTYPES = ('float16', 'bfloat16', 'float32')
PAIRS = list(itertools.product(DTYPES, DTYPES))


def _apply(tx, params, updates, state=None):
  updates, state = jax.jit(tx.update)(
    updates, tx.init(params) if state is None else state, params
  )
  return optax.apply_updates(params, updates), updates, state


@pytest.mark.parametrize(('of_params', 'of_updates'), PAIRS)
def test_pruned_is_zero_whatever_the_types(of_params, of_updates, rng):
  tx = transforms.prune(lambda step: 0.75, refresh_steps=3)
  params, state = {'kernel': steps.normal(rng, (32, 16), of_params)}, None
  for _ in range(5):
    move = {'kernel': 0.01 * steps.normal(rng, (32, 16), of_updates)}
    params, updates, state = _apply(tx, params, move, state)
    assert int((params['kernel'] == 0).sum()) == 384
    assert updates['kernel'].dtype == jnp.promote_types(of_params, of_updates)
    assert params['kernel'].dtype == of_params


def test_projecting_keeps_the_zeros_of_pruning(rng):
  tx = optax.chain(
    optax.sgd(0.01),
    transforms.prune(lambda step: 0.75),
    transforms.project_to_sphere(),
  )
  grads = {'kernel': steps.normal(rng, (16, 8), jnp.bfloat16)}
  for dtype in ('float32', 'bfloat16'):
    params = {'kernel': steps.normal(rng, (16, 8), dtype)}
    found, *_ = _apply(tx, params, grads)
    assert int((found['kernel'] == 0).sum()) == 96


@pytest.mark.parametrize(('of_params', 'of_updates'), PAIRS)
def test_norms_and_points_are_kept_whatever_the_types(
  of_params, of_updates, rng
):
  params = {'kernel': steps.normal(rng, (32, 16), of_params)}
  move = {'kernel': steps.normal(rng, (32, 16), of_updates)}
  norms = lambda w: np.linalg.norm(np.asarray(w, np.float64), axis=0)
  found, updates, _ = _apply(transforms.project_to_sphere(), params, move)
  # Nothing is rounded but the result, to the type of the parameters.
  rtol = 2 * float(jnp.finfo(of_params).eps)
  np.testing.assert_allclose(
    norms(found['kernel']), norms(params['kernel']), rtol=rtol
  )
  assert updates['kernel'].dtype == jnp.promote_types(of_params, of_updates)

  tx = transforms.reinit([0], 1.0, lambda step: 0.75)
  found, updates, _ = _apply(tx, params, move)
  assert updates['kernel'].dtype == jnp.promote_types(of_params, of_updates)
  for column in np.abs(np.asarray(found['kernel'], np.float64)).T:
    kept = column > 0.05 * column.max()
    assert 0 < kept.sum() < 20
    np.testing.assert_allclose(column[kept], column.max(), rtol=2 * rtol)
  assert int((found['kernel'] == 0).sum()) == 384


@pytest.mark.parametrize('dtype', DTYPES)
def test_masked_pruning_keeps_its_zeros(dtype, rng):
  recipe = transforms.Recipe(
    sparsity=0.75,
    prune_steps=40,
    num_stages=2,
    refresh_steps=8,
    prune_gradients='masked',
  )
  params = {'kernel': steps.normal(rng, (32, 32), dtype)}
  draw = lambda p: steps.normal(rng, (40, *p.shape), dtype)
  tx = transforms.hq(optax.sgd(1e-2), recipe)
  found, state = table.scan(tx, params, jax.tree.map(draw, params))
  zeros = (np.asarray(found['kernel'], np.float32) == 0).sum((1, 2))
  assert (np.diff(zeros) >= 0).all()
  assert zeros[0] < zeros[-1] == 768
  assert int((state.latents['kernel'] == 0).sum()) == 768


@table.every_variant
def test_float64(name):
  with jax.enable_x64(True):
    params = table.make_params(jnp.float64)
    found, state = table.scan(
      table.make(name, table.sgd()), params, table.make_gradients(params)
    )
    kernel = np.asarray(found['kernel'])
    assert found['kernel'].dtype == jnp.float64
    for leaf in jax.tree.leaves(state):
      if jnp.issubdtype(leaf.dtype, jnp.integer):
        assert leaf.dtype != jnp.int64
  single = table.make_params()
  found, _ = table.scan(
    table.make(name, table.sgd()), single, table.make_gradients(single)
  )
  # The same run: what is a choice between two may be the other one.
  differs = np.abs(kernel - found['kernel']) > 1e-3
  assert differs.mean() < 0.02


@table.every_variant
def test_float32_parameters_where_float64_is_enabled(name):
  with jax.enable_x64(True):
    params = table.make_params(jnp.float32)
    found, state = table.scan(
      table.make(name, table.sgd()), params, table.make_gradients(params)
    )
    assert found['kernel'].dtype == jnp.float32
    assert np.isfinite(np.asarray(found['kernel'])).all()
    for leaf in jax.tree.leaves(state):
      assert leaf.dtype != jnp.float64


@pytest.mark.parametrize(
  'name',
  [
    name if name == 'project' else pytest.param(name, marks=pytest.mark.slow)
    for name in [*table.TRANSFORMS, *table.MORE]
  ],
)
def test_no_rank_is_promoted(name):
  with jax.numpy_rank_promotion('raise'):
    for shape, options in (
      ((8, 6), {}),
      ((3, 2, 8, 6), {}),
      ((5, 8, 6), {'layer_axes': 0}),
      ((6, 8), {'channel_axis': 0}),
      ((8, 3, 4), {'channel_axis': (1, 2)}),
    ):
      if options and name in table.LAST_AXIS_ONLY:
        continue
      params = table.make_params(shape=shape)
      gradients = table.make_gradients(params, 3)
      tx = table.make(name, table.sgd(), **options)
      found, _ = table.scan(tx, params, gradients)
      assert np.isfinite(found['kernel']).all()


KEYS = {
  'noisy_sgd': lambda key: optax.noisy_sgd(0.1, eta=1e-3, key=key),
  'add_noise': lambda key: optax.chain(
    optax.add_noise(1e-3, 0.5, key), optax.sgd(0.1)
  ),
}


@pytest.mark.parametrize('optimizer', KEYS)
def test_keys_in_the_state_of_the_optimizer(optimizer):
  params = table.make_params()
  tx = table.make('hq', KEYS[optimizer](jax.random.key(0)))
  gradients = table.make_gradients(params)
  _, state = table.scan(tx, params, gradients)
  assert int(state.skipped_count) == 0
  # A step that is skipped draws the same noise again.
  step = jax.jit(table.make_step(tx))
  good = table.at(gradients, 0)
  broken = jax.tree.map(lambda g: g * jnp.nan, good)
  _, skipped = step(params, tx.init(params), broken)
  wanted, _ = step(params, tx.init(params), good)
  got, _ = step(params, skipped, good)
  jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_private_gradients_are_aggregated_before():
  # `dpsgd` clips the gradients of single examples, adds them up, adds noise.
  params = table.make_params()
  aggregate = optax.contrib.differentially_private_aggregate(
    l2_norm_clip=1.0, noise_multiplier=0.1, key=jax.random.key(0)
  )
  tx = optax.chain(aggregate, table.make('hq', table.sgd()))
  per_example = jax.tree.map(
    lambda p: jnp.stack([p] * table.NUM_STEPS * 4).reshape(-1, 4, *p.shape),
    params,
  )
  found, state = table.scan(tx, params, per_example)
  assert int(optax.tree.get(state, 'ternary_count')) == table.NUM_STEPS
  kernel = np.abs(np.asarray(found['kernel'][-1]))
  assert all(len(set(column[column > 0])) <= 1 for column in kernel.T)
