"""From a config to another quantizer, and the size of its file before it is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax import artifact as artifact_lib
from hq_jax import baselines
from hq_jax import config as config_lib
from hq_jax import models
from hq_jax.baselines import method
from hq_jax.compression import to_artifact
from hq_jax.core import sphere
from hq_jax.core import trees

MODEL = models.build('mlp', num_classes=5, arguments={'widths': [32, 16]})
make_artifact = functools.partial(
  to_artifact.make_artifact,
  model='mlp',
  model_arguments={'widths': [32, 16]},
  input_shape=(8, 8, 1),
  preprocessing={},
  class_names=tuple('abcde'),
)


def _config(name, prune_epochs=0, **fields):
  return config_lib.validate(
    {
      'prune': {'epochs': prune_epochs},
      'recipe': {'refresh_steps': 3},
      'quantizer': {'name': name, **fields},
    }
  )


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


def test_the_names_are_those_of_the_config():
  wanted = ('ternary', 'twn', 'binary', 'uniform', 'vector')
  assert wanted == method.QUANTIZERS
  assert method.make_quantizer(_config('ternary', prune_epochs=2)) is None


def _make_state(name, **fields):
  """The state of a quantizer of one kernel, of 32 weights."""
  quantizer = method.make_quantizer(_config(name, **fields))
  latents = {'a': jnp.linspace(-1.0, 1.0, 32).reshape(16, 2)}
  axes = {'a': 1}
  state = quantizer.init(latents, axes)
  return quantizer.encode(latents, state, axes)['a'], state


def test_each_name_makes_its_quantizer():
  _, state = _make_state('twn')
  assert isinstance(state, baselines.TwnState)
  _, state = _make_state('binary')
  assert isinstance(state, baselines.BinaryState)


@pytest.mark.slow
@pytest.mark.parametrize('bits', [2, 3])
def test_bits_are_those_of_the_config(bits):
  record, state = _make_state('uniform', bits=bits)
  assert isinstance(state, baselines.UniformState)
  assert record.codewords.shape == (2**bits, 1)


@pytest.mark.slow
def test_groups_and_codewords_are_those_of_the_config():
  record, state = _make_state('vector', group_size=2, num_codewords=4)
  assert isinstance(state, baselines.VectorState)
  assert record.codewords.shape[1] == 2 and len(record.codewords) <= 4
  assert record.indices.shape == (8, 2)


@pytest.mark.slow
def test_groups_are_assigned_as_often_as_the_recipe_says():
  quantizer = method.make_quantizer(_config('vector', group_size=1))
  axes = {'a': 1}
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
  ('name', 'prune_epochs', 'message'),
  [
    (
      'trinary',
      0,
      "config.quantizer.name is 'trinary', wanted one of: ternary, twn,"
      ' binary, uniform, vector',
    ),
    (
      'binary',
      2,
      'config.prune.epochs is 2, wanted 0 with config.quantizer.name binary,'
      ' which does not prune',
    ),
  ],
)
def test_what_there_is_not_is_refused(name, prune_epochs, message):
  with pytest.raises(ValueError) as caught:
    method.make_quantizer(_config(name, prune_epochs))
  assert str(caught.value) == message


@pytest.mark.parametrize(
  ('schedule', 'rate'),
  [
    (lambda step: 0.25, 0.25),
    (lambda step: 0.5 * step, 0.0),
    pytest.param(None, 1e-3, marks=pytest.mark.slow),
  ],
)
def test_the_schedule_is_that_of_the_learnt_step(schedule, rate):
  quantizer = method.make_quantizer(_config('uniform'), schedule)
  latents, axes = {'a': jnp.array([[0.5], [-0.25], [0.125]])}, {'a': 1}
  state = quantizer.init(latents, axes)
  # The step is 2 mean(abs(w)) = 7 / 12, and 0.5 is rounded up to it: a longer
  # step has a larger level there, which is what this gradient asks for. Adam's
  # first move is its rate.
  grads = {'a': jnp.array([[-1.0], [0.0], [0.0]])}
  learnt = quantizer.learn(grads, latents, state, axes)
  moved = float(learnt.log_steps['a'] - state.log_steps['a'])
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


QUANTIZERS = {
  'twn': baselines.twn(),
  'binary': baselines.binary(),
  'uniform': baselines.uniform(3),
  'vector': baselines.vector(2, 8),
}


# Each compiles programs of its own: by default the one with the fewest.
_slow = lambda name: pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize(
  'name', ['binary', *map(_slow, ('twn', 'uniform', 'vector'))]
)
def test_a_prediction_is_the_length_of_the_file(variables, name):
  quantizer = QUANTIZERS[name]
  plan = method.predict(name, quantizer, variables, make_artifact)
  data = _write(variables, quantizer)
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


@pytest.mark.parametrize('name', ['binary', _slow('vector')])
def test_shapes_alone_tell_nearly_as_much(variables, shapes, name):
  quantizer = QUANTIZERS[name]
  plan = method.predict(name, quantizer, shapes, make_artifact)
  known = method.predict(name, quantizer, variables, make_artifact)
  assert plan.dense_bytes == known.dense_bytes
  assert plan.predicted_bytes == pytest.approx(known.predicted_bytes, rel=0.05)
  assert plan.layers.keys() == known.layers.keys()
  assert plan == method.predict(name, quantizer, shapes, make_artifact)


def test_the_distance_is_that_of_each_kernel(variables):
  plan = method.predict(
    'binary', QUANTIZERS['binary'], variables, make_artifact
  )
  for path, layer in plan.layers.items():
    w = np.float64(trees.flatten(variables['params'])[path])
    # Of signs: the cosine of channel j is sum(abs(w_ij)) / (sqrt(n) ||w_j||).
    cosines = np.abs(w).sum(0) / np.linalg.norm(w, axis=0) / len(w) ** 0.5
    assert layer.cosine_distance == pytest.approx(1 - cosines.mean(), abs=1e-5)


@pytest.mark.slow
def test_the_distance_is_the_mean_over_channels_of_what_was_made(variables):
  name = 'vector'
  plan = method.predict(name, QUANTIZERS[name], variables, make_artifact)
  data = artifact_lib.loads(_write(variables, QUANTIZERS[name]))
  # Of the file alone: scales are folded into the norms, which changes no angle.
  found = artifact_lib.to_variables(data)['params']
  for path, layer in plan.layers.items():
    module, leaf = path.split('/')
    distance = sphere.cosine_distance(
      variables['params'][module][leaf], found[module][leaf]
    )
    assert layer.cosine_distance == pytest.approx(
      float(distance.mean()), abs=1e-5
    )
    assert 0.001 < layer.cosine_distance < 0.5
