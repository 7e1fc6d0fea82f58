"""What a file takes besides its kernels: predicted, and as it is written."""

import functools
import itertools
import tracemalloc

import jax
import numpy as np
import pytest

from hq_jax import artifact
from hq_jax import models
from hq_jax.compression import planner
from hq_jax.compression import post_training
from hq_jax.compression import to_artifact
from hq_jax.compression.planner import costs
from hq_jax.compression.planner import overhead
from tests.models import reference

_NETWORKS = {
  'mlp': {'widths': [64, 32]},
  'small_resnet': {'widths': [16, 32, 64], 'num_blocks': [1, 1, 1]},
  'mobilenet_v2': {},
  'vit': {'width': 48, 'depth': 3, 'num_heads': 3},
}
# The one at which scales are known.
_SPARSITY = float(costs.SPARSITIES[costs.SPARSITIES <= 0.9].max())


@functools.cache
def _draw(name):
  """Weights, along which axes they are stacked, and what makes a file."""
  model = models.build(name, num_classes=10, arguments=_NETWORKS[name])
  image = jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32)
  variables = reference.draw(model, image)
  make_artifact = functools.partial(
    to_artifact.make_artifact,
    model=name,
    model_arguments=_NETWORKS[name],
    input_shape=(16, 16, 3),
    preprocessing={'mean': [0.5, 0.25, 0.125]},
    class_names=tuple('0123456789'),
  )
  layer_axes = models.find_layer_axes(variables['params'])
  return variables, layer_axes, make_artifact


@pytest.mark.parametrize('names', [['ternary'], ['ternary', 'int8', 'float16']])
@pytest.mark.parametrize(
  'name',
  [
    *('mlp', 'small_resnet', 'vit'),
    pytest.param('mobilenet_v2', marks=pytest.mark.slow),
  ],
)
def test_overhead_is_that_of_a_file(name, names):
  variables, layer_axes, make_artifact = _draw(name)
  network = overhead.measure(
    variables, layer_axes=layer_axes, make_artifact=make_artifact, draw=False
  )
  encodings = dict(zip(network.kernels, itertools.cycle(names)))
  predicted = overhead.fixed_bytes(network, encodings)

  found = post_training.compress(
    variables['params'], sparsity=_SPARSITY, layer_axes=layer_axes
  ).tensors
  ternary = {
    path: found[f'params/{path}']
    for path, encoding in encodings.items()
    if encoding == 'ternary'
  }
  int8 = {
    path: artifact.quantize_int8(network.kernels[path])
    for path, encoding in encodings.items()
    if encoding == 'int8'
  }
  data = artifact.dumps(make_artifact(variables, ternary, int8))
  kernel_bytes = artifact.sizes(data)['ternary_codes'] + sum(
    round(getattr(network.costs[path], encoding).num_bytes)
    for path, encoding in encodings.items()
    if encoding != 'ternary'
  )
  written = len(data) - kernel_bytes
  largest = max(kernel.size for kernel in network.kernels.values())
  if largest < costs.NUM_IN_PART or names == ['ternary']:
    assert predicted == written
  else:  # A part stands for what is larger.
    assert predicted == pytest.approx(written, abs=0.001 * len(data))


def _peak_of(run):
  """The most bytes that are allocated while it runs."""
  tracemalloc.start()
  try:
    run()
    return tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()


@pytest.mark.parametrize('ratio', [2.5, 5.0, 30.0])
def test_a_plan_from_shapes_holds_no_weights(ratio):
  kernel = jax.ShapeDtypeStruct((8192, 8192), np.float32)
  table = jax.ShapeDtypeStruct((8192, 4096), np.float32)
  layers = {f'{i}': {'kernel': kernel} for i in range(15)}
  plan = lambda: planner.plan(layers | {'table': table}, ratio)
  peak = _peak_of(plan)  # Of a billion weights.
  assert peak < 50e6


def test_a_plan_from_weights_holds_a_part_of_them(rng):
  kernel = rng.standard_normal((4096, 4096), np.float32)
  peak = _peak_of(lambda: planner.plan({'a': {'kernel': kernel}}, 30.0))
  assert peak < kernel.size


def test_large_tensors_that_are_no_kernels_count_as_they_are(rng):
  """Those of an embedding, which is no kernel: of float16 without a header."""
  draw = lambda *shape: rng.standard_normal(shape, np.float32)
  variables = {'a': {'kernel': draw(64, 96)}, 'table': draw(5000, 96)}
  network = overhead.measure(variables, draw=False)
  predicted = overhead.fixed_bytes(network, {'a/kernel': 'int8'})
  int8 = {'a/kernel': artifact.quantize_int8(variables['a']['kernel'])}
  made = overhead.make_plain_artifact({'params': variables}, {}, int8)
  written = len(artifact.dumps(made))
  predicted += round(network.costs['a/kernel'].int8.num_bytes)
  assert predicted == pytest.approx(written, rel=0.001)


def test_kernels_that_are_wider_than_float16_count_as_float32(rng):
  kernel = rng.standard_normal((64, 96)) * 1e5
  network = overhead.measure({'a': {'kernel': kernel}}, draw=False)
  predicted = overhead.fixed_bytes(network, {'a/kernel': 'float16'})
  predicted += round(network.costs['a/kernel'].float16.num_bytes)
  made = overhead.make_plain_artifact(network.variables, {}, {})
  assert predicted == len(artifact.dumps(made)) > 3 * kernel.size


def test_known_scales_are_those_of_codes(rng):
  kernel = rng.standard_normal((8, 40, 3), np.float32)  # out, in, layers
  kernel *= np.float32(2) ** np.arange(3)
  axes = {'channel_axis': 0, 'layer_axes': 2}
  given = {}

  def make_artifact(variables, ternary, int8):
    given.update(ternary)
    return overhead.make_plain_artifact(variables, ternary, int8)

  network = overhead.measure(
    {'a': {'kernel': kernel}}, make_artifact=make_artifact, **axes
  )
  overhead.fixed_bytes(network, {'a/kernel': 'ternary'})
  found = post_training.compress(
    {'a': {'kernel': kernel}}, sparsity=_SPARSITY, **axes
  )
  wanted = found.tensors['params/a/kernel'].scale
  scale = given['a/kernel'].scale
  assert scale.shape == wanted.shape == (8, 1, 3)
  np.testing.assert_array_equal(scale, wanted)
