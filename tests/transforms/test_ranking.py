"""Which weights become zero: the same in every transform that ranks them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import transforms
from hq_jax.core import trees
from tests.transforms import steps


def _schedule(sparsity):
  if isinstance(sparsity, dict):
    return {path: _schedule(value) for path, value in sparsity.items()}
  return lambda step: sparsity


def _ternary(sparsity, scope='layer', unit_norm=True, **kernels):
  quantizer = transforms.ternary(sparsity, scope=scope, unit_norm=unit_norm)
  return transforms.straight_through(optax.identity(), quantizer, **kernels)


TRANSFORMS = {
  'prune': lambda sparsity, **kw: transforms.prune(_schedule(sparsity), **kw),
  'reinit': lambda sparsity, **kw: transforms.reinit(
    [0], 1.0, _schedule(sparsity), **kw
  ),
  'ternary': _ternary,
}
pytestmark = pytest.mark.parametrize('name', TRANSFORMS)


def _kept(name, params, sparsity, **options):
  """Which weights are left by an update of zero, by path."""
  tx = TRANSFORMS[name](sparsity, **options)
  zero = jax.tree.map(jnp.zeros_like, params)
  updates, _ = jax.jit(tx.update)(zero, tx.init(params), params)
  moved = trees.flatten(optax.apply_updates(params, updates))
  return {path: np.asarray(leaf != 0) for path, leaf in moved.items()}


def _two(rng):
  return {
    'a': {'kernel': steps.normal(rng, (8, 4))},
    'b': {'kernel': 9 * steps.normal(rng, (4, 6)), 'bias': jnp.ones(6)},
  }


def test_unit_norm_or_not(name):
  params = {'kernel': jnp.array([[3.0, 0.03], [1.0, 0.01]])}
  kept = {
    unit_norm: _kept(name, params, 0.5, unit_norm=unit_norm)['kernel'].tolist()
    for unit_norm in (True, False)
  }
  assert kept[True] == [[True, True], [False, False]]
  # The weak channel loses all its weights.
  assert kept[False] == [[True, False], [True, False]]


def test_output_channels_on_the_first_axis(name):
  w = jnp.array([[3.0, 1.0], [0.03, 0.01]])
  # As Equinox has it, and told so.
  for leaf, options in (('weight', {}), ('kernel', {'channel_axis': 0})):
    kept = _kept(name, {leaf: w}, 0.5, **options)[leaf]
    assert kept.tolist() == [[True, False], [True, False]]


def test_ties_fall_by_index(name):
  params = {'kernel': jnp.array([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])}
  kept = _kept(name, params, 0.5)['kernel']
  assert kept.tolist() == [[True, True], [True, False], [False, False]]


def test_each_kernel_is_ranked_by_itself(name, rng):
  kept = _kept(name, _two(rng), 0.75, unit_norm=False)
  assert kept['a/kernel'].sum() == 8 and kept['b/kernel'].sum() == 6
  assert kept['b/bias'].all()


def test_scope_tree_ranks_all_kernels_together(name, rng):
  params = _two(rng)
  params['b']['kernel'] /= 4
  kept = _kept(name, params, 0.75, scope='tree', unit_norm=False)
  magnitudes = {key: np.abs(params[key]['kernel']) for key in 'ab'}
  limit = np.sort(np.concatenate([m.ravel() for m in magnitudes.values()]))[-14]
  for key, magnitude in magnitudes.items():
    np.testing.assert_array_equal(kept[f'{key}/kernel'], magnitude >= limit)
  assert 0 < kept['a/kernel'].sum() < 8


def test_scope_channel_keeps_as_many_of_each(name, rng):
  params = {
    'kernel': steps.normal(rng, (3, 3, 2, 5)),
    'weight': steps.normal(rng, (4, 6)),
  }
  kept = _kept(name, params, 0.5, scope='channel', unit_norm=False)
  assert kept['kernel'].sum((0, 1, 2)).tolist() == [9] * 5
  assert kept['weight'].sum(1).tolist() == [3] * 4


def test_scope_of_groups_keeps_the_largest_of_each(name, rng):
  # Along the input axis, which is the second where channels are the first.
  params = {
    'kernel': steps.normal(rng, (8, 3)),
    'weight': steps.normal(rng, (3, 8, 4, 2)),
  }
  kept = _kept(name, params, 0.5, scope='2:4')
  for leaf, shape, axis in (
    ('kernel', (2, 4, 3), 1),
    ('weight', (3, 2, 4, 4, 2), 2),
  ):
    groups = np.abs(params[leaf]).reshape(shape)
    wanted = groups >= np.sort(groups, axis).take([2], axis)
    np.testing.assert_array_equal(kept[leaf].reshape(shape), wanted)


def test_a_sparsity_by_path(name, rng):
  kept = _kept(name, _two(rng), {'a/kernel': 0.25, '.*': 0.75})
  assert kept['a/kernel'].sum() == 24 and kept['b/kernel'].sum() == 6


def test_one_weight_is_always_kept(name):
  kept = _kept(name, {'kernel': jnp.array([[1.0], [2.0]])}, 0.99)
  assert kept['kernel'].ravel().tolist() == [False, True]


@pytest.mark.parametrize(
  ('sparsity', 'scope', 'message'),
  [
    ({'b/.*': 0.5}, 'layer', 'sparsity has no value for a/kernel'),
    ({'.*': 0.5, 'b': 0.5}, 'layer', "'b' matches no kernel"),
    ({'.*': 0.5}, 'tree', 'share a threshold'),
    (0.5, '2:4', r'a/kernel of shape .* multiple of 4'),
    (0.5, 'row', "scope is 'row'"),
  ],
)
def test_a_sparsity_or_a_scope_that_does_not_fit(
  name, sparsity, scope, message
):
  params = {'a': {'kernel': jnp.ones((6, 2))}}
  with pytest.raises(ValueError, match=message):
    _kept(name, params, sparsity, scope=scope)
