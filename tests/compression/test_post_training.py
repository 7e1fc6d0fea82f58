"""Trained variables to a file, without training."""

import warnings

import jax
import numpy as np
import pytest

import hq_jax
from hq_jax import artifact
from hq_jax import models
from hq_jax.compression import post_training
from hq_jax.core import qtensors
from hq_jax.core import trees
from tests.models import reference


def _draw_resnet(seed=0):
  """A small ResNet whose norms are not the identity."""
  model = models.build(
    'small_resnet',
    num_classes=10,
    arguments={'widths': [4, 64], 'num_blocks': [1, 1]},
  )
  images = np.zeros((1, 8, 8, 1))
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name = trees.path_string(path).rpartition('/')[2]
    values = rng.standard_normal(leaf.shape).astype(np.float32)
    if name == 'kernel':
      # Input channels of different strength: contexts save bytes.
      strength = np.exp2(rng.standard_normal(leaf.shape[-2]))
      values *= strength[:, None] / np.prod(leaf.shape[:-1]) ** 0.5
    elif name in ('var', 'scale'):
      values = np.abs(values) + 0.5
    return values.astype(np.float32)

  return model, jax.tree_util.tree_map_with_path(draw, shapes)


_MODEL, _VARIABLES = _draw_resnet()
_NORMS = models.find_norms(_VARIABLES['params'])
_PAIRS = models.pair_norms(_VARIABLES['params'])
_DENSE_BYTES = 4 * sum(x.size for x in jax.tree.leaves(_VARIABLES))
_KERNELS = trees.flatten_selected(_VARIABLES['params'])


def _compress(**arguments):
  return post_training.compress(
    _VARIABLES, norms=_NORMS, pairs=_PAIRS, **arguments
  )


def _plain(kernel, **arguments):
  """The tensor that becomes of one kernel."""
  found = post_training.compress({'a': {'kernel': kernel}}, **arguments)
  return found.tensors['params/a/kernel']


@pytest.mark.parametrize('ratio', [3.0, 8.0, 20.0, 30.0, 40.0])
def test_a_target_is_reached_and_used(ratio):
  with warnings.catch_warnings(record=True, action='always') as warned:
    found = _compress(target_ratio=ratio)
  written = len(artifact.dumps(found))
  wanted = int(_DENSE_BYTES / ratio)
  assert written <= wanted
  # Where bytes are plenty, every kernel has its least distance, or what int8
  # would take in place of it is more than there is.
  assert written >= 0.99 * wanted or ratio <= 20
  # What is left unused is said, and nothing else.
  said = [str(warning.message) for warning in warned]
  assert said == [
    f'target_ratio is {ratio:g}, whose {wanted:,} bytes are not all used: the'
    f' file has {written:,}, and no plan that was tried has more'
  ] * (written < 0.99 * wanted)


def test_a_bare_tree_of_float64_reaches_its_target(rng):
  tree = {
    'a': {'kernel': rng.standard_normal((512, 256)), 'bias': np.zeros(256)},
    'b': {'kernel': rng.standard_normal((256, 64))},
  }
  found = post_training.compress(tree, target_ratio=25.0)
  written = len(artifact.dumps(found))
  wanted = 4 * (512 * 256 + 256 + 256 * 64) / 25
  assert 0.99 * wanted <= written <= wanted
  assert list(found.tensors) == [
    'params/a/bias',
    'params/a/kernel',
    'params/b/kernel',
  ]


@pytest.mark.filterwarnings('ignore:target_ratio is')
@pytest.mark.parametrize('ratio', [1.5, 4.0, 9.0, 21.0])
@pytest.mark.parametrize('kind', ['zero', 'one sign', 'tiny', 'structured'])
def test_odd_kernels_reach_their_target_with_zeros(rng, kind, ratio):
  shape = (1, 2) if kind == 'tiny' else (64, 32)
  kernel = rng.standard_normal(shape).astype(np.float32)
  kernel *= {'zero': 0, 'one sign': np.sign(kernel)}.get(kind, 1)
  if kind == 'structured':
    kernel *= np.exp(2 * rng.standard_normal((64, 1)))
  tree = {'a': {'kernel': kernel}, 'b': {'bias': np.ones(5000)}}
  tree['c'] = {'kernel': rng.standard_normal((128, 64))}
  found = post_training.compress(tree, target_ratio=ratio)
  dense_bytes = 4 * sum(leaf.size for leaf in jax.tree.leaves(tree))
  assert len(artifact.dumps(found)) <= dense_bytes / ratio
  tensor = found.tensors['params/c/kernel']
  if isinstance(tensor, qtensors.TernaryTensor):
    assert np.mean(tensor.codes == 0) >= 1 / 3


@pytest.mark.filterwarnings('ignore:target_ratio is')
def test_an_ample_target_takes_the_best_there_is():
  found = _compress(target_ratio=1.01)
  encoded = {found.tensors[f'params/{path}'].dtype for path in _KERNELS}
  assert encoded == {np.dtype(np.float16)}


@pytest.mark.filterwarnings('ignore:target_ratio is')
def test_the_same_bytes_twice():
  first = artifact.dumps(_compress(target_ratio=20.0))
  assert first == artifact.dumps(_compress(target_ratio=20.0))


_IS_SMALL = {
  path: kernel.size < 1e-3 * sum(k.size for k in _KERNELS.values())
  for path, kernel in _KERNELS.items()
}


def _nearest(kernel):
  """By the definition, in float64."""
  w = np.float64(kernel).reshape(-1, kernel.shape[-1])
  codes = np.zeros(w.shape)
  for j, column in enumerate(w.T):
    order = np.argsort(-np.abs(column), kind='stable')
    sums = np.cumsum(np.abs(column)[order])
    best = np.argmax(sums / np.sqrt(np.arange(1, len(column) + 1)))
    kept = order[: best + 1]
    codes[kept, j] = np.sign(column[kept])
  return codes.reshape(kernel.shape)


def _largest(kernel, sparsity):
  """The largest by unit norm of the whole kernel, in float64."""
  w = np.float64(kernel)
  u = np.abs(w) / np.sqrt((w**2).sum(axis=tuple(range(w.ndim - 1))))
  order = np.argsort(-u.ravel(), kind='stable')
  codes = np.zeros(w.size)
  kept = order[: round((1 - sparsity) * w.size)]
  codes[kept] = np.sign(w.ravel()[kept])
  return codes.reshape(kernel.shape)


@pytest.mark.parametrize(
  'sparsity',
  [
    pytest.param(0.8, marks=pytest.mark.slow),
    {'head/.*': 0.5, '.*': 0.9},
  ],
  ids=['one', 'each'],
)
def test_a_sparsity_takes_the_largest_of_each_kernel(sparsity):
  found = _compress(sparsity=sparsity)
  for path, kernel in _KERNELS.items():
    zeros = sparsity
    if isinstance(sparsity, dict):
      zeros = 0.5 if path == 'head/kernel' else 0.9
    tensor = found.tensors[f'params/{path}']
    np.testing.assert_array_equal(tensor.codes, _largest(kernel, zeros))


def _replace(kernel, is_small):
  """What a kernel becomes without a target."""
  if is_small:
    codes, scale = artifact.quantize_int8(kernel)
  else:
    codes = _nearest(kernel)
    axes = tuple(range(kernel.ndim - 1))
    squares = (np.float64(kernel) ** 2).sum(axis=axes)
    scale = np.sqrt(squares / np.abs(codes).sum(axis=axes))
  return np.float32(codes * np.float64(scale))


def test_folding_changes_no_logits(rng):
  """The file computes what the network with its kernels replaced does."""
  params = jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      _replace(leaf, _IS_SMALL[trees.path_string(path)])
      if trees.path_string(path) in _IS_SMALL
      else leaf
    ),
    _VARIABLES['params'],
  )
  images = rng.standard_normal((8, 8, 8, 1)).astype(np.float32)
  wanted = _MODEL.apply(_VARIABLES | {'params': params}, images)
  read = artifact.loads(artifact.dumps(_compress()))
  found = _MODEL.apply(artifact.to_variables(read), images)
  np.testing.assert_allclose(
    found, wanted, atol=7 * 2**-11 * float(np.abs(wanted).max())
  )


def test_norms_are_preserved(rng):
  kernel = rng.standard_normal((64, 8)).astype(np.float32)
  kernel[:, 3] = 0
  for arguments in ({}, {'sparsity': 0.7}):
    tensor = _plain(kernel, **arguments)
    value = np.float32(tensor.codes) * np.float32(tensor.scale)
    np.testing.assert_allclose(
      np.linalg.norm(value, axis=0), np.linalg.norm(kernel, axis=0), rtol=5e-4
    )
    assert tensor.scale.dtype == np.float16 and tensor.scale[0, 3] == 0


def test_ties_are_kept_together():
  tensor = _plain(np.array([[1.0, 2], [-1, 2], [1, 0.5]], np.float32))
  assert tensor.codes.tolist() == [[1, 1], [-1, 1], [1, 0]]


def test_a_scale_that_float16_cannot_hold_is_float32(rng):
  kernel = rng.standard_normal((64, 8)).astype(np.float32) * np.float32(1e-7)
  tensor = _plain(kernel)
  assert tensor.scale.dtype == np.float32
  value = np.float32(tensor.codes) * tensor.scale
  np.testing.assert_allclose(
    np.linalg.norm(value, axis=0), np.linalg.norm(kernel, axis=0), rtol=5e-4
  )


@pytest.mark.parametrize(
  ('max_error', 'dtype'), [(1e-3, np.float16), (1e-6, np.float32)]
)
def test_other_tensors_keep_to_the_error(rng, max_error, dtype):
  tree = {
    'a': {
      'kernel': rng.standard_normal((64, 8)).astype(np.float32),
      'bias': rng.standard_normal(8).astype(np.float32),
    }
  }
  found = post_training.compress(tree, max_error=max_error)
  bias = found.tensors['params/a/bias']
  assert bias.dtype == dtype
  error = np.linalg.norm(bias - tree['a']['bias'])
  assert error <= max_error * np.linalg.norm(tree['a']['bias'])


def test_what_is_not_selected_stays():
  found = _compress(sparsity=0.9, select='head/kernel')
  kinds = {
    path: isinstance(found.tensors[f'params/{path}'], qtensors.TernaryTensor)
    for path in _KERNELS
  }
  assert [path for path, is_ternary in kinds.items() if is_ternary] == [
    'head/kernel'
  ]


_HEADER = {
  'model': 'small_resnet',
  'model_arguments': {'widths': [4, 64], 'num_blocks': [1, 1]},
  'input_shape': (8, 8, 1),
  'preprocessing': {'pixel_max': 16.0, 'mean': [5.0], 'std': [6.0]},
  'class_names': tuple('abcdefghij'),
}


def test_the_file_of_a_named_network_answers(rng, tmp_path):
  found = post_training.compress(_VARIABLES, target_ratio=30.0, **_HEADER)
  artifact.write(tmp_path / 'model.hq', found)
  assert found.folded_norms == _NORMS
  classifier = hq_jax.load(tmp_path / 'model.hq')
  images = rng.integers(0, 17, (8, 8, 8, 1), np.uint8)
  inputs = (np.float32(images) - 5) / 6
  logits = np.asarray(_MODEL.apply(classifier.variables, inputs))
  np.testing.assert_allclose(classifier.logits(images), logits, atol=1e-5)
  # Those of the network that was given, as far as a thirtieth of it can be.
  before = np.asarray(_MODEL.apply(_VARIABLES, inputs))
  assert np.corrcoef(logits.ravel(), before.ravel())[0, 1] > 0.9
  answers = classifier.predict(list(images), top=1)
  names = [_HEADER['class_names'][i] for i in logits.argmax(1)]
  assert [answer.classes for answer in answers] == [(name,) for name in names]


def test_weights_alone_are_no_classifier(tmp_path):
  artifact.write(tmp_path / 'a.hq', post_training.compress(_VARIABLES))
  with pytest.raises(ValueError, match="model is '', wanted one of: mlp"):
    hq_jax.load(tmp_path / 'a.hq')


def test_a_name_that_is_not_known_is_said():
  with pytest.warns(UserWarning, match="model is 'resnet-18', which is no"):
    found = post_training.compress(_VARIABLES, model='resnet-18')
  assert found.model == 'resnet-18'


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('input_shape', (1,), r'input_shape is \(1,\), wanted \(height, width, ch'),
    ('input_shape', (8, 8, 3), 'preprocessing: mean is .*, wanted 3 finite'),
    ('preprocessing', {}, 'preprocessing: mean is None, wanted 1 finite'),
    ('class_names', ('a', 'b'), 'class_names has 2 names, wanted 10, one for'),
    (
      'model_arguments',
      {'widths': [4, 32], 'num_blocks': [1, 1]},
      r'variables: \S+ has shape .*, wanted .*, as model .small_resnet.',
    ),
    ('model_arguments', {'widths': [4]}, r'model.widths is \(4,\) and'),
    ('model', 'mlp', 'model.num_blocks is .1, 1., but mlp takes no such'),
  ],
)
def test_what_a_named_network_needs_is_said(field, value, message):
  with pytest.raises(ValueError, match=f'^{message}') as caught:
    post_training.compress(_VARIABLES, **(_HEADER | {field: value}))
  assert '\n' not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['vit', 'resnet18'])
def test_files_of_other_networks_answer_like_them(name, tmp_path):
  is_vit = name == 'vit'
  arguments = {'width': 32, 'depth': 2, 'num_heads': 2} if is_vit else {}
  model = models.build(name, num_classes=3, arguments=arguments)
  image = jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32)
  variables = jax.tree.map(np.asarray, reference.draw(model, image))
  found = post_training.compress(
    variables,
    sparsity=0.3,
    model=name,
    model_arguments=arguments,
    input_shape=(16, 16, 3),
    preprocessing={'mean': [100.0] * 3, 'std': [50.0] * 3},
  )
  artifact.write(tmp_path / 'model.hq', found)
  classifier = hq_jax.load(tmp_path / 'model.hq')
  assert classifier.class_names == ('0', '1', '2')
  images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
  wanted = model.apply(classifier.variables, (np.float32(images) - 100) / 50)
  np.testing.assert_allclose(classifier.logits(images), wanted, atol=1e-4)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (
      {'target_ratio': 30.0, 'sparsity': 0.5},
      'sparsity is 0.5 and target_ratio 30.0, wanted one of them at most',
    ),
    ({'target_ratio': 1.0}, 'target_ratio is 1.0, wanted a number above 1'),
    ({'target_ratio': 5000.0}, 'target_ratio is 5000, which leaves '),
    ({'sparsity': 1.0}, 'sparsity is 1.0 for '),
    ({'sparsity': {'hat': 0.5}}, 'sparsity has no value for '),
    ({'max_error': -1.0}, 'max_error is -1.0, wanted 0 or more'),
    ({'max_error': float('nan')}, 'max_error is nan, wanted 0 or more'),
    ({'select': 'nothing'}, "select: 'nothing' matches no leaf"),
    ({'input_shape': (0,)}, 'input_shape is (0,)'),
    ({'model': 3}, 'model is of type int, wanted a string'),
    ({'norms': {'hat': 1e-5}, 'pairs': {}}, "norm 'hat': 'params/hat/scale'"),
  ],
)
def test_errors_name_the_field_in_one_line(arguments, message):
  with pytest.raises(ValueError) as caught:
    post_training.compress(
      _VARIABLES, **({'norms': _NORMS, 'pairs': _PAIRS} | arguments)
    )
  assert str(caught.value).startswith(message)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('arguments', [{}, {'target_ratio': 9.0}])
@pytest.mark.parametrize('name', ['kernel', 'bias'])
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused(rng, name, value, arguments):
  tree = {'a': {'kernel': rng.standard_normal((99, 9)), 'bias': np.zeros(9)}}
  tree['a'][name].flat[0] = value
  with pytest.raises(ValueError, match=f'a/{name}') as caught:
    post_training.compress(tree, **arguments)
  assert '\n' not in str(caught.value)


def test_shapes_are_refused():
  shape = jax.ShapeDtypeStruct((4, 4), np.float32)
  with pytest.raises(ValueError) as caught:
    post_training.compress({'a': {'kernel': shape}})
  assert str(caught.value) == (
    'variables: params/a/kernel is of type ShapeDtypeStruct, wanted an array'
  )


@pytest.mark.parametrize('arguments', [{}, {'sparsity': 0.7}])
def test_stacked_layers_become_what_each_becomes_alone(rng, arguments):
  gains = np.float32(2.0) ** -np.arange(3).reshape(-1, 1, 1, 1)
  kernel = rng.standard_normal((3, 16, 2, 8), np.float32) * gains
  of_layers = {'layer_axes': 0, 'channel_axis': (-2, -1)}
  stacked = _plain(kernel, **arguments, **of_layers)
  assert stacked.scale.shape == (3, 1, 2, 8)
  for layer, codes, scale in zip(kernel, *stacked, strict=True):
    wanted = _plain(layer.reshape(16, 16), **arguments)
    np.testing.assert_array_equal(codes.reshape(16, 16), wanted.codes)
    np.testing.assert_array_equal(scale.reshape(1, 16), wanted.scale)


def test_stacks_and_equinox_weights_reach_their_target(rng):
  draw = lambda *shape: rng.standard_normal(shape, np.float32)
  params = {
    'blocks': {
      'query': {'kernel': draw(4, 64, 2, 32)},
      'norm': {'scale': 1 + 0.1 * draw(4, 64)},
    },
    'out': {'weight': draw(64, 96)},
  }
  found = post_training.compress(
    params, target_ratio=18.0, layer_axes={'blocks/.*': 0}
  )
  dense_bytes = 4 * sum(x.size for x in jax.tree.leaves(params))
  data = artifact.dumps(found)
  assert 0.99 <= len(data) / (dense_bytes / 18.0) <= 1
  read = artifact.to_variables(artifact.loads(data))['params']
  for (path, value), w in zip(
    trees.flatten(read).items(), jax.tree.leaves(params), strict=True
  ):
    assert value.shape == w.shape
    cosine = (value * w).sum() / np.linalg.norm(value) / np.linalg.norm(w)
    assert cosine > 0.7, path


def test_each_layer_of_what_is_no_kernel_is_within_the_error(rng):
  gains = np.float32(2.0) ** -np.arange(0, 12, 3)
  bias = rng.standard_normal((4, 64), np.float32) * gains[:, None]
  params = {'blocks': {'kernel': np.ones((4, 9, 9)), 'bias': bias}}
  kinds = [
    type(
      post_training.compress(params, max_error=0.01, layer_axes=axes).tensors[
        'params/blocks/bias'
      ]
    )
    for axes in ({'blocks/kernel': 0}, {'blocks/.*': 0})
  ]
  assert kinds == [qtensors.Int8Tensor, np.ndarray]
