"""Learning rates by step, and the optimizers by name."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import config as config_lib
from hq_jax.training import optimizers


def _phase(epochs, rate, warmup=0.0, final=0.0):
  return config_lib.Phase(
    epochs=epochs,
    learning_rate=rate,
    warmup_fraction=warmup,
    final_fraction=final,
  )


def _reference(step, phases, per_epoch):
  """The rate at a step, from the words of the docstring."""
  for phase in phases:
    length = phase.epochs * per_epoch
    if step < length or (phase is phases[-1] and length):
      break
    step -= length
  warmup = int(phase.warmup_fraction * length)
  if step < warmup:
    return phase.learning_rate * step / warmup
  done = min((step - warmup) / (length - warmup), 1)
  low, high = phase.final_fraction, 1.0
  cosine = (1 + np.cos(np.pi * done)) / 2
  return phase.learning_rate * (low + (high - low) * cosine)


@pytest.mark.parametrize(
  'phases',
  [
    [_phase(3, 0.5, 0.1)],
    [_phase(2, 0.5, 0.25, 1 / 3), _phase(3, 0.1, 0.1)],
    [_phase(1, 0.5), _phase(0, 9.0), _phase(2, 0.25, 0.5, 0.1)],
    [_phase(0, 9.0), _phase(2, 0.25, 0.999, 1.0)],
  ],
)
def test_rates_match_the_words(phases):
  rate = optimizers.make_schedule(phases, steps_per_epoch=10)
  steps = range(10 * sum(phase.epochs for phase in phases))
  wanted = [_reference(step, phases, 10) for step in steps]
  found = [rate(step) for step in steps]
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


def _run(name, params, grads, rate=0.1, decay=0.0):
  """The parameters after one step for each of the gradients."""
  config = config_lib.Optimizer(name=name, weight_decay=decay)
  tx = optimizers.make_optimizer(config, lambda step: rate)
  state = tx.init(params)
  for g in grads:
    updates, state = tx.update(g, state, params)
    params = optax.apply_updates(params, updates)
  return params


_PARAMS = {
  'conv': {'kernel': jnp.full((2, 1), 2.0), 'bias': jnp.full((1,), 2.0)},
  'norm': {'scale': jnp.full((1,), 2.0)},
}


@pytest.mark.parametrize('name', ['adamw', 'sgd', 'lion'])
def test_only_kernels_decay(name):
  zeros = jax.tree.map(jnp.zeros_like, _PARAMS)
  found = _run(name, _PARAMS, [zeros], rate=0.1, decay=0.25)
  # Momentum, with Nesterov's look ahead, takes the decay 1.9 times.
  kernel = 2 - 0.1 * 0.25 * 2 * (1.9 if name == 'sgd' else 1)
  np.testing.assert_allclose(found['conv']['kernel'], kernel, rtol=1e-6)
  np.testing.assert_array_equal(found['conv']['bias'], 2)
  np.testing.assert_array_equal(found['norm']['scale'], 2)


def test_two_steps_of_sgd_by_hand():
  grads = jax.tree.map(lambda p: jnp.full_like(p, 0.5), _PARAMS)
  found = _run('sgd', _PARAMS, [grads, grads])
  for leaf in jax.tree.leaves(found):
    # Steps 1.9 g and g + 0.9 (g + 0.9 g) = 2.71 g, with g = 0.5.
    np.testing.assert_allclose(leaf, 2 - 0.1 * (1.9 + 2.71) * 0.5, rtol=1e-5)


def test_lion_is_not_adam():
  first = jax.tree.map(lambda p: jnp.full_like(p, 1.0), _PARAMS)
  second = jax.tree.map(lambda p: jnp.full_like(p, -0.01), _PARAMS)
  found = _run('lion', _PARAMS, [first, second])
  # 0.9 * 0.01 - 0.1 * 0.01 is positive: a whole step down again.
  np.testing.assert_allclose(found['norm']['scale'], 1.8, rtol=1e-6)
  found = _run('adamw', _PARAMS, [first, second])
  # Means 0.089 / 0.19 and 0.0010 / 0.0020: a step of 0.66.
  second_step = 0.1 * (0.09 - 0.001) / 0.19 / np.sqrt((0.999 + 1e-4) / 1.999)
  np.testing.assert_allclose(
    found['norm']['scale'], 1.9 - second_step, rtol=1e-5
  )


def test_the_rate_follows_the_schedule():
  config = config_lib.Optimizer(name='sgd', weight_decay=0.0)
  tx = optimizers.make_optimizer(config, lambda step: jnp.array([1, 0])[step])
  grads = jax.tree.map(jnp.ones_like, _PARAMS)
  first, state = tx.update(grads, tx.init(_PARAMS), _PARAMS)
  second, _ = tx.update(grads, state, _PARAMS)
  assert float(first['norm']['scale'][0]) == pytest.approx(-1.9)
  assert float(second['norm']['scale'][0]) == 0


@pytest.mark.parametrize('name', ['adam', '', 'SGD'])
def test_an_unknown_name_is_refused(name):
  with pytest.raises(ValueError) as caught:
    optimizers.make_optimizer(config_lib.Optimizer(name=name), lambda step: 0.1)
  assert str(caught.value) == (
    f'config.optimizer.name is {name!r}, wanted one of: adamw, sgd, lion'
  )
