"""The small residual network against NumPy, and its shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax.models import small
from tests import compiling
from tests.models import reference

MODEL = small.SmallResNet(num_classes=3, widths=(4, 6), num_blocks=(1, 2))


@pytest.fixture(scope='module')
def variables():
  return reference.draw(MODEL, jnp.zeros((1, 8, 8, 2)))


def test_matches_the_reference(rng, variables):
  x = rng.normal(size=(2, 5, 7, 2)).astype(np.float32)
  wide = jax.tree.map(np.float64, variables)
  y = np.maximum(reference.conv_norm(np.float64(x), wide, '_stem'), 0)
  for name, stride in (
    ('stage1_block1', 1),
    ('stage2_block1', 2),
    ('stage2_block2', 1),
  ):
    y = reference.block(y, reference.inside(wide, name), stride)
  logits = compiling.quick_jit(MODEL.apply)(variables, x)
  assert logits.dtype == jnp.float32
  wanted = reference.classify(y, wide)
  np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)


def test_the_number_of_parameters():
  model = small.SmallResNet(num_classes=10)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1))
  )
  convs = 9 * (32 + 2 * 32**2 + 32 * 64 + 64**2 + 64 * 128 + 128**2)
  shortcuts = 32 * 64 + 64 * 128
  norms = 2 * (3 * 32 + 3 * 64 + 3 * 128)
  wanted = convs + shortcuts + norms + 128 * 10 + 10
  leaves = jax.tree.leaves(shapes['params'])
  assert sum(leaf.size for leaf in leaves) == wanted
