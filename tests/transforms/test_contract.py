"""What every transform owes to optax, in one table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import baselines
from hq_jax import transforms
from hq_jax.core import schedules

P = jax.sharding.PartitionSpec

# Each around an optimizer, with stages that change within six steps.
TRANSFORMS = {
  'tangent': lambda inner, **kw: optax.chain(transforms.tangent(**kw), inner),
  'project_to_sphere': lambda inner, **kw: optax.chain(
    inner, transforms.project_to_sphere(**kw)
  ),
  'prune': lambda inner, **kw: optax.chain(
    inner,
    transforms.prune(
      schedules.sparsity_ramp(0.2, 0.6, begin_step=1, ramp_steps=2),
      begin_step=1,
      end_step=4,
      refresh_steps=2,
      **kw,
    ),
  ),
  'reinit': lambda inner, **kw: optax.chain(
    inner, transforms.reinit((1, 3), 0.5, lambda step: 0.5, **kw)
  ),
  'straight_through': lambda inner, **kw: transforms.straight_through(
    inner, transforms.ternary(0.5, begin_step=2, refresh_steps=2), **kw
  ),
  'hq': lambda inner, **kw: transforms.hq(
    inner,
    transforms.Recipe(
      sparsity=0.6,
      prune_steps=2,
      prune_gradients='masked',  # It has a state that no other way has.
      num_stages=2,
      refresh_steps=2,
    ),
    **kw,
  ),
}
FIELDS = {
  'tangent': [],
  'project_to_sphere': ['radii'],
  'prune': ['prune_count'],
  'reinit': ['reinit_count'],
  'straight_through': [
    'density_scale',
    'latents',
    'scales',
    'skipped_count',
    'ternary_count',
    'thresholds',
  ],
  'hq': [
    'density_scale',
    'latents',
    'prune_count',
    'quantizer_state',
    'radii',
    'reinit_count',
    'scales',
    'skipped_count',
    'ternary_count',
    'thresholds',
  ],
}
NUM_STEPS = 6

every_transform = pytest.mark.parametrize('name', TRANSFORMS)


def _sgd(learning_rate=0.1):
  return optax.sgd(learning_rate, momentum=0.9)


def _params(dtype=jnp.float32):
  rng = np.random.default_rng(3)
  shape = (16, 8)
  return {
    'bias': jnp.asarray(rng.normal(size=shape[-1:]), dtype),
    'kernel': jnp.asarray(rng.normal(size=shape), dtype),
  }


def _gradients(params):
  """The gradients of every step, stacked."""
  rng = np.random.default_rng(4)
  return jax.tree.map(
    lambda p: jnp.asarray(rng.normal(size=(NUM_STEPS, *p.shape)), p.dtype),
    params,
  )


def _at(gradients, step):
  return jax.tree.map(lambda g: g[step], gradients)


def _make_step(tx, **extra_args):
  def step(params, state, grads):
    updates, state = tx.update(grads, state, params, **extra_args)
    return optax.apply_updates(params, updates), state

  return step


def _run(tx, params, gradients, jit=jax.jit, **extra_args):
  """The parameters after each step, and the last state."""
  step = jit(_make_step(tx, **extra_args))
  state, found = tx.init(params), []
  for t in range(len(gradients['bias'])):
    params, state = step(params, state, _at(gradients, t))
    found.append(params)
  return found, state


@functools.cache
def _plain(name, dtype=jnp.float32):
  """The run that the others are compared with, and how often it was traced."""
  params = _params(dtype)
  traces = []

  def jit(step):
    return jax.jit(lambda *args: traces.append(1) or step(*args))

  found = _run(TRANSFORMS[name](_sgd()), params, _gradients(params), jit=jit)
  return *found, len(traces)


def _assert_close(got, wanted):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    got,
    wanted,
  )


def _kernels(found):
  return [params['kernel'] for params in found]


@every_transform
def test_something_happens(name):
  params = _params()
  plain, _ = _run(_sgd(), params, _gradients(params), jit=lambda step: step)
  assert not np.allclose(plain[-1]['kernel'], _plain(name)[0][-1]['kernel'])
  # Nothing but the kernel: the bias is the optimizer's own.
  for got, wanted in zip(_plain(name)[0], plain, strict=True):
    _assert_close(got['bias'], wanted['bias'])


@every_transform
def test_jit_equals_eager(name):
  params = _params()
  gradients = jax.tree.map(lambda g: g[:3], _gradients(params))
  eager, _ = _run(
    TRANSFORMS[name](_sgd()), params, gradients, jit=lambda step: step
  )
  _assert_close(eager, _plain(name)[0][:3])


@every_transform
def test_state_is_stable_in_a_scan(name):
  params = _params()
  tx = TRANSFORMS[name](_sgd())
  step = _make_step(tx)

  @jax.jit
  def train(params, state, gradients):
    carry = lambda carry, grads: (step(*carry, grads), carry[0])
    return jax.lax.scan(carry, (params, state), gradients)[0]

  # A scan raises where structure, shape or dtype change.
  last, state = train(params, tx.init(params), _gradients(params))
  _assert_close(last, _plain(name)[0][-1])
  _assert_close(state, _plain(name)[1])


@every_transform
def test_one_trace_for_all_steps(name):
  assert _plain(name)[2] == 1


NESTINGS = {
  'partition': lambda make: optax.partition(
    {'a': make(_sgd()), 'b': optax.set_to_zero()}, {'bias': 'b', 'kernel': 'a'}
  ),
  'multi_transform': lambda make: optax.multi_transform(
    {'a': make(_sgd()), 'b': _sgd()}, {'bias': 'b', 'kernel': 'a'}
  ),
  'inject_hyperparams_chain_masked': lambda make: optax.inject_hyperparams(
    lambda learning_rate: optax.chain(
      optax.clip_by_global_norm(1e6),
      optax.masked(make(_sgd(learning_rate)), {'bias': False, 'kernel': True}),
      optax.scale(1.0),
    )
  )(learning_rate=0.1),
}


def _check_state(name, state):
  for field in FIELDS[name]:
    assert optax.tree.get(state, field) is not None, field
  for field in set(FIELDS[name]) & {'latents', 'radii'}:
    for leaf in jax.tree.leaves(optax.tree.get(state, field)):
      assert leaf.dtype == jnp.float32


def _assert_same(got, wanted, dtype):
  """Close in float32; in bfloat16 but for roundings that choose a neighbour."""
  if dtype == jnp.float32:
    _assert_close(got, wanted)
    return
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    assert a.dtype == jnp.bfloat16
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    assert np.mean(np.abs(a - b) > 0.05) < 0.02


@every_transform
@pytest.mark.parametrize('nesting', NESTINGS)
def test_nesting_changes_nothing(name, nesting):
  params = _params()
  tx = NESTINGS[nesting](TRANSFORMS[name])
  found, state = _run(tx, params, _gradients(params))
  _assert_close(_kernels(found), _kernels(_plain(name)[0]))
  _check_state(name, state)


@pytest.mark.parametrize(
  'dtype', [jnp.float32, jnp.bfloat16], ids=['float32', 'bfloat16']
)
@every_transform
def test_multi_steps(name, dtype):
  params = _params(dtype)
  tx = optax.MultiSteps(TRANSFORMS[name](_sgd()), 2).gradient_transformation()
  gradients = jax.tree.map(lambda g: jnp.repeat(g, 2, 0), _gradients(params))
  found, state = _run(tx, params, gradients)
  _assert_same(found[1::2], _plain(name, dtype)[0], dtype)
  _assert_same(found[2::2], _plain(name, dtype)[0][:-1], dtype)
  _check_state(name, state)


@every_transform
def test_a_gradient_that_is_not_finite_is_skipped(name):
  params = _params()
  tx = optax.apply_if_finite(TRANSFORMS[name](_sgd()), 2)
  insert = lambda g: jnp.concatenate([g[:3], g[:1] * jnp.nan, g[3:]])
  found, state = _run(tx, params, jax.tree.map(insert, _gradients(params)))
  _assert_close(found[3], found[2])
  _assert_close(found[:3] + found[4:], _plain(name)[0])
  _check_state(name, state)


OPTIMIZERS = {
  'adamw': lambda: optax.adamw(0.05, weight_decay=0.1),
  'lion': lambda: optax.lion(0.05),
  'muon': lambda: optax.contrib.muon(0.05),
  'sgd_schedule': lambda: optax.sgd(
    optax.cosine_decay_schedule(0.2, 2 * NUM_STEPS), momentum=0.9, nesterov=True
  ),
  'schedule_free': lambda: optax.contrib.schedule_free(
    optax.sgd(0.2), learning_rate=0.2, b1=0.9
  ),
  'reduce_on_plateau': lambda: optax.chain(
    optax.adam(0.1), optax.contrib.reduce_on_plateau(patience=1, factor=0.5)
  ),
}


@pytest.mark.parametrize(
  'dtype',
  [jnp.float32, pytest.param(jnp.bfloat16, marks=pytest.mark.slow)],
  ids=['float32', 'bfloat16'],
)
@every_transform
@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_around_any_optimizer(name, optimizer, dtype):
  params = _params(dtype)
  gradients = _gradients(params)
  tx = TRANSFORMS[name](OPTIMIZERS[optimizer]())

  def step(carry, grads):
    params, state = carry
    updates, state = tx.update(
      grads, state, params, value=jnp.sum(params['kernel'] ** 2)
    )
    params = optax.apply_updates(params, updates)
    return (params, state), params

  # In a scan: structure, shapes and types of the state stay what they are.
  run = jax.jit(lambda carry: jax.lax.scan(step, carry, gradients))
  (_, state), found = run((params, tx.init(params)))
  _check_state(name, state)
  _check_effect(name, params, found['kernel'], state)
  for leaf in jax.tree.leaves(found):
    assert leaf.dtype == dtype
    assert np.isfinite(np.asarray(leaf, np.float32)).all()
  moved = np.abs(np.asarray(found['bias'][-1] - params['bias'], np.float32))
  assert moved.max() > 0.01


def _check_effect(name, params, kernels, state):
  """What a transform is for, whatever the optimizer."""
  kernels = np.asarray(kernels, np.float32)
  zeros = (kernels == 0).sum((1, 2))
  norms = np.linalg.norm(kernels, axis=1)
  before = np.linalg.norm(np.asarray(params['kernel'], np.float32), axis=0)
  if name == 'prune':
    # Of 128: 20% at 1, 40% and 60% at 2 and 3, where the ramp ends.
    assert zeros[1] == 26 and zeros[3] == 77
  if name in ('project_to_sphere', 'hq'):
    np.testing.assert_allclose(
      norms[-1][norms[-1] > 0], before[norms[-1] > 0], rtol=0.02
    )
  if name in ('straight_through', 'hq'):
    assert all(len(np.unique(abs(w[w != 0]))) <= 1 for w in kernels[-1].T)
    latents = np.asarray(optax.tree.get(state, 'latents')['kernel'])
    assert len(np.unique(np.abs(latents))) > 60
  if name == 'reinit':
    assert (kernels[3] != kernels[0]).any()


def _scale_by_value():
  def update_fn(updates, state, params=None, *, value, **extra_args):
    return jax.tree.map(lambda g: value * g, updates), state

  return optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(), update_fn
  )


@every_transform
def test_extra_args_reach_the_optimizer(name):
  params = _params()
  gradients = jax.tree.map(lambda g: g[:2], _gradients(params))
  tx = TRANSFORMS[name](optax.chain(_scale_by_value(), _sgd()))
  found, _ = _run(
    tx, params, jax.tree.map(lambda g: g / 4, gradients), value=4.0, other=1
  )
  _assert_close(found, _plain(name)[0][:2])


@pytest.mark.parametrize('name', ['straight_through', 'hq'])
def test_an_optimizer_without_extra_args_is_not_given_any(name):
  params = _params()
  sgd = _sgd()
  # In the manner of libraries older than extra args.
  plain = optax.GradientTransformation(
    sgd.init, lambda updates, state, params=None: sgd.update(updates, state)
  )
  tx = TRANSFORMS[name](plain)
  gradients = jax.tree.map(lambda g: g[:1], _gradients(params))
  found, _ = _run(tx, params, gradients, value=4.0)
  _assert_close(found, _plain(name)[0][:1])


@every_transform
def test_params_are_needed(name):
  params = _params()
  tx = TRANSFORMS[name](_sgd())
  with pytest.raises(ValueError, match='params is None, wanted the param'):
    tx.update(params, tx.init(params))


@every_transform
def test_a_selection_of_nothing_is_an_error(name):
  with pytest.raises(ValueError, match=r"'head/\.\*' matches no leaf"):
    TRANSFORMS[name](_sgd(), select='head/.*').init(_params())
  with pytest.raises(ValueError, match='kernels matches no leaf'):
    TRANSFORMS[name](_sgd()).init({'bias': jnp.ones(3)})


@every_transform
def test_selection_by_expression(name):
  params = {'a': _params(), 'b': _params()}
  tx = TRANSFORMS[name](_sgd(), select='a/kernel')
  grads = _at(_gradients(_params()), 0)
  got, state = jax.jit(_make_step(tx))(
    params, tx.init(params), {'a': grads, 'b': grads}
  )
  np.testing.assert_allclose(
    got['b']['kernel'],
    params['b']['kernel'] - 0.1 * grads['kernel'],
    rtol=1e-6,
  )
  for field in set(FIELDS[name]) & {'latents', 'radii'}:
    assert len(jax.tree.leaves(optax.tree.get(state, field))) == 1


@every_transform
def test_shardings_are_kept(name, make_mesh):
  sharding = jax.sharding.NamedSharding(make_mesh(4, 2), P('d0', 'd1'))
  params = _params()
  gradients = jax.tree.map(lambda g: g[:4], _gradients(params))
  tx = TRANSFORMS[name](_sgd())
  sharded = params | {'kernel': jax.device_put(params['kernel'], sharding)}
  found, state = _run(tx, sharded, gradients)
  _assert_close(found, _plain(name)[0][:4])
  same = lambda leaf: leaf.sharding.is_equivalent_to(sharding, 2)
  assert all(map(same, _kernels(found)))
  assert same(optax.tree.get(state, 'trace')['kernel'])
  if 'latents' in FIELDS[name]:
    assert same(optax.tree.get(state, 'latents')['kernel'])


def test_field_names_are_unique():
  states = (
    transforms.ProjectState,
    transforms.PruneState,
    transforms.ReinitState,
    transforms.StraightThroughState,
    transforms.TernaryState,
    baselines.BinaryState,
    baselines.TwnState,
    baselines.UniformState,
    baselines.VectorState,
  )
  names = [name for state in states for name in state._fields]
  assert len(names) == len(set(names))


def test_the_table_holds_every_transform():
  public = {
    name
    for name, value in vars(transforms).items()
    if not name.startswith('_') and callable(value) and name.islower()
  }
  others = {'channel_axis', 'describe', 'finalize', 'kernels', 'latents'}
  others |= {'encode', 'flatten_quantized', 'identity', 'ternary'}
  others |= {'with_density_scale'}
  assert public - others == set(TRANSFORMS)
