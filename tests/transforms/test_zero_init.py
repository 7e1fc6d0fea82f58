"""Kernels that are zero at `init` train: heads, last layers of blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import transforms
from hq_jax.core import schedules
from tests.transforms import steps

X = np.random.default_rng(6).normal(size=(256, 16)).astype(np.float32)
# What a ternary head with half of its weights can say.
TRUTH = np.tile([1.0, 0.0, -1.0, 0.0], 4)
LABELS = (X @ TRUTH > 0).astype(np.int32)
RAMP = schedules.sparsity_ramp(0.0, 0.5, ramp_steps=60)
# A warm-up from zero: the first update of all is zero too.
RATE = optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 120)


def _recipe(**options):
  return transforms.Recipe(**{'sparsity': 0.5, 'end_step': 120} | options)


RECIPES = {
  'dense': _recipe(begin_step=10**6, end_step=None),
  'at_once': _recipe(),
  'ramp': _recipe(begin_step=20, prune_steps=40),
  'masked': _recipe(prune_steps=60, prune_gradients='masked', num_stages=2),
  'channel': _recipe(begin_step=20, scope='channel'),
  '2:4': _recipe(prune_steps=40, scope='2:4'),
}
TRANSFORMS = {
  'tangent': lambda: optax.chain(transforms.tangent(), optax.adam(RATE)),
  'project_to_sphere': lambda: optax.chain(
    optax.adam(RATE), transforms.project_to_sphere()
  ),
  'prune': lambda: optax.chain(optax.adam(RATE), transforms.prune(RAMP)),
  'prune_2:4': lambda: optax.chain(
    optax.adam(RATE), transforms.prune(lambda step: 0.5, scope='2:4')
  ),
  'reinit': lambda: optax.chain(
    optax.adam(RATE), transforms.reinit([0, 30], 0.5, RAMP)
  ),
} | {
  f'hq_{name}': lambda recipe=recipe: transforms.hq(optax.adam(RATE), recipe)
  for name, recipe in RECIPES.items()
}
QUICK = ('prune', 'hq_ramp', 'hq_masked')


def _loss(params):
  logits = X @ params['kernel']
  return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def _train(tx, params, num_steps=120):
  def step(carry, _):
    params, state = carry
    updates, state = tx.update(jax.grad(_loss)(params), state, params)
    return (optax.apply_updates(params, updates), state), params['kernel']

  carry = params, tx.init(params)
  train = jax.jit(lambda carry: jax.lax.scan(step, carry, length=num_steps))
  return train(carry)


@pytest.mark.parametrize(
  'name',
  [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in TRANSFORMS
  ],
)
def test_a_head_of_zeros_trains(name):
  (params, state), _ = _train(
    TRANSFORMS[name](), {'kernel': jnp.zeros((16, 2))}
  )
  assert float(_loss(params)) < 0.35  # log 2 at first.
  zeros = int((params['kernel'] == 0).sum())
  if name in ('prune', 'prune_2:4', 'hq_at_once', 'hq_ramp', 'hq_masked'):
    assert zeros == 16
  if name.startswith('hq') and name != 'hq_dense':
    columns = np.abs(np.asarray(params['kernel'])).T
    assert all(len(set(column[column > 0])) == 1 for column in columns)
    assert int(optax.tree.get(state, 'replaced_count')) == 0


def test_one_channel_of_zeros_grows_and_the_others_keep_their_radii(rng):
  kernel = steps.normal(rng, (16, 2)).at[:, 1].set(0)
  tx = transforms.hq(optax.adam(0.1), RECIPES['dense'])
  (params, _), found = _train(tx, {'kernel': kernel}, 20)
  norms = np.linalg.norm(np.concatenate([found, [params['kernel']]]), axis=1)
  np.testing.assert_allclose(norms[:, 0], norms[0, 0], rtol=1e-5)
  assert norms[0, 1] == 0 and (norms[1:, 1] > 0.1).all()


def test_zeros_that_were_pruned_are_held_all_the_same(rng):
  # One kernel starts at zero, the other not: of that, what is pruned stays.
  tx = optax.chain(
    optax.sgd(0.1), transforms.prune(lambda step: 0.5, refresh_steps=10)
  )
  params = {
    'a': {'kernel': steps.normal(rng, (8, 4))},
    'b': {'kernel': jnp.zeros((8, 4))},
  }
  found = [params for params, _ in steps.train(rng, tx, params, 9)]
  pruned = found[0]['a']['kernel'] == 0
  assert int(pruned.sum()) == 16
  for after in found:
    np.testing.assert_array_equal(after['a']['kernel'] == 0, pruned)
  # The other moved with the first update, and was ranked with it.
  assert int((found[0]['b']['kernel'] == 0).sum()) == 16


def test_a_kernel_that_was_ranked_as_zeros_is_not_held(rng):
  # The ranking of a step in which nothing has moved yet finds only zeros.
  tx = optax.chain(
    optax.sgd(lambda step: 0.1 * (step > 2)),
    transforms.prune(lambda step: 0.5, refresh_steps=5),
  )
  params = {'kernel': jnp.zeros((8, 4))}
  found = [params['kernel'] for params, _ in steps.train(rng, tx, params, 7)]
  zeros = [int((kernel == 0).sum()) for kernel in found]
  assert zeros == [32, 32, 32, 0, 0, 16, 16]


def test_a_layer_of_zeros_in_a_stack_is_not_held_either(rng):
  tx = optax.chain(
    optax.sgd(lambda step: 0.1 * (step > 0)),
    transforms.prune(lambda step: 0.5, refresh_steps=5, layer_axes=0),
  )
  params = {'kernel': steps.normal(rng, (2, 8, 4)).at[1].set(0)}
  found = [params['kernel'] for params, _ in steps.train(rng, tx, params, 6)]
  zeros = [(kernel == 0).sum((1, 2)).tolist() for kernel in found]
  assert zeros == [[16, 32], *[[16, 0]] * 4, [16, 16]]


def test_tangent_leaves_the_gradient_of_a_channel_that_has_grown(rng):
  # It has no sphere later either: its radial part would be lost for good.
  tx = transforms.tangent()
  params = {'kernel': jnp.zeros((8, 4)).at[:, 0].set(1)}
  state = tx.init(params)
  grown = {'kernel': steps.normal(rng, (8, 4))}
  grads = {'kernel': steps.normal(rng, (8, 4))}
  got = tx.update(grads, state, grown)[0]['kernel']
  np.testing.assert_array_equal(got[:, 1:], grads['kernel'][:, 1:])
  radial = jnp.sum(got[:, 0] * grown['kernel'][:, 0])
  np.testing.assert_allclose(radial, 0, atol=1e-5)
