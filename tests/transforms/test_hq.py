"""The whole method: its stages, its switches, and a plain optax loop."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import transforms
from hq_jax.core import sphere
from hq_jax.core import ternary
from hq_jax.core import thresholds
from tests import compiling
from tests.transforms import steps

# Dense at 0 and 1, pruned at 2 to 7, ternary from 8.
RECIPE = transforms.Recipe(
  prune_gradients='masked',
  sparsity=0.75,
  begin_step=2,
  prune_steps=6,
  initial_sparsity=0.25,
  num_stages=2,
  reinit_strength=1.0,
  refresh_steps=1,
)
# Ternary from the update 2 on, and every weight gets its gradient.
RAMP = dataclasses.replace(RECIPE, prune_gradients='straight_through')
NUM_STEPS = 10

_finalize = jax.jit(transforms.finalize, static_argnums=2)


def test_a_factor_that_cannot_be_set_is_refused(rng):
  params = {'kernel': steps.normal(rng, (4, 2))}
  state = transforms.hq(optax.sgd(0.1), RECIPE).init(params)
  for factor in (0.0, -1.0, float('nan'), float('inf')):
    with pytest.raises(ValueError, match=f'^factor is {factor}, wanted a'):
      transforms.with_density_scale(state, factor)
  with pytest.raises(ValueError, match='holds no density_scale'):
    transforms.with_density_scale(optax.sgd(0.1).init(params), 1.5)


@functools.cache
def _run(recipe, jit=jax.jit):
  """Parameters and states after each step, under gradients of the same sum.

  The loss is linear, so its gradients do not depend on the parameters.
  """
  rng = np.random.default_rng(5)
  # Channels of unlike radii, so that abs(u) and abs(w) rank differently.
  radii = jnp.array([0.5, 1.0, 1.5, 3.0])
  params = {'kernel': radii * steps.normal(rng, (16, 4)), 'bias': jnp.zeros(4)}
  target = steps.normal(rng, (NUM_STEPS, 16, 4))
  tx = transforms.hq(optax.sgd(0.3, momentum=0.5), recipe)
  step = jit(tx.update)
  state = tx.init(params)
  found = [(params, state)]
  for t in range(NUM_STEPS):
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
  threshold = thresholds.get_thresholds({'w': w}, sparsity)['w']
  codes = ternary.get_codes(w, thresholds.keep_mask(w, threshold))
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
  ramp = RECIPE.get_ramp(RECIPE.sparsity)
  # Stages end with the updates 4 and 7.
  for t in (4, 7):
    np.testing.assert_allclose(_distance(latents[t], ramp(t)), 0, atol=1e-6)
  for t in (3, 5, 6, 8):
    assert _distance(latents[t], max(ramp(t), 0.25)) > 1e-3


@pytest.mark.parametrize(
  ('switch', 'field'),
  [
    ('project', 'radii'),
    ('prune', 'prune_count'),
    ('reinit', 'reinit_count'),
    ('straight_through', 'thresholds'),
  ],
)
def test_a_part_that_is_off_leaves_no_state(switch, field):
  for recipe, is_there in ((RECIPE, True), (_without(switch), False)):
    state = _run(recipe)[-1][1]
    assert (optax.tree.get(state, field) is not None) == is_there


def test_tangent_off():
  # Momentum holds what the optimizer was given: no radial part at first.
  for recipe, is_tangent in ((RECIPE, True), (_without('tangent'), False)):
    (params, _), (_, state) = _run(recipe)[:2]
    momentum = optax.tree.get(state, 'trace')['kernel']
    radial = jnp.sum(momentum * sphere.normalize(params['kernel']), 0)
    assert bool((jnp.abs(radial) < 1e-5).all()) == is_tangent


def test_project_off():
  norms = [sphere.norms(w) for w in _latents(_without('project'))]
  assert float(jnp.abs(norms[1] / norms[0] - 1).min()) > 1e-3


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
  # Full reinitialization zeroes at the ends of stages, and nothing else does.
  zeros = _zeros(_without('prune'))
  assert [zeros[t] for t in (2, 3, 5, 6)] == [0, 0, 0, 0]
  assert zeros[4] == 41 and zeros[7] == 48


def test_reinit_off():
  recipe = _without('reinit')
  latents = _latents(recipe)[1:]
  for t in (4, 7):
    assert _distance(latents[t], recipe.get_ramp(recipe.sparsity)(t)) > 1e-2
  assert _zeros(recipe)[2:] == _zeros(RECIPE)[2:]


def test_straight_through_off():
  recipe = _without('straight_through')
  params, state = _run(recipe)[-1]
  np.testing.assert_allclose(
    params['kernel'], state.latents['kernel'], rtol=1e-5, atol=1e-6
  )
  assert len(np.unique(np.abs(params['kernel'][:, 0]))) > 3
  found = _finalize(state, params, recipe)['kernel']
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


@pytest.mark.parametrize('num_steps', [1, 2, 9])
def test_the_last_step_of_the_ramp_is_at_the_full_sparsity(num_steps):
  recipe = transforms.Recipe(
    sparsity=0.75, begin_step=3, prune_steps=num_steps, num_stages=1
  )
  ramp = recipe.get_ramp(recipe.sparsity)
  assert ramp(2) == 0
  assert ramp(3 + num_steps - 1) == 0.75
  if num_steps > 1:
    np.testing.assert_allclose(ramp(3), 0.6, rtol=1e-6)
    assert ramp(3 + num_steps - 2) < 0.75


def test_a_ramp_may_begin_above_its_end():
  # The default beginning, 0.6, with a target below it.
  ramp = transforms.Recipe(sparsity=0.2, prune_steps=4).get_ramp(0.2)
  assert [float(ramp(t)) for t in (0, 4)] == [float(np.float32(0.2))] * 2


# The first ternary step comes from dense weights; see `straight_through`.
@pytest.mark.parametrize(
  ('recipe', 'counts'), [(RECIPE, (9, 10)), (RAMP, (4, 7, 10))]
)
def test_finalize_is_the_parameters(recipe, counts):
  for t in counts:
    params, state = _run(recipe, compiling.full_jit)[t]
    for finalize in (_finalize, transforms.finalize):  # Compiled or not.
      found = finalize(state, params, recipe)
      np.testing.assert_array_equal(found['bias'], params['bias'])
      codes, scale = found['kernel']
      assert codes.dtype == jnp.int8 and scale.dtype == jnp.float32
      np.testing.assert_array_equal(params['kernel'], codes * scale)


def test_finalize_uses_the_stored_thresholds():
  # Refreshed once, at update 0: by the end the number of zeros has drifted.
  recipe = transforms.Recipe(sparsity=0.75, refresh_steps=1000)
  params, state = _run(recipe)[-1]
  codes, scale = _finalize(state, params, recipe)['kernel']
  assert int((codes == 0).sum()) != 48
  np.testing.assert_array_equal(params['kernel'], codes * scale)


def test_the_last_update_is_at_the_exact_sparsity():
  recipe = transforms.Recipe(sparsity=0.75, refresh_steps=1000, end_step=9)
  zeros = _zeros(recipe)
  assert zeros[0] == zeros[8] == 48
  assert zeros[7] != 48


@pytest.mark.parametrize('num_updates', [0, 1, 5, 8])
def test_finalize_before_the_ternary_stage_rounds_the_latents(num_updates):
  params, state = _run(RECIPE)[num_updates]
  codes, scale = _finalize(state, params, RECIPE)['kernel']
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
    codes = _finalize(state, params, recipe)['kernel'].codes
    zeros[project] = (codes == 0).tolist()
  assert zeros[True] == [[False, False], [True, True]]
  assert zeros[False] == [[False, True], [False, True]]


def test_a_state_inside_others_is_found():
  params, state = _run(RECIPE)[-1]
  nested = (optax.EmptyState(), {'inside': [state]})
  jax.tree.map(
    np.testing.assert_array_equal,
    _finalize(nested, params, RECIPE),
    _finalize(state, params, RECIPE),
  )
  found = transforms.latents(nested, params)
  assert found['kernel'] is state.latents['kernel']
  assert found['bias'] is params['bias']


def test_without_latents_there_is_an_error():
  params = {'kernel': jnp.ones((2, 2))}
  state = optax.adam(0.1).init(params)
  with pytest.raises(ValueError, match='holds no latents'):
    transforms.latents(state, params)
  with pytest.raises(ValueError, match='holds no latents'):
    transforms.finalize(state, params, RECIPE)


def test_finalize_refuses_what_the_state_was_not_made_with():
  params, state = _run(RECIPE)[-1]
  recipe = dataclasses.replace(RECIPE, sparsity=0.5, scope='2:4')
  with pytest.raises(ValueError, match=r"recipe\.scope is '2:4', wanted that"):
    transforms.finalize(state, params, recipe)
  message = r'layer_axes of kernel are \(0,\), wanted those of hq'
  with pytest.raises(ValueError, match=message):
    transforms.finalize(state, params, RECIPE, channel_axis=0)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    *(
      ({name: value}, f'{name} is {value}, wanted')
      for name, values in {
        'sparsity': (1.0, -0.1, float('nan')),
        'initial_sparsity': (1.0, -0.1),
        'reinit_strength': (1.1, -0.1),
        'begin_step': (-1,),
        'prune_steps': (-1,),
        'num_stages': (0, 7),
        'refresh_steps': (0,),
        'end_step': (7,),
      }.items()
      for value in values
    ),
    ({'prune_steps': 10.5}, 'prune_steps is 10.5, wanted'),
    ({'sparsity': '0.5'}, "sparsity is '0.5', wanted"),
    ({'sparsity': {}}, 'sparsity is {}, wanted'),
    (
      {'prune_gradients': 'dense'},
      "prune_gradients is 'dense', wanted one of: masked, straight_through",
    ),
    ({'scope': 'row'}, "scope is 'row', wanted layer, tree, channel, or N:M"),
    ({'scope': '2:4'}, 'sparsity is 0.75, wanted 0.5, that of scope 2:4'),
    ({'distribution': 'even'}, "distribution is 'even', wanted one of: unif"),
    ({'ramp': 'square'}, "ramp is 'square', wanted one of: one_shot, linear"),
    ({'sparsity': {'a': 1.5}}, 'sparsity is 1.5, wanted a fraction'),
    (
      {'sparsity': {'a': 0.5}, 'distribution': 'erdos_renyi_kernel'},
      "distribution is 'erdos_renyi_kernel', wanted uniform",
    ),
    ({'sparsity': {'a': 0.5}, 'scope': 'tree'}, "scope is 'tree', wanted lay"),
    (
      {'distribution': 'erdos_renyi_kernel', 'scope': 'tree'},
      "scope is 'tree', wanted layer or channel",
    ),
    ({'ramp': 'staged', 'reinit': False, 'num_stages': 7}, 'num_stages is 7'),
  ],
)
def test_recipe_refuses(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(RECIPE, **changes)


def test_a_recipe_with_a_map_is_hashed_and_compared_by_value():
  values = {'a': 0.5, '.*': 0.75}
  one, same = (transforms.Recipe(sparsity=values) for _ in range(2))
  assert one == same and hash(one) == hash(same)
  other = transforms.Recipe(sparsity={'a': 0.5, '.*': 0.8})
  assert one != other and hash(one) != hash(other)
  # The caller's own may change afterwards.
  values['a'] = 0.25
  assert one == same


def _two_layers(rng):
  return {
    'a': {'kernel': steps.normal(rng, (16, 4))},
    'b': {'kernel': 5 * steps.normal(rng, (64, 8))},
  }


def _first_step(params, recipe, **kwargs):
  """Parameters and codes after one step, from gradients of zero."""
  tx = transforms.hq(optax.sgd(0.1), recipe, **kwargs)
  zero = jax.tree.map(jnp.zeros_like, params)
  updates, state = jax.jit(tx.update)(zero, tx.init(params), params)
  params = optax.apply_updates(params, updates)
  return params, transforms.finalize(state, params, recipe)


def _num_kept(params):
  return [int((layer['kernel'] != 0).sum()) for layer in params.values()]


@pytest.mark.parametrize('phase', ['prune', 'ternary'])
@pytest.mark.parametrize(
  ('changes', 'wanted'),
  [
    ({'sparsity': 0.75}, [16, 128]),
    pytest.param(
      {'sparsity': {'a/kernel': 0.25, 'b/.*': 0.875}},
      [48, 64],
      marks=pytest.mark.slow,
    ),
    # eps (20 / 64) and eps (72 / 512) of each, eps = 144 / (20 + 72).
    pytest.param(
      {'sparsity': 0.75, 'distribution': 'erdos_renyi_kernel'},
      [31, 113],
      marks=pytest.mark.slow,
    ),
    ({'sparsity': 0.5, 'scope': '2:4'}, [32, 256]),
    pytest.param(
      {'sparsity': 0.75, 'scope': 'channel'},
      [16, 128],
      marks=pytest.mark.slow,
    ),
    # Without the sphere, the second kernel is five times as large: of the
    # 432 largest magnitudes, few are in the first.
    (
      {'sparsity': 0.25, 'scope': 'tree', 'project': False, 'reinit': False},
      [13, 419],
    ),
  ],
  ids=['uniform', 'map', 'erdos_renyi_kernel', '2:4', 'channel', 'tree'],
)
def test_how_many_are_kept(changes, wanted, phase, rng):
  recipe = transforms.Recipe(
    prune_steps=1 if phase == 'prune' else 0, num_stages=1, **changes
  )
  params, _ = _first_step(_two_layers(rng), recipe)
  assert _num_kept(params) == wanted
  if changes.get('scope') == 'channel':
    assert ((params['b']['kernel'] != 0).sum(0) == 16).all()
  if changes.get('scope') == '2:4':
    groups = (np.asarray(params['b']['kernel']) != 0).reshape(16, 4, 8)
    assert (groups.sum(1) == 2).all()


@pytest.mark.parametrize('scope', ['layer', 'tree', 'channel'])
def test_no_kernel_loses_its_last_weight(scope, rng):
  params = _two_layers(rng) | {'one': {'kernel': jnp.full((1, 1), 1e-6)}}
  recipe = transforms.Recipe(sparsity=0.999, scope=scope, project=False)
  got, finalized = _first_step(params, recipe)
  per_channel = {'layer': [1, 1, 1], 'tree': [1, 1, 1], 'channel': [4, 8, 1]}
  assert _num_kept(got) == per_channel[scope]
  # The one-element kernel is its own ternary point, scale and all.
  codes, scale = finalized['one']['kernel']
  assert codes.tolist() == [[1]]
  np.testing.assert_allclose(scale, [[1e-6]], rtol=2**-11)


@pytest.mark.slow
def test_ramps(rng):
  zeros = {}
  for ramp in ('one_shot', 'linear', 'cubic', 'staged'):
    recipe = dataclasses.replace(
      RECIPE, ramp=ramp, reinit=False, num_stages=3, initial_sparsity=0.25
    )
    zeros[ramp] = _zeros(recipe)[2:8]
  assert zeros == {
    'one_shot': [48] * 6,
    # 0.25 + 0.1 t of 64.
    'linear': [16, 22, 29, 35, 42, 48],
    'cubic': [16, 32, 41, 46, 48, 48],
    # 0.75 - 0.5 (1 - i / 2)^3.
    'staged': [16, 16, 44, 44, 48, 48],
  }


def test_a_straight_through_ramp_is_ternary_from_its_beginning():
  assert RAMP.ternary_begin_step == 2 and RECIPE.ternary_begin_step == 8
  assert optax.tree.get(_run(RAMP)[-1][1], 'prune_count') is None
  # The same cubic ramp as that of the masked weights.
  assert _zeros(RAMP) == [0, 0, 16, 32, 41, 46, 48, 48, 48, 48]
  ramp = RAMP.get_ramp(0.75)
  assert _zeros(RAMP)[2:] == [round(64 * float(ramp(t))) for t in range(2, 10)]
  for t, (params, _) in enumerate(_run(RAMP)[1:]):
    for w in np.abs(params['kernel']).T:
      if t >= 2:  # A channel has one magnitude, and may have lost it.
        assert len(np.unique(w[w > 0])) <= 1
      else:
        assert len(np.unique(w)) == 16


def test_a_straight_through_ramp_is_exact_at_each_refresh():
  # At the updates 2, 5 and 8, and after the last one; in between thresholds
  # stay where they are, and the zeros follow the latents.
  recipe = dataclasses.replace(
    RAMP, refresh_steps=3, reinit=False, end_step=NUM_STEPS
  )
  zeros = _zeros(recipe)
  assert [zeros[t] for t in (0, 1, 2, 5, 8, 9)] == [0, 0, 16, 46, 48, 48]
  assert zeros[3] != 32 and zeros[4] != 41


def test_pruned_latents_go_on_moving_in_a_straight_through_ramp():
  lost, stuck = {}, {}
  for recipe in (RECIPE, RAMP):
    recipe = dataclasses.replace(recipe, reinit=False)
    zeros = [np.asarray(p['kernel'] == 0) for p, _ in _run(recipe)[1:]]
    latents = [np.asarray(w) for w in _latents(recipe)[1:]]
    name = recipe.prune_gradients
    # Weights that are zero at an update of the ramp, and not at the next.
    lost[name] = sum((zeros[t] & ~zeros[t + 1]).sum() for t in range(2, 7))
    stuck[name] = sum(
      (zeros[t] & (latents[t] == latents[t + 1])).sum() for t in range(2, 7)
    )
  assert lost['masked'] == 0 and lost['straight_through'] > 5
  # 16 + 32 + 41 + 46 + 48 zeros, of which every latent is zero, or moves.
  assert stuck == {'masked': 183, 'straight_through': 0}


@pytest.mark.parametrize(
  ('changes', 'begin_step'),
  [
    ({}, 2),
    ({'prune': False}, 8),
    ({'straight_through': False}, 8),
    ({'prune_steps': 0}, 2),
    ({'prune_gradients': 'masked'}, 8),
  ],
)
def test_when_the_parameters_are_ternary(changes, begin_step):
  recipe = dataclasses.replace(RAMP, **changes)
  assert recipe.ternary_begin_step == begin_step
  assert recipe.is_ramp_ternary == (not changes)


def _count_kept(params, recipe, num_steps, factors=None):
  """Weights that live in each kernel after each step, without gradients."""
  tx = transforms.hq(optax.sgd(0.1), recipe)
  zero = jax.tree.map(jnp.zeros_like, params)
  quick = {'xla_backend_optimization_level': 0}  # Compiles faster so.
  step = jax.jit(tx.update, compiler_options=quick)
  state, found = tx.init(params), []
  for t in range(num_steps):
    if t in (factors or {}):
      state = transforms.with_density_scale(state, factors[t])
    updates, state = step(zero, state, params)
    params = optax.apply_updates(params, updates)
    found.append(_num_kept(params))
  return found


@pytest.mark.slow
def test_a_straight_through_ramp_in_groups(rng):
  recipe = transforms.Recipe(
    sparsity=0.5,
    scope='2:4',
    initial_sparsity=0.0,
    prune_steps=3,
    num_stages=1,
    refresh_steps=1,
    ramp='linear',
    prune_gradients='straight_through',
  )
  # Of 4 weights so many: 4, 3 and 2.
  found = _count_kept(_two_layers(rng), recipe, 4)
  assert found == [[64, 512], [48, 384], [32, 256], [32, 256]]


def test_the_density_scale_acts_after_a_straight_through_ramp(rng):
  recipe = transforms.Recipe(
    sparsity=0.8,
    initial_sparsity=0.3,
    prune_steps=2,
    num_stages=1,
    refresh_steps=1,
    prune_gradients='straight_through',
  )
  params = {'a': {'kernel': steps.normal(rng, (20, 5))}}
  found = _count_kept(params, recipe, 4, {2: 2.0, 3: 0.5})
  assert found == [[70], [20], [40], [10]]


@pytest.mark.parametrize(
  ('leaf', 'message'),
  [
    (jnp.zeros((3, 2), jnp.int32), 'a is int32, not floating point'),
    (jnp.zeros(()), r'a has shape \(\), fewer than 2 axes'),
    (jnp.zeros((3,)), r'a has shape \(3,\), fewer than 2 axes'),
    (jnp.zeros((0, 2)), r'a has shape \(0, 2\), no elements'),
  ],
)
def test_leaves_that_cannot_be_quantized(leaf, message):
  params = {'a': leaf, 'kernel': jnp.ones((2, 2))}
  tx = transforms.hq(optax.sgd(0.1), transforms.Recipe(), 'a|kernel')
  with pytest.raises(ValueError, match=f'select: {message}, wanted'):
    tx.init(params)
  # By default they are left alone.
  state = transforms.hq(optax.sgd(0.1), transforms.Recipe()).init(params)
  assert transforms.latents(state, params)['a'] is leaf


def test_an_empty_tree_is_refused():
  tx = transforms.hq(optax.sgd(0.1), transforms.Recipe())
  with pytest.raises(ValueError, match='one of: an empty tree'):
    tx.init({})


def test_a_map_that_does_not_fit_the_kernels(rng):
  for sparsity, message in (
    ({'a/kernel': 0.5}, 'sparsity has no value for b/kernel'),
    ({'.*': 0.5, 'c/.*': 0.5}, r"sparsity: 'c/\.\*' matches no kernel"),
    ({'(': 0.5}, r"sparsity: '\(' is no regular expression"),
  ):
    recipe = transforms.Recipe(sparsity=sparsity)
    with pytest.raises(ValueError, match=message):
      transforms.hq(optax.sgd(0.1), recipe).init(_two_layers(rng))


@pytest.mark.slow
def test_a_schedule_free_optimizer_inside(rng):
  # Its own averaged weights are found in the state, and can be made ternary.
  inner = optax.contrib.schedule_free(optax.sgd(0.1), learning_rate=0.1)
  recipe = transforms.Recipe(sparsity=0.5)
  tx = transforms.hq(inner, recipe)
  params = _two_layers(rng)
  state = tx.init(params)
  step = jax.jit(tx.update)
  for _ in range(3):
    updates, state = step(params, state, params)
    params = optax.apply_updates(params, updates)
  latents = transforms.latents(state, params)
  averaged = optax.contrib.schedule_free_eval_params(
    state.latent_opt_state[1], latents
  )
  assert jax.tree.structure(averaged) == jax.tree.structure(params)
  for layer in transforms.finalize(state, params, recipe).values():
    codes, scale = layer['kernel']
    assert abs((codes == 0).mean() - 0.5) < 0.1
    assert scale.dtype == jnp.float32


def test_a_straight_through_ramp_ends_exactly_however_rare_refreshes_are(rng):
  recipe = transforms.Recipe(
    sparsity=0.75, prune_steps=3, num_stages=1, refresh_steps=1000
  )
  params = {'a': {'kernel': steps.normal(rng, (20, 4))}}
  found = _count_kept(params, recipe, 4, {})
  # At the ramp's beginning, and, from its last step on, at its end.
  assert found == [[32], [32], [20], [20]]
