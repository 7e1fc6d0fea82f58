"""The residual networks of torchvision: sizes, shapes, and one block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax.models import resnet
from tests import compiling
from tests.models import reference

# As torchvision counts them.
NUM_PARAMETERS = {
  18: 11_689_512,
  34: 21_797_672,
  50: 25_557_032,
  101: 44_549_160,
}


@pytest.mark.parametrize('depth', NUM_PARAMETERS)
def test_the_number_of_parameters(depth):
  model = resnet.ResNet(num_classes=1000, depth=depth)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))
  )
  leaves = jax.tree.leaves(shapes['params'])
  assert sum(leaf.size for leaf in leaves) == NUM_PARAMETERS[depth]


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
