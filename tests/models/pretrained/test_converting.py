"""Weights of torchvision give the logits of torchvision, under any name."""

import re

import jax
import ml_dtypes
import numpy as np
import pytest

from hq_jax.core import torch_names as names
from hq_jax.core import trees
from hq_jax.models import pretrained
from hq_jax.models.pretrained import architectures
from hq_jax.models.pretrained import checking
from tests import compiling
from tests.models.pretrained import states


def _compute_logits(architecture, variables):
  model = pretrained.ARCHITECTURES[architecture].build(states.NUM_CLASSES)
  apply = compiling.quick_jit(model.apply)
  return apply(variables, states.draw_images())


@pytest.fixture(scope='module')
def variables(mobilenet_state, mobilenet_shapes):
  """The variables of MobileNetV2; not to be changed."""
  return pretrained.to_flax(
    mobilenet_state, mobilenet_shapes, architecture='mobilenet_v2'
  )


def test_the_logits_of_mobilenet(recorded, variables):
  _assert_equal_logits('mobilenet_v2', variables, recorded)


@pytest.mark.parametrize(
  'architecture',
  ['resnet18', pytest.param('resnet50', marks=pytest.mark.slow)],
)
def test_a_residual_network(recorded, architecture):
  state = states.draw_state(recorded[architecture]['shapes'])
  shapes = architectures.get_shapes(architecture, states.NUM_CLASSES)
  variables = pretrained.to_flax(state, shapes, architecture=architecture)
  _assert_equal_logits(architecture, variables, recorded)
  back = pretrained.to_torchvision(variables, architecture=architecture)
  _assert_equal_states(back, state)


def _assert_equal_logits(architecture, variables, recorded):
  wanted = np.float64(recorded[architecture]['logits'])
  got = _compute_logits(architecture, variables)
  scale = np.abs(wanted).max()
  # The images and the classes matter: this is no comparison of constants.
  assert np.ptp(wanted, axis=0).max() > 0.05 * scale
  assert np.ptp(wanted, axis=1).min() > scale
  np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * scale)


def _assert_equal_trees(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def _assert_equal_states(a, b):
  assert set(a) == set(b)
  for name in a:
    assert a[name].dtype == b[name].dtype, name
    np.testing.assert_array_equal(a[name], b[name], name, strict=True)


def test_the_layouts(variables, mobilenet_state, mobilenet_shapes):
  params = variables['params']
  kernel = params['block2']['conv_depthwise']['kernel']
  there = mobilenet_state['features.2.conv.1.0.weight']
  assert kernel.shape == (3, 3, 1, 96) and there.shape == (96, 1, 3, 3)
  assert kernel[0, 2, 0, 7] == there[7, 0, 0, 2]
  kernel = params['conv_stem']['kernel']
  assert (
    kernel[2, 1, 0, 9] == mobilenet_state['features.0.0.weight'][9, 0, 2, 1]
  )
  kernel = params['head']['kernel']
  assert kernel[5, 3] == mobilenet_state['classifier.1.weight'][3, 5]
  leaves = jax.tree.leaves(variables)
  assert all(x.dtype == np.float32 for x in leaves)
  # Copies: what is done to the variables does not change the state.
  assert not any(
    np.shares_memory(x, y) for x in leaves[:5] for y in mobilenet_state.values()
  )
  as_shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert as_shapes(variables) == as_shapes(mobilenet_shapes)


def test_there_and_back(variables, mobilenet_state, mobilenet_shapes):
  state = pretrained.to_torchvision(variables, architecture='mobilenet_v2')
  _assert_equal_states(state, mobilenet_state)
  again = pretrained.to_flax(
    state, mobilenet_shapes, architecture='mobilenet_v2'
  )
  _assert_equal_trees(again, variables)


# From the names of torchvision to those of transformers' modeling_resnet.py.
_HUGGING_FACE = (
  (r'^conv1\.', 'embedder.embedder.convolution.'),
  (r'^bn1\.', 'embedder.embedder.normalization.'),
  (r'\.conv(\d)\.', lambda m: f'.layer.{int(m[1]) - 1}.convolution.'),
  (r'\.bn(\d)\.', lambda m: f'.layer.{int(m[1]) - 1}.normalization.'),
  (r'\.downsample\.0\.', '.shortcut.convolution.'),
  (r'\.downsample\.1\.', '.shortcut.normalization.'),
  (r'^layer(\d)\.', lambda m: f'encoder.stages.{int(m[1]) - 1}.layers.'),
)


def _to_hugging_face(name, prefix):
  if name.startswith('fc.'):
    return f'classifier.1.{name[3:]}'
  for pattern, replacement in _HUGGING_FACE:
    name = re.sub(pattern, replacement, name)
  return prefix + name


@pytest.mark.parametrize('prefix', ['resnet.', ''])
def test_the_names_of_hugging_face(recorded, prefix):
  # Each array holds its own number: enough to see where it goes.
  shapes = architectures.get_shapes('resnet18', states.NUM_CLASSES)
  state = {
    name: np.broadcast_to(np.float32(i), shape)
    for i, (name, shape) in enumerate(recorded['resnet18']['shapes'].items())
  }
  renamed = {_to_hugging_face(n, prefix): x for n, x in state.items()}
  _assert_equal_trees(
    pretrained.to_flax(renamed, shapes, architecture='resnet18'),
    pretrained.to_flax(state, shapes, architecture='resnet18'),
  )


def test_the_names_of_hugging_face_for_bottlenecks(recorded):
  shapes = architectures.get_shapes('resnet50', states.NUM_CLASSES)
  got = checking.name_shapes(trees.flatten(shapes), names.hugging_face_resnet)
  wanted = {
    _to_hugging_face(name, ''): tuple(shape)
    for name, shape in recorded['resnet50']['shapes'].items()
    if 'num_batches' not in name
  }
  assert got == wanted
  assert 'encoder.stages.0.layers.0.shortcut.convolution.weight' in got
  assert 'encoder.stages.3.layers.2.layer.2.normalization.bias' in got


def _list_timm_modules():
  """The modules of timm's `mobilenetv2_100` in the order of computation."""
  modules = ['conv_stem', 'bn1']
  for stage, num_blocks in enumerate((1, 2, 3, 4, 3, 3, 1)):
    convs = ('conv_dw', 'conv_pw') if stage == 0 else ()
    convs = convs or ('conv_pw', 'conv_dw', 'conv_pwl')
    for block in range(num_blocks):
      for i, conv in enumerate(convs, start=1):
        parent = f'blocks.{stage}.{block}'
        modules += [f'{parent}.{conv}', f'{parent}.bn{i}']
  return [*modules, 'conv_head', 'bn2', 'classifier']


def test_the_names_of_timm(variables, mobilenet_state, mobilenet_shapes):
  # torchvision lists its modules in the order of computation too.
  modules = list(dict.fromkeys(n.rpartition('.')[0] for n in mobilenet_state))
  renaming = dict(zip(modules, _list_timm_modules(), strict=True))
  renamed = {}
  for name, array in mobilenet_state.items():
    module, _, leaf = name.rpartition('.')
    renamed[f'{renaming[module]}.{leaf}'] = array
  assert renamed['blocks.6.0.conv_pwl.weight'].shape == (320, 960, 1, 1)
  _assert_equal_trees(
    pretrained.to_flax(renamed, mobilenet_shapes, architecture='mobilenet_v2'),
    variables,
  )


def test_a_new_head(variables, mobilenet_state):
  params = {k: x for k, x in variables['params'].items() if k != 'head'}
  wanted = variables | {'params': params}
  shapes = architectures.get_shapes('mobilenet_v2', 3)
  headless = {
    name: x for name, x in mobilenet_state.items() if 'classifier' not in name
  }
  for state in (mobilenet_state, headless):
    backbone = pretrained.to_flax(
      state, shapes, architecture='mobilenet_v2', new_head=True
    )
    _assert_equal_trees(backbone, wanted)


@pytest.mark.parametrize('dtype', [np.float64, ml_dtypes.bfloat16])
def test_other_floating_point(mobilenet_state, mobilenet_shapes, dtype):
  name = 'features.0.1.bias'
  state = mobilenet_state | {name: mobilenet_state[name].astype(dtype)}
  # Of a head that is not used, the values do not matter.
  state['classifier.1.bias'] = np.full(20, np.nan, np.float32)
  variables = pretrained.to_flax(
    state, mobilenet_shapes, architecture='mobilenet_v2', new_head=True
  )
  bias = variables['params']['norm_stem']['bias']
  assert bias.dtype == np.float32
  np.testing.assert_array_equal(bias, state[name].astype(np.float32))


def test_variables_in_bfloat16_become_float32(mobilenet_shapes):
  one = ml_dtypes.bfloat16(1)
  ones = jax.tree.map(lambda x: np.broadcast_to(one, x.shape), mobilenet_shapes)
  state = pretrained.to_torchvision(ones, architecture='mobilenet_v2')
  kinds = {
    str(x.dtype) for name, x in state.items() if 'num_batches' not in name
  }
  assert kinds == {'float32'}
  assert state['features.0.1.num_batches_tracked'].shape == ()


def test_variables_that_are_not_those_of_the_network(mobilenet_shapes):
  zeros = jax.tree.map(lambda x: np.broadcast_to(0, x.shape), mobilenet_shapes)
  with pytest.raises(
    ValueError, match=r'^the variables do not fit resnet18 \('
  ):
    pretrained.to_torchvision(zeros, architecture='resnet18')
  leaves = trees.flatten(zeros)
  del leaves['params/head/bias']
  with pytest.raises(ValueError, match='missing: params/head/bias;'):
    pretrained.to_torchvision(leaves, architecture='mobilenet_v2')
