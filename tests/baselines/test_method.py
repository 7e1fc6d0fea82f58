"""From a config to another quantizer, and the size of its file before it is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import artifact as artifact_lib
from hq_jax import baselines
from hq_jax import config as config_lib
from hq_jax import models
from hq_jax.baselines import method as method_lib
from hq_jax.compression import to_artifact
from hq_jax.core import trees
from hq_jax.training import train_state

MODEL = models.build('mlp', num_classes=5, arguments={'widths': [32, 16]})
make_artifact = functools.partial(
  to_artifact.make_artifact,
  model='mlp',
  model_arguments={'widths': [32, 16]},
  input_shape=(8, 8, 1),
  preprocessing={},
  class_names=tuple('abcde'),
)


def make_method(name, **fields):
  config = {
    'prune': {'epochs': 0},
    'recipe': {'refresh_steps': 3},
    'quantizer': {'name': name, **fields},
  }
  return method_lib.Baseline(config_lib.validate(config), 4, make_artifact)


@pytest.fixture(scope='module')
def shapes():
  return jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


@pytest.fixture(scope='module')
def variables(shapes):
  """Weights as of a trained network: norms and statistics are not constant."""
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda leaf: (
      rng.uniform(0.5, 1.5, leaf.shape)
      if len(leaf.shape) == 1
      else rng.normal(size=leaf.shape)
    ).astype(np.float32),
    shapes,
  )


# Each compiles programs of its own: by default those with the fewest.
_slow = lambda *values: pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
  ('name', 'fields', 'state', 'codewords'),
  [
    ('twn', {}, baselines.TwnState, None),
    ('binary', {}, baselines.BinaryState, None),
    _slow('uniform', {'bits': 2}, baselines.UniformState, (4, 1)),
    _slow('uniform', {'bits': 3}, baselines.UniformState, (8, 1)),
    _slow(
      'vector',
      {'group_size': 2, 'num_codewords': 4},
      baselines.VectorState,
      (2, 2),
    ),
  ],
)
def test_a_quantizer_is_that_of_the_config(name, fields, state, codewords):
  assert name in method_lib.NAMES
  quantizer = make_method(name, **fields).make_quantizer()
  latents = {'a': jnp.linspace(-1.0, 1.0, 32).reshape(16, 2)}
  found = quantizer.init(latents, {'a': trees.Axes((1,))})
  assert isinstance(found, state)
  if codewords is not None:
    tensor = quantizer.encode(latents, found, {'a': trees.Axes((1,))})['a']
    assert tensor.codewords.shape == codewords


@pytest.mark.slow
def test_groups_are_assigned_as_often_as_the_recipe_says():
  quantizer = make_method('vector', group_size=1).make_quantizer()
  axes = {'a': trees.Axes((1,))}
  before = {'a': jnp.linspace(-1.0, 1.0, 32).reshape(16, 2)}
  after = {'a': before['a'][::-1]}
  update = jax.jit(lambda w, state: quantizer.update(w, state, w, axes)[1])
  state = quantizer.init(before, axes)
  seen = []
  for latents in (before, after, after, after):
    state = update(latents, state)
    seen.append(state.codebooks['a'].indices)
  np.testing.assert_array_equal(seen[1], seen[0])
  np.testing.assert_array_equal(seen[2], seen[0])
  assert (seen[3] != seen[0]).any()


@pytest.mark.parametrize(
  ('schedule', 'rate'),
  [
    (lambda step: 0.25, 0.25),
    (lambda step: 0.5 * step, 0.0),
    pytest.param(None, 1e-3, marks=pytest.mark.slow),
  ],
)
def test_the_schedule_is_that_of_the_learnt_step(schedule, rate):
  quantizer = make_method('uniform').make_quantizer(schedule)
  latents, axes = (
    {'a': jnp.array([[0.5], [-0.25], [0.125]])},
    {'a': trees.Axes((1,))},
  )
  state = quantizer.init(latents, axes)
  # The step is 2 mean(abs(w)) = 7 / 12, and 0.5 is rounded up to it: a longer
  # step has a larger level there, which is what this gradient asks for. Adam's
  # first move is its rate.
  grads = {'a': jnp.array([[-1.0], [0.0], [0.0]])}
  learnt = quantizer.learn(grads, latents, state, axes)
  moved = float(learnt.exact_steps['a'] - state.exact_steps['a'])
  assert moved == pytest.approx(rate, rel=1e-3, abs=1e-9)


def _write(variables, quantizer):
  """The file of these weights, by the interface of quantizers alone."""
  axes = trees.find_axes(variables['params'], trees.kernels)
  latents = trees.mask(variables['params'], axes)
  _, state = quantizer.update(
    latents, quantizer.init(latents, axes), latents, axes
  )
  encoded = quantizer.encode(latents, state, axes)
  records = {
    f'{layer}/kernel': encoded[layer]['kernel']
    for layer in ('dense1', 'dense2', 'head')
  }
  return artifact_lib.dumps(make_artifact(variables, records))


METHODS = {
  'twn': make_method('twn'),
  'binary': make_method('binary'),
  'uniform': make_method('uniform', bits=3),
  'vector': make_method('vector', group_size=2, num_codewords=8),
}


each_method = pytest.mark.parametrize(
  'name', ['binary', *map(_slow, ('twn', 'uniform', 'vector'))]
)


@each_method
def test_a_plan_tells_the_length_of_the_file(variables, shapes, name):
  method = METHODS[name]
  plan = method.plan(variables)
  data = _write(variables, method.make_quantizer())
  assert plan.predicted_bytes == len(data)
  rows = {row.path: row.num_bytes for row in artifact_lib.layers(data)}
  assert {path: x.num_bytes for path, x in plan.layers.items()} == {
    path: rows[f'params/{path}']
    for path in ('dense1/kernel', 'dense2/kernel', 'head/kernel')
  }
  assert plan.fixed_bytes + sum(
    layer.num_bytes for layer in plan.layers.values()
  ) == len(data)
  assert {(x.encoding, x.sparsity) for x in plan.layers.values()} == {
    (name, 0.0)
  }
  # Kernels, the scale, bias and two statistics of each norm, and a bias.
  wanted = 64 * 32 + 32 * 16 + 16 * 5 + 4 * (32 + 16) + 5
  assert plan.dense_bytes == 4 * wanted
  # Shapes alone tell nearly as much.
  guess = method.plan(shapes)
  assert guess.dense_bytes == plan.dense_bytes
  assert guess.predicted_bytes == pytest.approx(plan.predicted_bytes, rel=0.05)
  assert guess.layers.keys() == plan.layers.keys()
  assert guess == method.plan(shapes)


@each_method
def test_the_distance_is_that_to_what_the_file_holds(variables, name):
  plan = METHODS[name].plan(variables)
  data = artifact_lib.loads(_write(variables, METHODS[name].make_quantizer()))
  # Of the file alone: scales are folded into the norms, which changes no angle.
  found = artifact_lib.to_variables(data)['params']
  for path, layer in plan.layers.items():
    w = np.float64(trees.flatten(variables['params'])[path])
    q = np.float64(trees.flatten(found)[path])
    norms = np.linalg.norm(w, axis=0) * np.linalg.norm(q, axis=0)
    distance = np.mean(1 - (w * q).sum(0) / norms)
    assert layer.cosine_distance == pytest.approx(distance, abs=1e-5)
    assert 0.001 < layer.cosine_distance < 0.5


def test_a_state_becomes_the_file_that_training_sees(variables):
  method = METHODS['binary']
  plan = method.plan(variables)
  schedule = optax.constant_schedule(0.0)
  tx = method.transformation(plan, optax.sgd(0.0), schedule)

  @jax.jit
  def step(params):
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, opt_state = tx.update(zero, tx.init(params), params)
    return optax.apply_updates(params, updates), opt_state

  params, opt_state = step(variables['params'])
  stats = variables['batch_stats']
  state = train_state.TrainState(jnp.int32(1), params, stats, opt_state)
  exported = method.encode(plan, state)
  for path in plan.layers:
    codes = exported.tensors[f'params/{path}'].codes
    np.testing.assert_array_equal(codes, np.sign(trees.flatten(params)[path]))
  # It has no target.
  data = artifact_lib.dumps(exported)
  assert artifact_lib.dumps(method.export(plan, state)) == data
  assert method.adapt(plan, state, exported, data) == (state, {})
