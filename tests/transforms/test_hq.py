"""The whole method: its stages, its switches, and a plain optax loop."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import sphere
from hq_jax import ternary
from hq_jax import transforms

# Dense at 0 and 1, pruned at 2 to 7, ternary from 8.
RECIPE = transforms.Recipe(
  sparsity=0.75,
  begin_step=2,
  prune_steps=6,
  initial_sparsity=0.25,
  num_stages=2,
  reinit_strength=1.0,
  refresh_steps=1,
)
NUM_STEPS = 10

_finalize = jax.jit(transforms.finalize, static_argnums=1)


def _normal(rng, shape):
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def _mlp(rng, sizes):
  return [
    {
      'kernel': _normal(rng, shape) / shape[0] ** 0.5,
      'bias': jnp.zeros(shape[1]),
    }
    for shape in itertools.pairwise(sizes)
  ]


def _forward(params, x):
  for layer in params[:-1]:
    x = jax.nn.relu(x @ layer['kernel'] + layer['bias'])
  return x @ params[-1]['kernel'] + params[-1]['bias']


def _loss(params, x, y):
  logits = _forward(params, x)
  return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def test_a_plain_optax_loop_on_digits(digits, rng):
  (train_x, train_y), (test_x, test_y) = digits
  recipe = transforms.Recipe(sparsity=0.8, begin_step=50, prune_steps=100)
  params, losses = _mlp(rng, (64, 48, 10)), []
  value_and_grad = jax.jit(jax.value_and_grad(_loss))

  tx = transforms.hq(optax.adam(1e-2), recipe)
  update = jax.jit(tx.update)
  opt_state = tx.init(params)
  for _ in range(300):
    batch = rng.integers(0, len(train_x), 128)
    loss, grads = value_and_grad(params, train_x[batch], train_y[batch])
    updates, opt_state = update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    losses.append(float(loss))

  assert np.mean(losses[-20:]) < 0.5 * losses[0]
  accuracy = (jax.jit(_forward)(params, test_x).argmax(-1) == test_y).mean()
  assert accuracy > 0.85, accuracy
  found = _finalize(opt_state, recipe)
  assert list(found) == ['0/kernel', '1/kernel']
  for layer, (codes, scale) in zip(params, found.values(), strict=True):
    kernel = np.asarray(layer['kernel'])
    np.testing.assert_array_equal(kernel, codes * scale)
    assert abs((codes == 0).mean() - 0.8) < 0.1
    assert all(len(np.unique(np.abs(w[w != 0]))) <= 1 for w in kernel.T)


@functools.cache
def _run(recipe, learning_rate=0.3, num_steps=NUM_STEPS):
  """Parameters and states after each step, under gradients of the same sum.

  The loss is linear, so its gradients do not depend on the parameters.
  """
  rng = np.random.default_rng(5)
  # Channels of unlike radii, so that abs(u) and abs(w) rank differently.
  radii = jnp.array([0.5, 1.0, 1.5, 3.0])
  params = {'kernel': radii * _normal(rng, (16, 4)), 'bias': jnp.zeros(4)}
  target = _normal(rng, (num_steps, 16, 4))
  tx = transforms.hq(optax.sgd(learning_rate, momentum=0.5), recipe)
  step = jax.jit(tx.update)
  state = tx.init(params)
  found = [(params, state)]
  for t in range(num_steps):
    grads = {'kernel': target[t], 'bias': jnp.ones(4)}
    updates, state = step(grads, state, params)
    params = optax.apply_updates(params, updates)
    found.append((params, state))
  return found


def _zeros(recipe):
  return [int((params['kernel'] == 0).sum()) for params, _ in _run(recipe)[1:]]


def _latents(recipe):
  return [state.latents['kernel'] for _, state in _run(recipe)]


def _without(switch):
  return dataclasses.replace(RECIPE, **{switch: False})


@jax.jit
def _distance(w, sparsity):
  magnitudes = ternary.rank_magnitudes(w)
  kept = ternary.num_kept(w.size, sparsity)
  threshold = ternary.find_threshold(magnitudes, kept)
  codes = ternary.get_codes(w, ternary.keep_mask(magnitudes, threshold))
  return sphere.cosine_distance(w, codes).mean()


def test_the_stages_in_numbers():
  # Dense, then the cubic ramp over 64 weights: 0.75 - 0.5 (1 - t / 5)^3,
  # that is 16, 31.6, 41.1, 46.0, 47.7, 48; then ternary at 48.
  assert _zeros(RECIPE) == [0, 0, 16, 32, 41, 46, 48, 48, 48, 48]
  distinct = [
    len(np.unique(np.abs(p['kernel'][:, 0]))) for p, _ in _run(RECIPE)
  ]
  assert min(distinct[:3]) == 16
  assert distinct[-2:] == [2, 2]


def test_pruned_latents_may_grow_again_in_the_ternary_stage():
  zeros = [int((w == 0).sum()) for w in _latents(RECIPE)[1:]]
  assert zeros[7] == 48
  assert zeros[8] == zeros[9] == 0


def test_the_bias_is_the_optimizers_own():
  biases = [float(params['bias'][0]) for params, _ in _run(RECIPE)]
  # Momentum 0.5 at rate 0.3.
  np.testing.assert_allclose(biases[:4], [0, -0.3, -0.75, -1.275], rtol=1e-6)


def test_radii_are_kept_through_all_stages():
  radii = sphere.norms(_latents(RECIPE)[0])
  for w in _latents(RECIPE)[1:]:
    norms = np.asarray(sphere.norms(w))
    np.testing.assert_allclose(norms[norms > 0], radii[norms > 0], rtol=1e-5)


def test_the_distance_is_zero_after_each_stage():
  latents = _latents(RECIPE)[1:]
  ramp = RECIPE.get_ramp()
  # Stages end with the updates 4 and 7.
  for t in (4, 7):
    np.testing.assert_allclose(_distance(latents[t], ramp(t)), 0, atol=1e-6)
  for t in (3, 5, 6, 8):
    assert _distance(latents[t], max(ramp(t), 0.25)) > 1e-3


def test_tangent_off():
  # Momentum holds what the optimizer was given: no radial part at first.
  for recipe, is_tangent in ((RECIPE, True), (_without('tangent'), False)):
    (params, _), (_, state) = _run(recipe)[:2]
    momentum = optax.tree.get(state, 'trace')['kernel']
    radial = jnp.sum(momentum * sphere.normalize(params['kernel']), 0)
    assert bool((jnp.abs(radial) < 1e-5).all()) == is_tangent


def test_project_off():
  recipe = _without('project')
  norms = [sphere.norms(w) for w in _latents(recipe)]
  assert float(jnp.abs(norms[1] / norms[0] - 1).min()) > 1e-3
  assert optax.tree.get(_run(recipe)[-1][1], 'radii') is None


@pytest.mark.parametrize(('part', 'update'), [('prune', 2), ('reinit', 4)])
def test_magnitudes_themselves_are_ranked_with_project_off(part, update):
  # One part alone, against the run without it up to that update.
  other = 'reinit' if part == 'prune' else 'prune'
  recipe = dataclasses.replace(RECIPE, project=False, **{other: False})
  without = dataclasses.replace(recipe, **{part: False})
  moved = np.abs(_latents(without)[update + 1])
  dropped = np.asarray(_latents(recipe)[update + 1] == 0)
  assert dropped.sum() == {'prune': 16, 'reinit': 41}[part]
  assert moved[dropped].max() < moved[~dropped].min()


def test_prune_off():
  recipe = _without('prune')
  state = _run(recipe)[-1][1]
  assert optax.tree.get(state, 'prune_count') is None
  # Full reinitialization zeroes at the ends of stages, and nothing else does.
  zeros = _zeros(recipe)
  assert [zeros[t] for t in (2, 3, 5, 6)] == [0, 0, 0, 0]
  assert zeros[4] == 41 and zeros[7] == 48


def test_reinit_off():
  recipe = _without('reinit')
  assert optax.tree.get(_run(recipe)[-1][1], 'reinit_count') is None
  latents = _latents(recipe)[1:]
  for t in (4, 7):
    assert _distance(latents[t], recipe.get_ramp()(t)) > 1e-2
  assert _zeros(recipe)[2:] == _zeros(RECIPE)[2:]


def test_straight_through_off():
  recipe = _without('straight_through')
  assert optax.tree.get(_run(recipe)[-1][1], 'thresholds') is None
  params, state = _run(recipe)[-1]
  np.testing.assert_allclose(
    params['kernel'], state.latents['kernel'], rtol=1e-5, atol=1e-6
  )
  assert len(np.unique(np.abs(params['kernel'][:, 0]))) > 3
  found = _finalize(state, recipe)['kernel']
  assert int((found.codes == 0).sum()) == 48


def test_everything_off_is_the_optimizer():
  recipe = RECIPE
  for switch in ('tangent', 'project', 'prune', 'reinit', 'straight_through'):
    recipe = dataclasses.replace(recipe, **{switch: False})
  inner = optax.sgd(0.1)
  params = {'kernel': jnp.arange(6.0).reshape(3, 2), 'bias': jnp.ones(2)}
  tx = transforms.hq(inner, recipe)
  updates, _ = tx.update(params, tx.init(params), params)
  jax.tree.map(
    lambda u, p: np.testing.assert_allclose(u, -0.1 * p, rtol=1e-5),
    updates,
    params,
  )


def test_ternary_at_once():
  recipe = transforms.Recipe(sparsity=0.75)
  assert recipe.ternary_begin_step == 0
  state = _run(recipe)[-1][1]
  for field in ('prune_count', 'reinit_count'):
    assert optax.tree.get(state, field) is None
  assert _zeros(recipe)[0] == 48


def test_one_step_of_pruning_is_at_the_full_sparsity():
  recipe = transforms.Recipe(
    sparsity=0.75, prune_steps=1, num_stages=1, straight_through=False
  )
  assert _zeros(recipe)[0] == 48


@pytest.mark.parametrize('num_steps', [1, 2, 9])
def test_the_last_step_of_the_ramp_is_at_the_full_sparsity(num_steps):
  recipe = transforms.Recipe(
    sparsity=0.75, begin_step=3, prune_steps=num_steps, num_stages=1
  )
  ramp = recipe.get_ramp()
  assert ramp(2) == 0
  assert ramp(3 + num_steps - 1) == 0.75
  if num_steps > 1:
    np.testing.assert_allclose(ramp(3), 0.3, rtol=1e-6)
    assert ramp(3 + num_steps - 2) < 0.75


def test_a_ramp_may_begin_above_its_end():
  # The default beginning, 0.3, with a target below it.
  ramp = transforms.Recipe(sparsity=0.2, prune_steps=4).get_ramp()
  assert [float(ramp(t)) for t in (0, 4)] == [float(np.float32(0.2))] * 2


def test_finalize_is_the_parameters():
  for t in (10, 11):
    params, state = _run(RECIPE, num_steps=11)[t]
    for finalize in (_finalize, transforms.finalize):  # Compiled or not.
      found = finalize(state, RECIPE)
      assert list(found) == ['kernel']
      codes, scale = found['kernel']
      assert codes.dtype == jnp.int8 and scale.dtype == jnp.float32
      np.testing.assert_array_equal(params['kernel'], codes * scale)


def test_finalize_uses_the_stored_thresholds():
  # Refreshed once, at update 0: by the end the number of zeros has drifted.
  recipe = transforms.Recipe(sparsity=0.75, refresh_steps=1000)
  params, state = _run(recipe)[-1]
  codes, scale = _finalize(state, recipe)['kernel']
  assert int((codes == 0).sum()) != 48
  np.testing.assert_array_equal(params['kernel'], codes * scale)


def test_the_last_update_is_at_the_exact_sparsity():
  recipe = transforms.Recipe(sparsity=0.75, refresh_steps=1000, end_step=9)
  zeros = _zeros(recipe)
  assert zeros[0] == zeros[8] == 48
  assert zeros[7] != 48


@pytest.mark.parametrize('num_updates', [0, 1, 5, 8])
def test_finalize_before_the_ternary_stage_rounds_the_latents(num_updates):
  _, state = _run(RECIPE)[num_updates]
  codes, scale = _finalize(state, RECIPE)['kernel']
  assert int((codes == 0).sum()) == 48
  latents = state.latents['kernel']
  np.testing.assert_array_equal(codes, jnp.sign(latents) * (codes != 0))
  k = jnp.maximum(jnp.abs(codes).sum(0, dtype=jnp.float32), 1)
  wanted = sphere.norms(latents) / jnp.sqrt(k) * (codes != 0).any(0)
  np.testing.assert_allclose(scale, wanted, rtol=2**-11)


def test_finalize_ranks_as_the_recipe_does():
  # A strong and a weak channel: by magnitude, the weak one loses its codes.
  params = {'kernel': jnp.array([[3.0, 0.03], [1.0, 0.01]])}
  zeros = {}
  for project in (True, False):
    recipe = transforms.Recipe(sparsity=0.5, project=project)
    state = transforms.hq(optax.sgd(0.1), recipe).init(params)
    codes = _finalize(state, recipe)['kernel'].codes
    zeros[project] = (codes == 0).tolist()
  assert zeros[True] == [[False, False], [True, True]]
  assert zeros[False] == [[False, True], [False, True]]


def test_finalize_keeps_kernels_and_thresholds_together(rng):
  params = {
    name: {'kernel': scale * _normal(rng, (8, 4)), 'bias': jnp.zeros(4)}
    for name, scale in (('b', 1.0), ('a', 10.0), ('c', 0.1))
  }
  recipe = transforms.Recipe(sparsity=0.5, project=False, tangent=False)
  tx = optax.chain(
    optax.clip_by_global_norm(1e6), transforms.hq(optax.sgd(0.0), recipe)
  )
  updates, state = jax.jit(tx.update)(params, tx.init(params), params)
  params = optax.apply_updates(params, updates)
  found = _finalize(state, recipe)
  assert list(found) == ['a/kernel', 'b/kernel', 'c/kernel']
  for path, (codes, scale) in found.items():
    np.testing.assert_allclose(
      params[path[0]]['kernel'], codes * scale, rtol=2**-23
    )
    assert int((codes == 0).sum()) == 16


def test_latents_with_the_other_parameters():
  params, state = _run(RECIPE)[-1]
  nested = (optax.EmptyState(), {'inside': [state]})
  found = transforms.latents(nested, params)
  assert found['kernel'] is state.latents['kernel']
  assert found['bias'] is params['bias']


def test_without_latents_there_is_an_error():
  params = {'kernel': jnp.ones((2, 2))}
  state = optax.adam(0.1).init(params)
  with pytest.raises(ValueError, match='holds no latents'):
    transforms.latents(state, params)
  with pytest.raises(ValueError, match='holds no latents'):
    transforms.finalize(state, RECIPE)


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('sparsity', 1.0),
    ('sparsity', -0.1),
    ('sparsity', float('nan')),
    ('initial_sparsity', 1.0),
    ('initial_sparsity', -0.1),
    ('reinit_strength', 1.1),
    ('reinit_strength', -0.1),
    ('begin_step', -1),
    ('prune_steps', -1),
    ('num_stages', 0),
    ('num_stages', 7),
    ('refresh_steps', 0),
    ('end_step', 7),
  ],
)
def test_recipe_refuses(name, value):
  with pytest.raises(ValueError, match=f'{name} is {value}, wanted'):
    dataclasses.replace(RECIPE, **{name: value})


def test_stages_without_reinitialization_are_not_counted():
  transforms.Recipe(prune_steps=2, num_stages=7, reinit=False)
  transforms.Recipe(prune_steps=0, num_stages=7)
