"""Gradual magnitude pruning."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import transforms
from hq_jax.core import schedules
from tests.transforms import steps


def _run(tx, params, updates):
  """The parameters after each of these updates."""
  return [params for params, _ in steps.run(tx, params, updates)]


def _zeros(found, key='kernel'):
  return [int((params[key] == 0).sum()) for params in found]


def _reference(w, updates, sparsity, begin, end, refresh):
  """The same in NumPy, ranked by a stable sort."""
  w = np.asarray(w, np.float64)
  for t, u in enumerate(np.asarray(updates, np.float64)):
    active = begin <= t < end
    if active and t > begin:
      u = np.where(w == 0, 0, u)
    w = w + u
    if active and ((t - begin) % refresh == 0 or t == end - 1):
      norm = np.sqrt((w**2).sum(0))
      rank = np.abs(w) / np.where(norm == 0, 1, norm)
      kept = max(1, round((1 - sparsity(t)) * w.size))
      dropped = np.argsort(-rank.ravel(), kind='stable')[kept:]
      w.ravel()[dropped] = 0
    yield w.copy()


@pytest.mark.parametrize(('begin', 'refresh'), [(0, 1), (2, 3), (3, 50)])
def test_matches_the_reference(rng, begin, refresh):
  end, num_steps = begin + 6, 12
  ramp = lambda t: 0.2 + 0.1 * (t - begin)
  w, updates = (
    steps.normal(rng, (8, 5)),
    0.5 * steps.normal(rng, (num_steps, 8, 5)),
  )
  tx = transforms.prune(
    ramp, begin_step=begin, end_step=end, refresh_steps=refresh
  )
  found = _run(tx, {'kernel': w}, [{'kernel': u} for u in updates])
  wanted = _reference(w, updates, ramp, begin, end, refresh)
  for got, reference in zip(found, wanted, strict=True):
    np.testing.assert_array_equal(got['kernel'] == 0, reference == 0)
    np.testing.assert_allclose(got['kernel'], reference, atol=1e-5)


def test_a_weight_that_happens_to_be_zero_may_move_at_the_beginning():
  tx = transforms.prune(lambda t: 0.5, begin_step=1)
  params = {'kernel': jnp.array([[0.0], [1.0], [2.0], [3.0]])}
  updates = [{'kernel': jnp.zeros((4, 1))}] * 3
  updates[1] = {'kernel': jnp.array([[9.0], [0.0], [0.0], [0.0]])}
  found = _run(tx, params, updates)
  assert found[0]['kernel'].ravel().tolist() == [0, 1, 2, 3]
  assert found[1]['kernel'].ravel().tolist() == [9, 0, 0, 3]


def test_groups_follow_the_ramp(rng):
  ramp = schedules.sparsity_ramp(0.0, 0.5, ramp_steps=4, power=1.0)
  tx = transforms.prune(ramp, refresh_steps=2, scope='2:4')
  params = {'kernel': steps.normal(rng, (8, 3))}
  updates = [{'kernel': 0.1 * steps.normal(rng, (8, 3))} for _ in range(6)]
  found = _run(tx, params, updates)
  kept = [(got['kernel'].reshape(2, 4, 3) != 0).sum(1) for got in found]
  # At 0, a quarter and a half; between, zeros stay where they are.
  for groups, wanted in zip(kept, (4, 4, 3, 3, 2, 2), strict=True):
    assert (groups == wanted).all()


def test_a_schedule_by_path(rng):
  params = {
    'a': {'kernel': steps.normal(rng, (10, 4))},
    'b': {'kernel': steps.normal(rng, (5, 4)), 'bias': jnp.ones(4)},
  }
  zero = jax.tree.map(jnp.zeros_like, params)
  ramp = schedules.sparsity_ramp(0.1, 0.5, ramp_steps=2, power=1.0)
  tx = transforms.prune(
    {'a/kernel': ramp, '.*': lambda t: 0.8}, refresh_steps=1
  )
  found = _run(tx, params, [zero] * 4)
  zeros = lambda name: _zeros([got[name] for got in found])
  assert zeros('a') == [4, 12, 20, 20]
  assert zeros('b') == [16] * 4
  np.testing.assert_array_equal(found[-1]['b']['bias'], 1)


def test_a_channel_may_be_pruned_whole():
  params = {'kernel': jnp.array([[5.0, 0.1], [4.0, 0.1]])}
  tx = optax.chain(
    transforms.prune(lambda t: 0.5, unit_norm=False),
    transforms.project_to_sphere(),
  )
  updates = [{'kernel': jnp.full((2, 2), 0.5)}] * 3
  found = _run(tx, params, updates)
  for got in found:
    assert got['kernel'][:, 1].tolist() == [0, 0]
    np.testing.assert_allclose(
      np.linalg.norm(got['kernel'][:, 0]), 41**0.5, rtol=1e-6
    )


def test_bfloat16_weights_become_exactly_zero(rng):
  params = {'kernel': steps.normal(rng, (10, 4)).astype(jnp.bfloat16)}
  updates = [{'kernel': steps.normal(rng, (10, 4))}] * 3
  found = _run(transforms.prune(lambda t: 0.6), params, updates)
  assert _zeros(found) == [24] * 3


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'refresh_steps': 0}, 'refresh_steps is 0'),
    ({'begin_step': -1}, 'begin_step -1'),
    ({'begin_step': 3, 'end_step': 3}, 'end_step is 3'),
  ],
)
def test_refuses(arguments, message):
  with pytest.raises(ValueError, match=message):
    transforms.prune(lambda t: 0.5, **arguments)
