"""Averages of weights, sharpness-aware steps, and line searches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import transforms
from tests.transforms import steps

NUM_STEPS = 120
RECIPE = transforms.Recipe(
  sparsity=0.5, begin_step=20, prune_steps=40, num_stages=2, end_step=NUM_STEPS
)
X = np.random.default_rng(6).normal(size=(256, 16)).astype(np.float32)
# What a ternary network with half of its weights can say.
LABELS = (X @ np.tile([1.0, 0.0, -1.0, 0.0], 4) > 0).astype(np.int32)


def _loss(params):
  logits = X @ params['kernel'] + params['bias']
  return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def _params(rng):
  return {'bias': jnp.zeros(2), 'kernel': steps.normal(rng, (16, 2))}


def _hq(**options):
  return transforms.hq(optax.adam(0.05), RECIPE, **options)


def _is_ternary(kernel):
  return all(
    len(np.unique(np.abs(column[column != 0]))) <= 1
    for column in np.asarray(kernel).T
  )


def _train(tx, params, num_steps, make_extra_args=lambda *_: {}):
  """Parameters after each step, and the last ones with their state."""

  def step(carry, _):
    params, state = carry
    value, grads = jax.value_and_grad(_loss)(params)
    given = make_extra_args(value, grads)
    updates, state = tx.update(grads, state, params, **given)
    params = optax.apply_updates(params, updates)
    return (params, state), params['kernel']

  carry = params, tx.init(params)
  return jax.jit(lambda carry: jax.lax.scan(step, carry, length=num_steps))(
    carry
  )


@pytest.mark.parametrize('opaque', [True, False], ids=['opaque', 'transparent'])
def test_sharpness_aware_steps_go_around(opaque, rng):
  adversary = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
  tx = optax.contrib.sam(_hq(), adversary, sync_period=2, opaque_mode=opaque)
  extra = {'grad_fn': lambda params, _: jax.grad(_loss)(params)}
  (params, state), found = _train(
    tx,
    _params(rng),
    NUM_STEPS if opaque else 2 * NUM_STEPS,
    lambda *_: extra if opaque else {},
  )
  assert int(optax.tree.get(state, 'ternary_count')) == NUM_STEPS
  assert int(optax.tree.get(state, 'replaced_count')) == 0
  # In the other mode, every other step is that of the adversary.
  assert _is_ternary(found[-1]) and opaque == _is_ternary(found[-2])
  assert (params['kernel'] == 0).sum() == 16
  assert float(_loss(params)) < 0.2


def test_an_average_of_latents_is_rounded(rng):
  tx, params = _hq(), _params(rng)
  state, step = tx.init(params), steps.make_step(tx)
  of_latents = of_params = params
  for _ in range(NUM_STEPS):
    params, state = step(params, state, jax.grad(_loss)(params))
    latents = transforms.latents(state, params)
    of_latents = optax.incremental_update(latents, of_latents, 0.1)
    of_params = optax.incremental_update(params, of_params, 0.1)
  assert not _is_ternary(of_params['kernel'])
  final = transforms.finalize(tx.init(of_latents), of_latents, RECIPE)
  codes, scale = final['kernel']
  assert (codes == 0).sum() == 16
  averaged = final | {'kernel': codes * scale}
  assert float(_loss(averaged)) < 0.2
  # Training may go on from the average: it is followed.
  params, state = step(of_latents, state, jax.grad(_loss)(params))
  assert int(state.replaced_count) == 1 and _is_ternary(params['kernel'])


def test_lookahead_around_replaces_what_was_made(rng, capfd):
  def run(hq):
    tx = optax.lookahead(hq, sync_period=5, slow_step_size=0.5)
    both = optax.LookaheadParams.init_synced(_params(rng))

    def step(carry, _):
      both, state = carry
      updates, state = tx.update(jax.grad(_loss)(both.fast), state, both)
      return (optax.apply_updates(both, updates), state), None

    train = jax.jit(lambda carry: jax.lax.scan(step, carry, length=100))
    return jax.block_until_ready(train((both, tx.init(both)))[0])

  both, state = run(_hq())
  assert not _is_ternary(both.slow['kernel'])
  # The last of 20 means is not looked at any more.
  assert int(optax.tree.get(state, 'replaced_count')) == 19
  with pytest.raises(jax.errors.JaxRuntimeError, match='params: kernel'):
    run(_hq(replaced='raise'))
  capfd.readouterr()


def test_a_line_search_inside(rng):
  # It evaluates the loss at dense latents, and needs value, gradient and loss.
  tx = transforms.hq(optax.lbfgs(), RECIPE)
  (params, state), found = _train(
    tx,
    _params(rng),
    NUM_STEPS,
    lambda value, grads: {'value': value, 'grad': grads, 'value_fn': _loss},
  )
  assert all(map(_is_ternary, found[20:]))
  assert (params['kernel'] == 0).sum() == 16
  assert float(_loss(params)) < 0.3
  assert int(state.made_count) + int(state.skipped_count) == NUM_STEPS
