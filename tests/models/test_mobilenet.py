"""MobileNetV2 as torchvision has it: sizes, shapes, and its blocks."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import file_size
from hq_jax.core import trees
from hq_jax.models import mobilenet
from tests import compiling
from tests.models import reference


@pytest.fixture(scope='module')
def shapes():
  model = mobilenet.MobileNetV2(num_classes=1000)
  return jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))
  )


def test_the_number_of_parameters(shapes):
  # As torchvision counts them.
  leaves = jax.tree.leaves(shapes['params'])
  assert sum(leaf.size for leaf in leaves) == 3_504_872


def test_the_kernels_are_those_of_the_paper(shapes):
  kernels = trees.flatten_selected(shapes['params'])
  wanted = file_size.get_mobilenet_shapes()
  count = lambda shapes: collections.Counter(map(tuple, shapes))
  assert count(x.shape for x in kernels.values()) == count(wanted.values())


def _depthwise(x, kernel, stride):
  """One zero on either side, and for each channel the sum over its 9 taps."""
  n, height, width, channels = x.shape
  x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  rows, columns = range(0, height, stride), range(0, width, stride)
  y = np.zeros((n, len(rows), len(columns), channels))
  for i, row in enumerate(rows):
    for j, column in enumerate(columns):
      window = x[:, row : row + 3, column : column + 3]
      y[:, i, j] = (window * kernel[:, :, 0]).sum((1, 2))
  return y


def _apply_block(x, variables, stride):
  kernel = lambda place: variables['params'][f'conv_{place}']['kernel']
  norm, relu6 = reference.norm, lambda x: np.minimum(np.maximum(x, 0), 6)
  y = x
  if 'conv_expand' in variables['params']:
    y = relu6(norm(y @ kernel('expand')[0, 0], variables, 'norm_expand'))
  y = _depthwise(y, kernel('depthwise'), stride)
  y = relu6(norm(y, variables, 'norm_depthwise'))
  return norm(y @ kernel('project')[0, 0], variables, 'norm_project')


@pytest.mark.parametrize(
  ('width', 'expansion', 'stride', 'has_shortcut'),
  [(4, 6, 1, True), (4, 2, 2, False), (5, 1, 1, False)],
)
def test_a_block_matches_the_reference(
  rng, width, expansion, stride, has_shortcut
):
  block = mobilenet.Block(width=width, expansion=expansion, stride=stride)
  x = rng.normal(0, 9, (2, 6, 5, 4)).astype(np.float32)  # activations exceed 6
  variables = reference.draw(block, x)
  wide = jax.tree.map(np.float64, variables)
  wanted = _apply_block(np.float64(x), wide, stride)
  wanted += x if has_shortcut else 0
  got, state = compiling.quick_jit(
    lambda variables, x: block.apply(
      variables, x, capture_intermediates=True, mutable=['intermediates']
    )
  )(variables, x)
  inside = state['intermediates']['norm_depthwise']['__call__'][0]
  assert np.max(inside) > 6
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_a_block_with_stride_has_no_shortcut_even_on_one_pixel(rng):
  block = mobilenet.Block(width=4, stride=2)
  x = rng.normal(size=(1, 1, 1, 4)).astype(np.float32)
  shapes = jax.eval_shape(block.init, jax.random.key(0), x)
  variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  # Every weight is zero: only a shortcut could bring the input through.
  assert not np.any(jax.jit(block.apply)(variables, x))
