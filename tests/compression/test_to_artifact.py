"""The exported model computes what the trained one computed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import artifact
from hq_jax import models
from hq_jax import transforms
from hq_jax.compression import to_artifact
from hq_jax.core import qtensors
from hq_jax.core import trees
from hq_jax.training import train_state

_ARGUMENTS = {'widths': [4, 6], 'num_blocks': [1, 1], 'dtype': 'float32'}
_MODEL = models.build('small_resnet', num_classes=3, arguments=_ARGUMENTS)
_HEADER = {
  'model': 'small_resnet',
  'model_arguments': _ARGUMENTS,
  'input_shape': (8, 8, 1),
  'preprocessing': {'mean': [1.0], 'std': [2.0]},
  'class_names': ('a', 'b', 'c'),
}
_RECIPE = transforms.Recipe(
  sparsity=0.6,
  prune_steps=4,
  prune_gradients='masked',
  num_stages=2,
  reinit_strength=0.5,
)
_TX = transforms.hq(optax.sgd(0.05), _RECIPE)


def _randomize_norms(state, rng):
  """As after training: no norm is the identity, no statistic 0 or 1."""

  def draw(path, leaf):
    name = trees.path_string(path).rpartition('/')[2]
    if name == 'kernel':
      return leaf
    if name in ('scale', 'var'):
      return jnp.float32(rng.uniform(0.3, 2.0, leaf.shape))
    return jnp.float32(rng.normal(0, 0.5, leaf.shape))

  variables = jax.tree_util.tree_map_with_path(draw, state.variables)
  return state.replace(**variables)


@pytest.fixture(scope='module')
def states():
  """States in the dense, the pruning and the ternary phase, by step."""
  rng = np.random.default_rng(0)
  init = jax.jit(_MODEL.init)
  variables = init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  state = train_state.TrainState(
    jnp.int32(0), **variables, opt_state=_TX.init(variables['params'])
  )
  state = _randomize_norms(state, rng)
  update = jax.jit(_TX.update)
  found = {0: state}
  for step in range(1, 7):
    grads = jax.tree.map(
      lambda p: jnp.float32(rng.normal(size=p.shape)), state.params
    )
    updates, opt_state = update(grads, state.opt_state, state.params)
    state = state.replace(
      params=optax.apply_updates(state.params, updates), opt_state=opt_state
    )
    found[step] = state
  return found


@pytest.fixture(scope='module')
def finalized(states):
  """Codes and scales at the end, by the path of the kernel."""
  finalize = jax.jit(transforms.finalize, static_argnums=2)
  tree = finalize(states[6].opt_state, states[6].params, _RECIPE)
  is_tensor = lambda node: isinstance(node, qtensors.TernaryTensor)
  nodes = trees.flatten(tree, is_leaf=is_tensor)
  return {path: node for path, node in nodes.items() if is_tensor(node)}


@pytest.fixture
def images(rng):
  return rng.normal(size=(16, 8, 8, 1)).astype(np.float32)


_APPLY = jax.jit(_MODEL.apply)


def test_logits_survive_the_folding(states, images):
  state = states[6]
  exported = to_artifact.artifact_of_state(state, _RECIPE, **_HEADER)
  wanted = np.asarray(_APPLY(state.variables, images))
  found = np.asarray(_APPLY(artifact.to_variables(exported), images))
  size = np.abs(wanted).max()
  assert wanted.std(axis=0).min() > 0.1
  # Norms and biases have 11 significant bits, in a network of seven layers.
  assert 0 < np.abs(found - wanted).max() < 7 * 2**-11 * size


def test_folding_itself_changes_nothing(states, finalized, images):
  state = states[6]
  variables = jax.tree.map(np.asarray, state.variables)
  ternary = {
    f'params/{path}': jax.tree.map(np.asarray, tensor)
    for path, tensor in finalized.items()
  }
  params = variables['params']
  folded, norms = artifact.fold(
    variables,
    ternary,
    models.pair_norms(params),
    models.find_norms(params),
    np.float32,
  )
  exported = to_artifact.make_artifact(variables, {}, **_HEADER)
  exported = exported._replace(tensors=folded, folded_norms=norms)
  wanted = np.asarray(_APPLY(variables, images))
  found = np.asarray(_APPLY(artifact.to_variables(exported), images))
  np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_codebook_kernels_are_shipped(states, finalized, images):
  # Each ternary kernel as a codebook of three levels: the same network.
  variables = states[6].variables
  levels = np.array([[-1], [0], [1]], np.float16)
  kernels = {
    path: qtensors.CodebookTensor(
      np.uint8(np.asarray(codes) + 1), levels, np.ravel(scale)
    )
    for path, (codes, scale) in finalized.items()
  }
  wanted = to_artifact.make_artifact(variables, finalized, **_HEADER)
  exported = to_artifact.make_artifact(variables, kernels, **_HEADER)
  read = artifact.loads(artifact.dumps(exported))
  found = [type(tensor) for tensor in read.tensors.values()]
  assert found.count(qtensors.CodebookTensor) == len(finalized)
  jax.tree.map(
    np.testing.assert_array_equal,
    artifact.to_variables(read),
    artifact.to_variables(wanted),
  )


def test_the_file_holds_what_evaluation_sees(states):
  exported = to_artifact.artifact_of_state(states[6], _RECIPE, **_HEADER)
  read = artifact.loads(artifact.dumps(exported))
  jax.tree.map(
    np.testing.assert_array_equal,
    artifact.to_variables(read),
    artifact.to_variables(exported),
  )


@pytest.mark.parametrize('step', [0, 2, 4, 5, 6])
def test_codes_are_those_of_the_state(states, step):
  exported = to_artifact.artifact_of_state(states[step], _RECIPE, **_HEADER)
  params = trees.flatten_selected(states[step].params)
  assert len(params) == 7
  for path, kernel in params.items():
    codes = exported.tensors[f'params/{path}'].codes
    assert codes.dtype == np.int8 and codes.shape == kernel.shape
    kept = round(0.4 * codes.size)
    if step <= _RECIPE.ternary_begin_step:
      # Not ternary yet: rounded at the final sparsity.
      assert np.count_nonzero(codes) == kept
    else:
      np.testing.assert_array_equal(codes, np.sign(kernel))
      assert np.count_nonzero(codes) == pytest.approx(kept, rel=0.2)


def test_only_the_classifier_needs_a_scale(states):
  exported = to_artifact.artifact_of_state(states[6], _RECIPE, **_HEADER)
  scaled = {
    path
    for path, tensor in exported.tensors.items()
    if path.endswith('kernel') and tensor.scale is not None
  }
  assert scaled == {'params/head/kernel'}
  assert len(exported.folded_norms) == 6
  assert set(exported.folded_norms.values()) == {1e-5}
  # Of a norm there is a scale and a bias, and no statistics.
  assert not [path for path in exported.tensors if 'batch_stats' in path]
  floats = {
    tensor.dtype.name
    for tensor in exported.tensors.values()
    if isinstance(tensor, np.ndarray)
  }
  assert floats == {'float16'}


def test_a_scale_is_folded_in_float64(states, finalized):
  state = states[6]
  exported = to_artifact.artifact_of_state(state, _RECIPE, **_HEADER)
  norm = jax.tree.map(np.float64, state.params['norm_stem'])
  stats = jax.tree.map(np.float64, state.batch_stats['norm_stem'])
  a = norm['scale'] / np.sqrt(stats['var'] + 1e-5)
  scale = np.float64(finalized['conv_stem/kernel'].scale)
  for name, wanted in (
    ('scale', a * scale),
    ('bias', norm['bias'] - a * stats['mean']),
  ):
    tensor = exported.tensors[f'params/norm_stem/{name}']
    np.testing.assert_array_equal(tensor, wanted.astype(np.float16))


def test_the_header_holds_what_it_is_given(states):
  exported = to_artifact.artifact_of_state(states[0], _RECIPE, **_HEADER)
  assert exported.model == 'small_resnet'
  assert exported.model_args == _ARGUMENTS
  assert exported.input_shape == (8, 8, 1)
  assert exported.preprocessing == _HEADER['preprocessing']
  assert exported.class_names == ('a', 'b', 'c')


@pytest.mark.parametrize('name', ['scale', 'bias'])
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused(states, name, value):
  state = states[0]
  params = jax.tree.map(lambda x: x, state.params)
  leaf = params['norm_stem'][name]
  params['norm_stem'][name] = leaf.at[0].set(value)
  with pytest.raises(ValueError) as caught:
    to_artifact.artifact_of_state(
      state.replace(params=params), _RECIPE, **_HEADER
    )
  assert str(caught.value) == f"'params/norm_stem/{name}': NaN or infinity"


def test_a_path_that_is_not_there_is_refused(states, finalized):
  tensor = finalized['head/kernel']
  with pytest.raises(ValueError) as caught:
    to_artifact.make_artifact(states[0].variables, {'hat': tensor}, **_HEADER)
  assert str(caught.value) == "ternary 'params/hat': no such leaf in variables"
