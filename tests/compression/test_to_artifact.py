"""The file's network computes what the trained one computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax import artifact
from hq_jax import models
from hq_jax.compression import to_artifact
from hq_jax.core import qtensors
from hq_jax.core import trees

_ARGUMENTS = {'widths': [4, 6], 'num_blocks': [1, 1], 'dtype': 'float32'}
_MODEL = models.build('small_resnet', num_classes=3, arguments=_ARGUMENTS)
_HEADER = {
  'model': 'small_resnet',
  'model_arguments': _ARGUMENTS,
  'input_shape': (8, 8, 1),
  'preprocessing': {'mean': [1.0], 'std': [2.0]},
  'class_names': ('a', 'b', 'c'),
}
_APPLY = jax.jit(_MODEL.apply)


@pytest.fixture(scope='module')
def network():
  """Variables as after ternary training, and the codes and scales of kernels.

  No norm is the identity, and no statistic 0 or 1.
  """
  rng = np.random.default_rng(0)
  quantized = {}

  def draw(path, leaf):
    path = trees.path_string(path)
    if path.endswith(('scale', 'var')):
      return np.float32(rng.uniform(0.3, 2.0, leaf.shape))
    values = np.float32(rng.normal(0, 0.5, leaf.shape))
    if not path.endswith('kernel'):
      return values
    codes = np.int8(np.sign(values) * (np.abs(values) > 0.4))
    shape = [1] * (leaf.ndim - 1) + [leaf.shape[-1]]
    scale = np.float32(rng.uniform(0.4, 0.8, shape))
    quantized[path.removeprefix('params/')] = qtensors.TernaryTensor(
      codes, scale
    )
    return codes * scale

  shapes = jax.eval_shape(
    _MODEL.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1))
  )
  return jax.tree_util.tree_map_with_path(draw, shapes), quantized


@pytest.fixture(scope='module')
def exported(network):
  return to_artifact.make_artifact(*network, **_HEADER)


@pytest.fixture
def images(rng):
  return rng.normal(size=(16, 8, 8, 1)).astype(np.float32)


def test_logits_survive_the_folding(network, exported, images):
  wanted = np.asarray(_APPLY(network[0], images))
  found = np.asarray(_APPLY(artifact.to_variables(exported), images))
  size = np.abs(wanted).max()
  assert wanted.std(axis=0).min() > 0.1
  # Norms and biases have 11 significant bits, in a network of seven layers.
  assert 0 < np.abs(found - wanted).max() < 7 * 2**-11 * size


def test_codebook_kernels_are_exported(network, exported):
  # Each ternary kernel as a codebook of three levels: the same network.
  variables, quantized = network
  levels = np.array([[-1], [0], [1]], np.float16)
  kernels = {
    path: qtensors.CodebookTensor(np.uint8(codes + 1), levels, scale.ravel())
    for path, (codes, scale) in quantized.items()
  }
  found = to_artifact.make_artifact(variables, kernels, **_HEADER)
  read = artifact.loads(artifact.dumps(found))
  kinds = [type(tensor) for tensor in read.tensors.values()]
  assert kinds.count(qtensors.CodebookTensor) == len(quantized)
  jax.tree.map(
    np.testing.assert_array_equal,
    artifact.to_variables(read),
    artifact.to_variables(exported),
  )


def test_the_file_holds_what_evaluation_sees(exported):
  read = artifact.loads(artifact.dumps(exported))
  jax.tree.map(
    np.testing.assert_array_equal,
    artifact.to_variables(read),
    artifact.to_variables(exported),
  )
  assert read.model == 'small_resnet'
  assert read.model_args == _ARGUMENTS
  assert read.input_shape == (8, 8, 1)
  assert read.preprocessing == _HEADER['preprocessing']
  assert read.class_names == ('a', 'b', 'c')


def test_only_the_classifier_needs_a_scale(exported):
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


def test_a_scale_is_folded_in_float64(network, exported):
  variables, quantized = network
  norm = jax.tree.map(np.float64, variables['params']['norm_stem'])
  stats = jax.tree.map(np.float64, variables['batch_stats']['norm_stem'])
  a = norm['scale'] / np.sqrt(stats['var'] + 1e-5)
  scale = np.float64(quantized['conv_stem/kernel'].scale).ravel()
  for name, wanted in (
    ('scale', a * scale),
    ('bias', norm['bias'] - a * stats['mean']),
  ):
    tensor = exported.tensors[f'params/norm_stem/{name}']
    np.testing.assert_array_equal(tensor, wanted.astype(np.float16))


@pytest.mark.parametrize('name', ['scale', 'bias'])
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused(network, name, value):
  variables = jax.tree.map(np.copy, network[0])
  variables['params']['norm_stem'][name][0] = value
  with pytest.raises(ValueError) as caught:
    to_artifact.make_artifact(variables, network[1], **_HEADER)
  assert str(caught.value) == f"'params/norm_stem/{name}': NaN or infinity"


def test_a_path_that_is_not_there_is_refused(network):
  tensor = network[1]['head/kernel']
  with pytest.raises(ValueError) as caught:
    to_artifact.make_artifact(network[0], {'hat': tensor}, **_HEADER)
  assert str(caught.value) == "ternary 'params/hat': no such leaf in variables"
