"""What every transform owes to optax, in one table."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import baselines
from hq_jax import transforms
from tests.transforms import table

P = jax.sharding.PartitionSpec


@functools.cache
def _plain(name, dtype=jnp.float32):
  """The run that the others are compared with, and how often it was traced."""
  params = table.make_params(dtype)
  traces = []

  def jit(step):
    return jax.jit(lambda *args: traces.append(1) or step(*args))

  found = table.run(
    table.make(name, table.sgd()), params, table.make_gradients(params), jit=jit
  )
  return *found, len(traces)


def _kernels(found):
  return [params['kernel'] for params in found]


@table.every_transform
def test_something_happens(name):
  params = table.make_params()
  plain, _ = table.run(
    table.sgd(), params, table.make_gradients(params), jit=lambda step: step
  )
  assert not np.allclose(plain[-1]['kernel'], _plain(name)[0][-1]['kernel'])
  # Nothing but the kernel: the bias is the optimizer's own.
  for got, wanted in zip(_plain(name)[0], plain, strict=True):
    table.assert_close(got['bias'], wanted['bias'])


@table.every_variant
def test_jit_equals_eager(name):
  params = table.make_params()
  gradients = jax.tree.map(lambda g: g[:3], table.make_gradients(params))
  eager, _ = table.run(
    table.make(name, table.sgd()), params, gradients, jit=lambda step: step
  )
  table.assert_close(eager, _plain(name)[0][:3])


@table.every_variant
def test_state_is_stable_in_a_scan(name):
  params = table.make_params()
  tx = table.make(name, table.sgd())
  found, state = table.scan(tx, params, table.make_gradients(params))
  table.assert_close(table.at(found, -1), _plain(name)[0][-1])
  table.assert_close(state, _plain(name)[1])


@table.every_variant
def test_one_trace_for_all_steps(name):
  assert _plain(name)[2] == 1


NESTINGS = {
  'partition': lambda make: optax.partition(
    {'a': make(table.sgd()), 'b': optax.set_to_zero()},
    {'bias': 'b', 'kernel': 'a'},
  ),
  'multi_transform': lambda make: optax.multi_transform(
    {'a': make(table.sgd()), 'b': table.sgd()}, {'bias': 'b', 'kernel': 'a'}
  ),
  'inject_hyperparams_chain_masked': lambda make: optax.inject_hyperparams(
    lambda learning_rate: optax.chain(
      optax.clip_by_global_norm(1e6),
      optax.masked(
        make(table.sgd(learning_rate)), {'bias': False, 'kernel': True}
      ),
      optax.scale(1.0),
    )
  )(learning_rate=0.1),
}


def _check_state(name, state):
  for field in table.FIELDS.get(name, ()):
    assert optax.tree.get(state, field) is not None, field
  for field in set(table.FIELDS.get(name, ())) & {'latents', 'radii'}:
    for leaf in jax.tree.leaves(optax.tree.get(state, field)):
      assert leaf.dtype == jnp.float32
  # What comes through a wrapper is what the transformation made.
  if 'replaced_count' in table.FIELDS.get(name, ()):
    assert int(optax.tree.get(state, 'replaced_count')) == 0


def _assert_same(got, wanted, dtype):
  """Close in float32; in bfloat16 but for roundings that choose a neighbour."""
  if dtype == jnp.float32:
    table.assert_close(got, wanted)
    return
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    assert a.dtype == jnp.bfloat16
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    assert np.mean(np.abs(a - b) > 0.05) < 0.02


@table.every_transform
@pytest.mark.parametrize('nesting', NESTINGS)
def test_nesting_changes_nothing(name, nesting):
  params = table.make_params()
  tx = NESTINGS[nesting](functools.partial(table.make, name))
  found, state = table.run(tx, params, table.make_gradients(params))
  table.assert_close(_kernels(found), _kernels(_plain(name)[0]))
  _check_state(name, state)


@pytest.mark.parametrize(
  'dtype', [jnp.float32, jnp.bfloat16], ids=['float32', 'bfloat16']
)
@table.every_variant
def test_multi_steps(name, dtype):
  params = table.make_params(dtype)
  tx = optax.MultiSteps(
    table.make(name, table.sgd()), 2
  ).gradient_transformation()
  gradients = jax.tree.map(
    lambda g: jnp.repeat(g, 2, 0), table.make_gradients(params)
  )
  found, state = table.run(tx, params, gradients)
  _assert_same(found[1::2], _plain(name, dtype)[0], dtype)
  _assert_same(found[2::2], _plain(name, dtype)[0][:-1], dtype)
  _check_state(name, state)


@table.every_variant
def test_a_gradient_that_is_not_finite_is_skipped(name):
  params = table.make_params()
  tx = optax.apply_if_finite(table.make(name, table.sgd()), 2)
  insert = lambda g: jnp.concatenate([g[:3], g[:1] * jnp.nan, g[3:]])
  found, state = table.run(
    tx, params, jax.tree.map(insert, table.make_gradients(params))
  )
  table.assert_close(found[3], found[2])
  table.assert_close(found[:3] + found[4:], _plain(name)[0])
  _check_state(name, state)


OPTIMIZERS = {
  'adamw': lambda: optax.adamw(0.05, weight_decay=0.1),
  'lion': lambda: optax.lion(0.05),
  'muon': lambda: optax.contrib.muon(0.05),
  'sgd_schedule': lambda: optax.sgd(
    optax.cosine_decay_schedule(0.2, 2 * table.NUM_STEPS),
    momentum=0.9,
    nesterov=True,
  ),
  'noisy_sgd': lambda: optax.noisy_sgd(0.2, eta=1e-3, key=jax.random.key(0)),
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
@table.every_transform
@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_around_any_optimizer(name, optimizer, dtype):
  params = table.make_params(dtype)
  gradients = table.make_gradients(params)
  tx = table.make(name, OPTIMIZERS[optimizer]())

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


@table.every_variant
def test_extra_args_reach_the_optimizer(name):
  params = table.make_params()
  gradients = jax.tree.map(lambda g: g[:2], table.make_gradients(params))
  tx = table.make(name, optax.chain(_scale_by_value(), table.sgd()))
  found, _ = table.run(
    tx, params, jax.tree.map(lambda g: g / 4, gradients), value=4.0, other=1
  )
  table.assert_close(found, _plain(name)[0][:2])


@pytest.mark.parametrize('name', ['straight_through', 'hq'])
def test_an_optimizer_without_extra_args_is_not_given_any(name):
  params = table.make_params()
  sgd = table.sgd()
  # In the manner of libraries older than extra args.
  plain = optax.GradientTransformation(
    sgd.init, lambda updates, state, params=None: sgd.update(updates, state)
  )
  tx = table.make(name, plain)
  gradients = jax.tree.map(lambda g: g[:1], table.make_gradients(params))
  found, _ = table.run(tx, params, gradients, value=4.0)
  table.assert_close(found, _plain(name)[0][:1])


@table.every_variant
def test_params_are_needed(name):
  params = table.make_params()
  tx = table.make(name, table.sgd())
  with pytest.raises(ValueError, match='params is None, wanted the param'):
    tx.update(params, tx.init(params))


def _mean():
  return optax.stateless(
    lambda updates, params: jax.tree.map(
      lambda u, p: u.reshape(-1, *p.shape).mean(0), updates, params
    )
  )


@table.every_variant
def test_gradients_of_another_shape_are_refused(name):
  params = {'layer': table.make_params()}
  inner = table.sgd()
  if name not in table.BEHIND:
    # Whatever the optimizer makes of them: they were used before.
    inner = optax.chain(_mean(), inner)
  tx = table.make(name, inner)
  state = tx.init(params)
  # Of single examples, as many as would broadcast; and with an axis of one.
  for shape in ((5, 16, 8), (16, 16, 8), (1, 16, 8)):
    grads = {'layer': params['layer'] | {'kernel': jnp.ones(shape)}}
    message = re.escape(f'layer/kernel has shape {shape}') + r'.*\(16, 8\)'
    with pytest.raises(ValueError, match=message):
      jax.eval_shape(tx.update, grads, state, params)


@table.every_variant
def test_the_state_of_shapes_is_that_of_arrays(name):
  params = table.make_params()
  shapes = jax.tree.map(
    lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params
  )
  tx = table.make(name, optax.adam(0.1))
  kinds = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  got, state = tx.init(shapes), tx.init(params)
  assert kinds(got) == kinds(state)
  assert jax.tree.structure(got) == jax.tree.structure(state)
  # What comes of them traces too, as for a checkpoint that is restored.
  updates, after = jax.eval_shape(tx.update, shapes, got, shapes)
  assert kinds(updates) == kinds(params) and kinds(after) == kinds(state)


PARAMETERS = ('latents', 'trace')


@table.every_variant
def test_what_of_the_state_has_the_shapes_of_parameters(name, make_mesh):
  params = {'layer': table.make_params()}
  tx = table.make(name, table.sgd())
  state = tx.init(params)
  marks = optax.tree.map_params(
    tx,
    lambda leaf: 'parameter',
    state,
    transform_non_params=lambda leaf: 'other',
  )
  found = optax.tree.get_all_with_path(marks, 'trace')
  assert found
  for field in {*PARAMETERS, *table.FIELDS.get(name, ())} - {'quantizer_state'}:
    wanted = {'parameter' if field in PARAMETERS else 'other'}
    for _, marked in optax.tree.get_all_with_path(marks, field):
      assert set(jax.tree.leaves(marked)) <= wanted, field
  same = optax.tree.map_params(tx, lambda leaf: leaf, state)
  jax.tree.map(np.testing.assert_array_equal, same, state)

  # What it is for: a sharding for each leaf of the state.
  mesh = make_mesh(4, 2)
  sharding = lambda *axes: jax.sharding.NamedSharding(mesh, P(*axes))
  shardings = {'layer': {'bias': sharding(), 'kernel': sharding('d0', 'd1')}}
  of_state = optax.tree.map_params(
    tx,
    lambda leaf, sharding: sharding,
    state,
    shardings,
    transform_non_params=lambda leaf: sharding(),
    is_leaf=lambda node: isinstance(node, optax.MaskedNode),
  )
  put = jax.jit(tx.init, out_shardings=of_state)(params)
  for field in PARAMETERS:
    for _, tree in optax.tree.get_all_with_path(put, field):
      assert tree['layer']['kernel'].sharding.spec == P('d0', 'd1')


@table.every_transform
def test_a_selection_of_nothing_is_an_error(name):
  with pytest.raises(ValueError, match=r"'head/\.\*' matches no leaf"):
    table.make(name, table.sgd(), select='head/.*').init(table.make_params())
  with pytest.raises(ValueError, match='kernels matches no leaf'):
    table.make(name, table.sgd()).init({'bias': jnp.ones(3)})


@table.every_transform
def test_selection_by_expression(name):
  params = {'a': table.make_params(), 'b': table.make_params()}
  tx = table.make(name, table.sgd(), select='a/kernel')
  grads = table.at(table.make_gradients(table.make_params()), 0)
  got, state = jax.jit(table.make_step(tx))(
    params, tx.init(params), {'a': grads, 'b': grads}
  )
  np.testing.assert_allclose(
    got['b']['kernel'],
    params['b']['kernel'] - 0.1 * grads['kernel'],
    rtol=1e-6,
  )
  for field in set(table.FIELDS.get(name, ())) & {'latents', 'radii'}:
    assert len(jax.tree.leaves(optax.tree.get(state, field))) == 1


@table.every_transform
def test_shardings_are_kept(name, make_mesh):
  sharding = jax.sharding.NamedSharding(make_mesh(4, 2), P('d0', 'd1'))
  params = table.make_params()
  gradients = jax.tree.map(lambda g: g[:4], table.make_gradients(params))
  tx = table.make(name, table.sgd())
  sharded = params | {'kernel': jax.device_put(params['kernel'], sharding)}
  found, state = table.run(tx, sharded, gradients)
  table.assert_close(found, _plain(name)[0][:4])
  same = lambda leaf: leaf.sharding.is_equivalent_to(sharding, 2)
  assert all(map(same, _kernels(found)))
  assert same(optax.tree.get(state, 'trace')['kernel'])
  if 'latents' in table.FIELDS.get(name, ()):
    assert same(optax.tree.get(state, 'latents')['kernel'])


def test_field_names_are_unique():
  states = (
    transforms.ProjectState,
    transforms.PruneState,
    transforms.ReinitState,
    transforms.StraightThroughState,
    transforms.TangentState,
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
  others |= {'flax_layer_axes', 'with_density_scale'}
  assert public - others == set(table.TRANSFORMS)
