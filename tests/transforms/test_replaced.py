"""Parameters that are replaced between two updates."""

from flax.training import train_state
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import baselines
from hq_jax import transforms
from hq_jax.core import sphere
from tests.transforms import steps
from tests.transforms import table

# One in each phase of a run, the number of updates after which it is.
PHASES = {
  'dense': (0, transforms.Recipe(sparsity=0.6, begin_step=100)),
  'dense_later': (3, transforms.Recipe(sparsity=0.6, begin_step=100)),
  'ternary_first': (0, transforms.Recipe(sparsity=0.6)),
  'ternary': (3, transforms.Recipe(sparsity=0.6)),
  'pruned': (
    3,
    transforms.Recipe(
      sparsity=0.6, prune_steps=20, num_stages=2, prune_gradients='masked'
    ),
  ),
  'ramp': (3, transforms.Recipe(sparsity=0.6, prune_steps=20, num_stages=2)),
}
every_phase = pytest.mark.parametrize('phase', PHASES)


def _two(rng, scale=1.0):
  return {
    'a': {'kernel': scale * steps.normal(rng, (16, 8))},
    'b': {
      'kernel': scale * steps.normal(rng, (8, 4)),
      'bias': steps.normal(rng, (4,)),
    },
  }


def _zero(params):
  return jax.tree.map(jnp.zeros_like, params)


def _count(state):
  return int(optax.tree.get(state, 'replaced_count'))


def _begin(rng, phase, **options):
  """The transformation, and parameters and state in that phase."""
  num_steps, recipe = PHASES[phase]
  tx = transforms.hq(optax.sgd(0.1, momentum=0.9), recipe, **options)
  params = _two(rng)
  found = [(params, tx.init(params)), *steps.train(rng, tx, params, num_steps)]
  # Momentum would move them: of the optimizer's own, nothing is forgotten.
  params, state = found[-1]
  return tx, params, optax.tree.set(state, trace=_zero(params))


@every_phase
def test_everything_starts_again_from_other_parameters(phase, rng):
  tx, params, state = _begin(rng, phase)
  assert _count(state) == 0
  new = _two(rng, scale=7.0)
  step = steps.make_step(tx)
  params, state = step(new, state, _zero(new))
  assert _count(state) == 1
  latents = transforms.latents(state, params)
  for key in 'ab':
    np.testing.assert_allclose(
      latents[key]['kernel'], new[key]['kernel'], rtol=1e-5
    )
    # What the model sees has their radii too, to the bits of a scale.
    norms = sphere.norms(params[key]['kernel']) / sphere.norms(
      new[key]['kernel']
    )
    np.testing.assert_allclose(norms[norms > 0], 1, rtol=2**-10)
  # From here on they are what the transformation made.
  for _ in range(3):
    grads = jax.tree.map(lambda p: steps.normal(rng, p.shape), params)
    params, state = step(params, state, grads)
    assert _count(state) == 1
  norms = sphere.norms(transforms.latents(state, params)['a']['kernel'])
  np.testing.assert_allclose(norms, sphere.norms(new['a']['kernel']), rtol=1e-5)


@pytest.mark.parametrize('phase', ['dense_later', 'ternary'])
def test_what_is_quantized_is_the_other_kernels_not_the_old_ones(phase, rng):
  # Between two refreshes of thresholds: those of the old kernels would leave
  # none, or all, of the new weights.
  tx, _, state = _begin(rng, phase)
  new = jax.tree.map(lambda p: p.at[..., 0].multiply(100), _two(rng))
  moved, after = steps.make_step(tx)(new, state, _zero(new))
  fresh, _ = steps.make_step(tx)(new, tx.init(new), _zero(new))
  zeros = lambda tree: (tree['a']['kernel'] == 0).mean()
  assert _count(after) == 1
  assert zeros(moved) == pytest.approx(float(zeros(fresh)), abs=1e-6)


@every_phase
def test_only_the_kernel_that_was_replaced_starts_again(phase, rng):
  tx, params, state = _begin(rng, phase)
  before = transforms.latents(state, params)
  step = steps.make_step(tx)
  _, wanted = step(params, state, _zero(params))
  mixed = params | {'a': {'kernel': 3.0 * params['a']['kernel']}}
  mixed, state = step(mixed, state, _zero(params))
  assert _count(state) == 1
  latents = transforms.latents(state, mixed)
  np.testing.assert_array_equal(
    latents['b']['kernel'], transforms.latents(wanted, params)['b']['kernel']
  )
  # Dense latents of the other are kept where parameters are ternary.
  assert (before['b']['kernel'] != 0).mean() > 0.3
  np.testing.assert_allclose(
    sphere.norms(latents['a']['kernel']),
    3 * sphere.norms(params['a']['kernel']),
    rtol=1e-3,
  )


def _swap(params):
  """What people do between two updates, and to which leaves."""
  kernel = params['a']['kernel']
  one = kernel.at[3, 2].add(0.01)
  return {
    'one_weight': one,
    'clipped': jnp.clip(kernel, -0.5, 0.5),
    'shrunk': 0.99 * kernel,
    'averaged': 0.9 * kernel + 0.1,
    'negated': -kernel,
    'zeroed': jnp.zeros_like(kernel),
  }


def test_small_changes_are_noticed_too(rng):
  tx, params, state = _begin(rng, 'dense_later')
  step = steps.make_step(tx)
  for how, kernel in _swap(params).items():
    _, after = step(params | {'a': {'kernel': kernel}}, state, _zero(params))
    assert _count(after) == 1, how


def test_a_nan_is_not_followed(rng):
  tx, params, state = _begin(rng, 'ternary')
  step = steps.make_step(tx)
  broken = params['a']['kernel'].at[0, 0].set(jnp.nan)
  _, after = step(params | {'a': {'kernel': broken}}, state, _zero(params))
  assert int(after.skipped_count) == 1
  jax.tree.map(np.testing.assert_array_equal, after.latents, state.latents)


@pytest.mark.parametrize('phase', ['dense', 'ternary', 'ramp'])
def test_raise_names_the_leaves(phase, rng, capfd):
  tx, params, state = _begin(rng, phase, replaced='raise')
  step = steps.make_step(tx)
  params, state = step(params, state, _zero(params))
  new = params | {'a': {'kernel': params['a']['kernel'] + 1}}
  with pytest.raises(
    jax.errors.JaxRuntimeError, match=r'ValueError: .*a/kernel \(1 of 2 kern'
  ):
    jax.block_until_ready(step(new, state, _zero(params)))
  capfd.readouterr()


def test_raise_under_vmap_is_quiet_where_nothing_was_replaced(rng, capfd):
  tx = transforms.hq(
    optax.sgd(0.1), transforms.Recipe(sparsity=0.5), replaced='raise'
  )
  params = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), _two(rng))
  state = jax.vmap(tx.init)(params)
  step = jax.jit(jax.vmap(steps.make_step(tx, jit=lambda f, **_: f)))
  for _ in range(2):
    params, state = jax.block_until_ready(step(params, state, params))
  # One of the two runs alone.
  new = params | {'a': {'kernel': params['a']['kernel'].at[1, 0, 0].add(9)}}
  with pytest.raises(jax.errors.JaxRuntimeError, match='a/kernel'):
    jax.block_until_ready(step(new, state, params))
  capfd.readouterr()


@pytest.mark.parametrize('phase', ['dense', 'ternary'])
def test_ignore_leads_them_back(phase, rng):
  tx, params, state = _begin(rng, phase, replaced='ignore')
  step = steps.make_step(tx)
  wanted, _ = step(params, state, _zero(params))
  got, state = step(_two(rng, scale=5.0), state, _zero(params))
  assert _count(state) == 0
  np.testing.assert_allclose(
    got['a']['kernel'], wanted['a']['kernel'], rtol=1e-5, atol=1e-5
  )


def test_an_unknown_policy_is_refused():
  for make in (
    lambda **kw: transforms.hq(optax.sgd(0.1), transforms.Recipe(), **kw),
    lambda **kw: transforms.straight_through(
      optax.sgd(0.1), transforms.identity(), **kw
    ),
  ):
    with pytest.raises(ValueError, match="replaced is 'skip', wanted one of"):
      make(replaced='skip')


@pytest.mark.parametrize(
  'quantizer',
  [transforms.identity(), baselines.binary(), baselines.twn()],
  ids=['identity', 'binary', 'twn'],
)
def test_any_quantizer_that_can_say_what_it_made(quantizer, rng):
  tx = transforms.straight_through(optax.sgd(0.0), quantizer)
  step, params = steps.make_step(tx), _two(rng)
  state = tx.init(params)
  for num_updates in range(3):
    new = _two(rng, scale=1.0 + num_updates)
    params, state = step(new, state, _zero(new))
    assert _count(state) == num_updates + 1
    np.testing.assert_array_equal(
      state.latents['a']['kernel'], new['a']['kernel']
    )
    params, state = step(params, state, _zero(new))
    assert _count(state) == num_updates + 1


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32'])
@pytest.mark.parametrize('name', ['straight_through', 'hq'])
def test_in_any_dtype_it_is_noticed_once(name, dtype):
  params = table.make_params(dtype)
  tx = table.make(name, optax.sgd(0.0))
  step = steps.make_step(tx)
  zero, state = _zero(params), tx.init(params)
  for num_updates in range(1, 10):
    if num_updates == 5:
      params = jax.tree.map(lambda p: 1.5 * p, params)
    params, state = step(params, state, zero)
    assert _count(state) == int(num_updates >= 5)


def test_project_to_sphere_alone_takes_the_new_radii(rng):
  tx = transforms.project_to_sphere()
  params = {'kernel': steps.normal(rng, (16, 8))}
  state = tx.init(params)
  new = {'kernel': params['kernel'].at[:, 3].multiply(5.0)}
  move = {'kernel': steps.normal(rng, (16, 8))}
  got, state = steps.make_step(tx)(new, state, move)
  np.testing.assert_allclose(
    sphere.norms(got['kernel']), sphere.norms(new['kernel']), rtol=1e-5
  )
  # A drift of rounding is none: the radius of the first step stays.
  near = {'kernel': got['kernel'] * (1 + 1e-6)}
  _, after = steps.make_step(tx)(near, state, move)
  np.testing.assert_array_equal(after.radii['kernel'], state.radii['kernel'])


def test_pretrained_weights_in_a_train_state(rng):
  tx = transforms.hq(optax.adam(1e-3), transforms.Recipe(sparsity=0.5))
  state = train_state.TrainState.create(apply_fn=None, params=_two(rng), tx=tx)
  pretrained = jax.tree.map(lambda p: 100 + p, _two(rng))
  state = state.replace(params=pretrained)
  state = state.apply_gradients(grads=_zero(pretrained))
  for key in 'ab':
    kernel, wanted = state.params[key]['kernel'], pretrained[key]['kernel']
    assert float(kernel.mean()) == pytest.approx(
      float(wanted.mean()) / 2**0.5, rel=0.02
    )


@pytest.mark.parametrize(
  ('dtype', 'of_gradients'),
  [
    ('bfloat16', 'float32'),
    ('float32', 'float32'),
    pytest.param('bfloat16', 'bfloat16', marks=pytest.mark.slow),
    pytest.param('float16', 'float16', marks=pytest.mark.slow),
    pytest.param('float16', 'float32', marks=pytest.mark.slow),
    pytest.param('float32', 'bfloat16', marks=pytest.mark.slow),
  ],
)
def test_a_run_is_never_taken_for_a_replacement(dtype, of_gradients, rng):
  # Through all phases, with signs that flip and radii of all sizes, of which
  # large and small are added in each channel.
  recipe = transforms.Recipe(
    sparsity=0.6, begin_step=10, prune_steps=30, refresh_steps=7, num_stages=3
  )
  tx = optax.MultiSteps(
    transforms.hq(optax.adamw(0.3, weight_decay=0.1), recipe), 2
  ).gradient_transformation()
  sizes = 10.0 ** jnp.linspace(-3, 3, 8)
  params = {
    'bias': jnp.zeros(8, dtype),
    'kernel': (sizes * steps.normal(rng, (16, 8))).astype(dtype),
  }
  draw = lambda p: steps.normal(rng, (120, *p.shape), of_gradients)
  found, state = table.scan(tx, params, jax.tree.map(draw, params))
  assert _count(state) == 0
  signs = np.sign(np.asarray(found['kernel'], np.float32))
  assert (signs[1:] * signs[:-1] < 0).sum() > 100
  assert (signs[-1] == 0).mean() == pytest.approx(0.6, abs=0.02)
