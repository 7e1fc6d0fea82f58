"""What every quantizer of a baseline owes, in one table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import baselines
from hq_jax import transforms
from hq_jax.core import qtensors
from hq_jax.core import trees
from tests import quantized as quantized_lib

BASELINES = {
  'twn': baselines.twn(),
  'ttq': baselines.ttq(optimizer=optax.adam(1e-2)),
  'parq': baselines.parq(3),
  'binary': baselines.binary(),
  'uniform': baselines.uniform(2, optax.adam(1e-2)),
  'uniform_8': baselines.uniform(8),
  'vector': baselines.vector(group_size=2, num_codewords=8, refresh_steps=3),
}
AXES = {
  'a': trees.Axes((1,)),
  'b': {'c': trees.Axes((3,)), 'bias': optax.MaskedNode()},
}

every_baseline = pytest.mark.parametrize('name', BASELINES)


def _by_default(*names):
  """Every one of them is tested by `.ci/run`, these by default too."""
  slow = lambda name: () if name in names else pytest.mark.slow
  return pytest.mark.parametrize(
    'name', [pytest.param(name, marks=slow(name)) for name in BASELINES]
  )


def _latents(rng):
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return {
    'a': draw(12, 6),
    'b': {'c': draw(2, 2, 4, 5), 'bias': optax.MaskedNode()},
  }


def _assert_value(tensors, quantized):
  is_tensor = lambda node: isinstance(
    node, qtensors.TernaryTensor | qtensors.CodebookTensor
  )
  found = trees.flatten(tensors, is_leaf=is_tensor)
  wanted = trees.flatten(quantized)
  assert list(found) == list(wanted)
  for path, tensor in found.items():
    np.testing.assert_array_equal(
      quantized_lib.get_value(tensor), wanted[path], err_msg=path
    )


@functools.cache
def _make_update(name):
  """Learns from some gradient, and updates."""
  quantizer = BASELINES[name]

  @jax.jit
  def update(latents, state, params):
    grads = jax.tree.map(jnp.square, latents)
    state = quantizer.learn(grads, latents, state, AXES)
    return quantizer.update(latents, state, params, AXES)

  return update


@_by_default('twn')
def test_the_tensors_are_what_the_update_gave(rng, name):
  latents, quantizer = _latents(rng), BASELINES[name]
  state = quantizer.init(latents, AXES)
  for number in range(6):
    latents = jax.tree.map(
      lambda w: w + 0.3 * jnp.asarray(rng.normal(size=w.shape), w.dtype),
      latents,
    )
    quantized, state = _make_update(name)(latents, state, latents)
    assert isinstance(quantized['b']['bias'], optax.MaskedNode)
    if name == 'parq' and number < 3:
      continue  # Not ternary yet.
    encoded = quantizer.encode(latents, state, AXES)
    _assert_value(encoded, quantized)
    scale = encoded['a'].scale
    if scale is not None:  # float16 holds it.
      assert scale.dtype == np.float32 and scale.size == 6
      np.testing.assert_array_equal(np.float16(scale), scale)


@every_baseline
def test_the_state_keeps_its_structure(rng, name):
  latents, quantizer = _latents(rng), BASELINES[name]
  state = jax.eval_shape(lambda: quantizer.init(latents, AXES))
  _, after = jax.eval_shape(
    lambda s: quantizer.update(latents, s, latents, AXES), state
  )
  assert after == state
  learnt = jax.eval_shape(
    lambda s: quantizer.learn(latents, latents, s, AXES), state
  )
  assert learnt == state


@every_baseline
def test_the_result_has_the_dtype_of_the_parameters(rng, name):
  latents, quantizer = _latents(rng), BASELINES[name]
  params = latents | {'a': latents['a'].astype(jnp.bfloat16)}
  quantized, _ = jax.eval_shape(
    lambda w: quantizer.update(w, quantizer.init(w, AXES), params, AXES),
    latents,
  )
  assert quantized['a'].dtype == jnp.bfloat16
  assert quantized['b']['c'].dtype == jnp.float32


def _params(rng):
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return {'conv': {'kernel': draw(2, 2, 4, 8)}, 'head': {'kernel': draw(8, 4)}}


def _make_step(tx, data):
  def loss_fn(params, inputs, labels):
    hidden = jax.nn.relu(inputs @ params['conv']['kernel'].reshape(16, 8))
    hidden = hidden / jnp.std(hidden, axis=0)
    return jnp.mean((hidden @ params['head']['kernel'] - labels) ** 2)

  @jax.jit
  def step(params, state):
    loss, grads = jax.value_and_grad(loss_fn)(params, *data)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  return step


@_by_default('binary')
def test_a_training_run_learns_and_ends_in_what_is_written(rng, name):
  # The last steps too give parameters that are the tensors' values, bit by bit.
  params, quantizer = _params(rng), BASELINES[name]
  inputs = jnp.asarray(rng.normal(size=(64, 16)), jnp.float32)
  labels = inputs @ jnp.asarray(rng.normal(size=(16, 4)), jnp.float32)
  tx = transforms.straight_through(optax.adam(0.02), quantizer)
  step = _make_step(tx, (inputs, labels))
  axes = trees.find_axes(params)
  state, losses = jax.jit(tx.init)(params), []
  for t in range(60):
    params, state, loss = step(params, state)
    losses.append(float(loss))
    if t % 10 == 9:
      tensors = quantizer.encode(state.latents, state.quantizer_state, axes)
      _assert_value(tensors, params)
  # The first is that of the dense parameters.
  assert np.mean(losses[-5:]) < 0.6 * losses[1]


@_by_default()
def test_sharded_kernels(rng, make_mesh, name):
  params, mesh = _params(rng), make_mesh(4)
  sharding = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(None, 'd0')
  )
  sharded = params | {'head': jax.device_put(params['head'], sharding)}
  tx = transforms.straight_through(optax.sgd(0.1), BASELINES[name])
  step = jax.jit(
    lambda params, state: tx.update(
      jax.tree.map(jnp.cos, params), state, params
    )
  )
  wanted, _ = step(params, tx.init(params))
  got, state = step(sharded, tx.init(sharded))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    got,
    wanted,
  )
  for tree in (got, state.latents):
    assert tree['head']['kernel'].sharding.is_equivalent_to(sharding, 2)


@every_baseline
@pytest.mark.parametrize(
  'axes', [trees.Axes((2,)), trees.Axes((2, 3)), trees.Axes((3,), (0,))]
)
def test_other_axes_are_refused(rng, name, axes):
  message = 'channel_axis and layer_axes of b/c are .* wanted the last one, 3'
  axes = AXES | {'b': {'c': axes, 'bias': optax.MaskedNode()}}
  with pytest.raises(ValueError, match=message):
    BASELINES[name].init(_latents(rng), axes)


@pytest.mark.parametrize(
  'quantizer', [transforms.ternary(0.5), transforms.identity()]
)
def test_the_others_learn_nothing_and_have_no_tensors(rng, quantizer):
  latents = _latents(rng)
  state = quantizer.init(latents, AXES)
  assert quantizer.learn(latents, latents, state, AXES) is state
  assert quantizer.encode is None
