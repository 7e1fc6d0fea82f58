"""The residual networks of torchvision: sizes, shapes, and one block."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax import models
from hq_jax.models import resnet
from tests import compiling
from tests.models import reference


@functools.cache
def _shapes(depth):
  model = resnet.ResNet(num_classes=1000, depth=depth)
  return jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))
  )


# As torchvision counts them.
NUM_PARAMETERS = {
  18: 11_689_512,
  34: 21_797_672,
  50: 25_557_032,
  101: 44_549_160,
}


@pytest.mark.parametrize('depth', NUM_PARAMETERS)
def test_the_number_of_parameters(depth):
  leaves = jax.tree.leaves(_shapes(depth)['params'])
  assert sum(leaf.size for leaf in leaves) == NUM_PARAMETERS[depth]


def test_names_and_shapes():
  params = jax.tree.map(jnp.shape, _shapes(50)['params'])
  blocks = [
    f'stage{stage}_block{block + 1}'
    for stage, num in enumerate((3, 4, 6, 3), start=1)
    for block in range(num)
  ]
  assert set(params) == {'conv_stem', 'norm_stem', 'head', *blocks}
  assert params['conv_stem'] == {'kernel': (7, 7, 3, 64)}
  assert params['head'] == {'kernel': (2048, 1000), 'bias': (1000,)}
  first = params['stage2_block1']
  assert first['conv1'] == {'kernel': (1, 1, 256, 128)}
  assert first['conv2'] == {'kernel': (3, 3, 128, 128)}
  assert first['conv3'] == {'kernel': (1, 1, 128, 512)}
  assert first['conv_proj'] == {'kernel': (1, 1, 256, 512)}
  # The first stage changes the width alone, the others the resolution too;
  # within a stage the shortcut has no weights.
  with_weights = {name for name in blocks if 'conv_proj' in params[name]}
  assert with_weights == {f'stage{stage}_block1' for stage in (1, 2, 3, 4)}
  params = _shapes(18)['params']
  assert 'conv_proj' not in params['stage1_block1']
  assert 'conv3' not in params['stage2_block1']


def test_every_norm_is_paired_with_its_convolution():
  params = _shapes(18)['params']
  pairs = models.pair_norms(params)
  assert set(pairs) == set(models.find_norms(params))
  assert len(pairs) == 20


@pytest.mark.parametrize(
  ('depth', 'channels'),
  [(18, (64, 128, 256, 512)), (50, (256, 512, 1024, 2048))],
)
def test_shapes_of_what_is_computed(depth, channels):
  model = resnet.ResNet(num_classes=10, depth=depth)

  def apply(x):
    variables = model.init(jax.random.key(0), x)
    return model.apply(variables, x, capture_intermediates=True)

  x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
  logits, state = jax.eval_shape(apply, x)
  assert logits.shape == (2, 10) and logits.dtype == jnp.float32
  inside = state['intermediates']
  shape = lambda name: inside[name]['__call__'][0].shape
  assert shape('conv_stem') == (2, 112, 112, 64)
  for stage, width in enumerate(channels, start=1):
    size = 112 // 2**stage
    wanted = (2, size, size, width)
    assert shape(f'stage{stage}_block1') == wanted
    assert shape(f'stage{stage}_block2') == wanted
  # A stride belongs to the 3x3 convolution, not to the 1x1 before it.
  block = inside['stage2_block1']
  strided = {18: 'conv1', 50: 'conv2'}[depth]
  assert block[strided]['__call__'][0].shape[1] == 28
  if depth == 50:
    assert block['conv1']['__call__'][0].shape[1] == 56


@pytest.mark.parametrize('depth', [17, '50'])
def test_a_depth_that_is_not_there(depth):
  model = resnet.ResNet(num_classes=10, depth=depth)
  with pytest.raises(
    ValueError, match=f'model.depth is {depth}, wanted one of: 18, 34, 50, 101'
  ):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def test_a_bottleneck_matches_the_reference(rng):
  block = resnet.Block(width=4, stride=2, bottleneck=True)
  x = rng.normal(size=(2, 6, 8, 5)).astype(np.float32)
  variables = reference.draw(block, x)
  wide = jax.tree.map(np.float64, variables)
  y = reference.conv_norm(np.float64(x), wide, 1)
  y = reference.conv_norm(np.maximum(y, 0), wide, 2, 2)
  y = reference.conv_norm(np.maximum(y, 0), wide, 3)
  shortcut = reference.conv_norm(np.float64(x), wide, '_proj', 2)
  got = compiling.quick_jit(block.apply)(variables, x)
  assert got.shape == (2, 3, 4, 16)
  wanted = np.maximum(y + shortcut, 0)
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_the_whole_network_matches_the_reference(rng):
  model = resnet.ResNet(num_classes=3, depth=18)
  x = rng.normal(size=(1, 32, 32, 3)).astype(np.float32)
  variables = reference.draw(model, x)
  wide = jax.tree.map(np.float64, variables)
  y = np.maximum(reference.conv_norm(np.float64(x), wide, '_stem', 2), 0)
  # The largest of 3 by 3, two steps apart; padding is no value.
  y = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
  windows = np.lib.stride_tricks.sliding_window_view(y, (3, 3), (1, 2))
  y = windows[:, ::2, ::2].max((-1, -2))
  for stage in range(1, 5):
    for block in (1, 2):
      inside = reference.inside(wide, f'stage{stage}_block{block}')
      y = reference.block(y, inside, 2 if stage > 1 and block == 1 else 1)
  wanted = reference.classify(y, wide)
  got = compiling.quick_jit(model.apply)(variables, x)
  assert got.dtype == jnp.float32 and got.shape == (1, 3)
  scale = np.abs(wanted).max()
  assert scale > 0.1
  np.testing.assert_allclose(got, wanted, atol=1e-4 * scale)
