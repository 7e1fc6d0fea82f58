"""Reinitialization toward the ternary point."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import transforms
from hq_jax.core import sphere
from hq_jax.core import ternary
from hq_jax.core import thresholds
from tests.transforms import steps


def _apply(tx, params, num_steps=1):
  """The parameters after each of so many updates of zero."""
  zero = jax.tree.map(jnp.zeros_like, params)
  return [params for params, _ in steps.run(tx, params, [zero] * num_steps)]


def _half(t):
  return 0.5


@jax.jit
def _distance(w):
  found = thresholds.get_thresholds({'w': w}, 0.5)
  codes = ternary.get_codes(w, thresholds.keep_mask(w, found['w']))
  return sphere.cosine_distance(w, codes)


def _reference(w, strength, kept):
  w = np.asarray(w, np.float64)
  radius = np.sqrt((w**2).sum(0))
  u = w / radius
  keep = np.zeros(w.size, bool)
  keep[np.argsort(-np.abs(u).ravel(), kind='stable')[:kept]] = True
  codes = np.sign(w) * keep.reshape(w.shape)
  k = np.maximum(np.abs(codes).sum(0), 1)
  moved = (1 - strength) * u + strength * codes / np.sqrt(k)
  norm = np.sqrt((moved**2).sum(0))
  return radius * moved / np.where(norm == 0, 1, norm)


@pytest.mark.parametrize('strength', [0.0, 0.25, 0.5, 1.0])
def test_matches_the_equation(rng, strength):
  w = 3 * steps.normal(rng, (10, 4))
  tx = transforms.reinit([0], strength, _half)
  (got,) = _apply(tx, {'kernel': w})
  np.testing.assert_allclose(
    got['kernel'], _reference(w, strength, 20), rtol=1e-5, atol=1e-6
  )


def test_strength_one_ends_the_distance_and_the_ranking_survives_it(rng):
  w = steps.normal(rng, (3, 3, 4, 8))
  assert _distance(w).mean() > 0.03
  (got,) = _apply(transforms.reinit([0], 1.0, _half), {'kernel': w})
  got = got['kernel']
  # All survivors of a channel tie, and they are kept in the next ranking.
  assert int((got != 0).sum()) == w.size // 2
  np.testing.assert_allclose(_distance(got), 0, atol=1e-6)
  np.testing.assert_allclose(sphere.norms(got), sphere.norms(w), rtol=1e-6)


def test_only_at_the_given_steps(rng):
  params = {'kernel': steps.normal(rng, (10, 4)), 'bias': jnp.ones(4)}
  tx = transforms.reinit((1, 3), 0.5, _half)
  found = [params, *_apply(tx, params, 5)]
  same = [
    np.array_equal(a['kernel'], b['kernel'])
    for a, b in itertools.pairwise(found)
  ]
  assert same == [True, False, True, False, True]
  np.testing.assert_array_equal(found[-1]['bias'], 1)


def test_no_steps(rng):
  params = {'kernel': steps.normal(rng, (3, 4))}
  (got,) = _apply(transforms.reinit((), 1.0, _half), params)
  np.testing.assert_array_equal(got['kernel'], params['kernel'])


def test_the_sparsity_is_that_of_the_step(rng):
  params = {'kernel': steps.normal(rng, (10, 4))}
  tx = transforms.reinit((0, 2), 1.0, lambda t: jnp.where(t < 2, 0.25, 0.75))
  zeros = [int((p['kernel'] == 0).sum()) for p in _apply(tx, params, 3)]
  assert zeros == [10, 10, 30]


def test_the_update_of_the_optimizer_is_in_it():
  # Moved first, [4, 3], then to the ternary point of radius 5.
  params = {'kernel': jnp.array([[1.0], [3.0]])}
  tx = transforms.reinit([0], 1.0, lambda t: 0.0)
  step = {'kernel': jnp.array([[3.0], [0.0]])}
  updates, _ = tx.update(step, tx.init(params), params)
  got = optax.apply_updates(params, updates)['kernel']
  np.testing.assert_allclose(got, np.full((2, 1), 12.5**0.5), rtol=1e-6)


def test_channels_of_zeros_stay_zero():
  params = {'kernel': jnp.array([[0.0, 3.0], [0.0, 4.0]])}
  (got,) = _apply(transforms.reinit([0], 0.5, lambda t: 0.0), params)
  assert got['kernel'][:, 0].tolist() == [0, 0]
  assert np.isfinite(got['kernel']).all()


def test_zeros_that_pruning_left_stay_zero(rng):
  w = steps.normal(rng, (10, 4))
  pruned = jnp.where(jnp.abs(w) > 0.7, w, 0)
  tx = transforms.reinit([0], 0.5, lambda t: 0.1)
  (got,) = _apply(tx, {'kernel': pruned})
  np.testing.assert_array_equal(got['kernel'] == 0, pruned == 0)


@pytest.mark.parametrize('strength', [-0.1, 1.1, float('nan')])
def test_refuses(strength):
  with pytest.raises(ValueError, match=f'strength is {strength}'):
    transforms.reinit([0], strength, _half)
