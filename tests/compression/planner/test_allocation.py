"""From a target to a plan, held against files that were written."""

import functools
import itertools
import re

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
from hq_jax.core import qtensors
from hq_jax.core import trees


def _shapes(shapes):
  """Kernels of these shapes, each with a bias."""
  return {
    name: {
      'kernel': jax.ShapeDtypeStruct(shape, np.float32),
      'bias': jax.ShapeDtypeStruct(shape[-1:], np.float32),
    }
    for name, shape in shapes.items()
  }


_WIDE = _shapes({'a': (512, 512), 'b': (3, 3, 64, 128), 'head': (512, 100)})


def _mobilenet():
  """Depthwise and pointwise convolutions in turn, 32 to 256 channels."""
  shapes = {'stem': (3, 3, 3, 32)}
  for i, width in enumerate((32, 64, 128, 256)):
    shapes[f'depthwise{i}'] = (3, 3, 1, width)
    shapes[f'pointwise{i}'] = (1, 1, width, 2 * width)
  return _shapes(shapes | {'head': (512, 200)})


def _resnet():
  model = models.build(
    'small_resnet',
    num_classes=10,
    arguments={'widths': [32, 64, 128], 'num_blocks': [1, 1, 1]},
  )
  images = np.zeros((1, 8, 8, 1))
  return jax.eval_shape(model.init, jax.random.key(0), images)


def _draw(tree, rng):
  """Weights as of a trained network: norms and statistics are not constant."""

  def draw(path, leaf):
    name = trees.path_string(path).rpartition('/')[2]
    values = rng.standard_normal(leaf.shape).astype(np.float32)
    if name == 'kernel':
      return values / np.float32(np.prod(leaf.shape[:-1])) ** 0.5
    return np.abs(values) + np.float32(0.1) if name == 'var' else values

  return jax.tree_util.tree_map_with_path(draw, tree)


_fold = functools.partial(
  to_artifact.make_artifact,
  model='net',
  model_arguments={},
  input_shape=(8, 8, 1),
  preprocessing={},
  class_names=('a',),
)


def _write(variables, plan, make_artifact, rng):
  """The bytes of a file with codes drawn independently, as planned."""
  variables = overhead.collect(variables)
  kernels = trees.flatten_selected(variables['params'])
  ternary, int8 = {}, {}
  for path, layer in plan.layers.items():
    kernel = kernels[path]
    if layer.encoding == 'int8':
      int8[path] = artifact.quantize_int8(kernel)
    elif layer.encoding == 'ternary':
      # As `thresholds.num_kept`, in float32.
      kept = (np.float32(1) - np.float32(layer.sparsity)) * kernel.size
      kept = int(np.clip(np.round(kept), 1, kernel.size))
      codes = np.zeros(kernel.size, np.int8)
      codes[:kept] = rng.choice(np.array([-1, 1], np.int8), kept)
      shape = [1] * (kernel.ndim - 1) + [kernel.shape[-1]]
      scale = rng.uniform(0.5, 2, shape).astype(np.float32)
      ternary[path] = qtensors.TernaryTensor(
        rng.permutation(codes).reshape(kernel.shape), scale
      )
  return len(artifact.dumps(make_artifact(variables, ternary, int8)))


@pytest.mark.parametrize('sparsity', [1 / 3, 0.5, 0.85, 0.97, 0.995])
@pytest.mark.parametrize('name', ['resnet', 'wide'])
def test_a_prediction_is_hardly_above_the_file(rng, name, sparsity):
  shapes, make_artifact = {
    'resnet': (_resnet(), _fold),
    'wide': (_WIDE, overhead.make_plain_artifact),
  }[name]
  plan = planner.predict(shapes, sparsity, make_artifact=make_artifact)
  assert set(planner.sparsities(plan).values()) == {sparsity}
  for _ in range(2):
    variables = _draw(shapes, rng)
    written = _write(variables, plan, make_artifact, rng)
    # Drawn norms differ more in size than these.
    assert -0.001 * written <= plan.predicted_bytes - written
    assert plan.predicted_bytes - written <= 0.01 * written + 150


@pytest.mark.parametrize('known', ['shapes', 'arrays'])
@pytest.mark.parametrize('ratio', [3.0, 8.0, 15.0, 30.0])
@pytest.mark.parametrize(
  'allocation', ['uniform', 'erdos_renyi_kernel', 'cosine_distance']
)
def test_a_file_as_planned_reaches_the_ratio(rng, allocation, ratio, known):
  shapes = _resnet()
  variables = _draw(shapes, rng)
  plan = planner.plan(
    shapes if known == 'shapes' else variables,
    ratio,
    allocation=allocation,
    make_artifact=_fold,
  )
  dense_bytes = 4 * sum(x.size for x in jax.tree.leaves(shapes))
  written = _write(variables, plan, _fold, rng)
  assert plan.dense_bytes == dense_bytes == 1_237_672
  assert plan.predicted_bytes <= dense_bytes / ratio
  assert written <= 1.001 * plan.predicted_bytes
  assert plan.predicted_bytes <= 1.01 * written
  assert plan.predicted_bytes == plan.fixed_bytes + sum(
    layer.num_bytes for layer in plan.layers.values()
  )
  if allocation == 'cosine_distance' and ratio > 8:
    assert plan.predicted_bytes >= 0.999 * dense_bytes / ratio


def test_a_collection_or_the_parameters_alone(rng):
  params = _draw(_WIDE, rng)
  assert planner.plan(params, 25.0) == planner.plan({'params': params}, 25.0)


@pytest.mark.parametrize('ratio', [1.5, 10.0, 17.0])
def test_a_small_ratio_takes_a_third_of_zeros(ratio):
  plan = planner.plan(_WIDE, ratio, allocation='uniform')
  assert set(planner.sparsities(plan).values()) == {1 / 3}
  wanted = int(plan.dense_bytes / ratio)
  assert plan == planner.predict(_WIDE, 1 / 3)._replace(target_bytes=wanted)
  assert planner.describe(plan).endswith(
    f'; the target leaves {wanted - plan.predicted_bytes:,} bytes that no'
    ' kernel can use'
  )


@pytest.mark.parametrize('ratio', [25.0, 40.0])
def test_uniform_is_the_least_sparsity(ratio):
  plan = planner.plan(_WIDE, ratio, allocation='uniform')
  (sparsity,) = set(planner.sparsities(plan).values())
  wanted = int(plan.dense_bytes / ratio)
  found = planner.predict(_WIDE, sparsity)
  assert plan == found._replace(target_bytes=wanted)
  assert planner.predict(_WIDE, sparsity - 1e-4).predicted_bytes > wanted


@pytest.mark.parametrize(
  ('bits', 'sparsity'),
  [(1.181, 0.7), (0.922, 0.8), (0.760, 0.85), (0.569, 0.9)],
)
def test_zeros_of_a_large_kernel(bits, sparsity):
  shapes = {'a': {'kernel': jax.ShapeDtypeStruct((8192, 256), np.float32)}}
  for allocation in ('uniform', 'cosine_distance'):
    plan = planner.plan(shapes, 32 / bits, allocation=allocation)
    found = planner.sparsities(plan)['a/kernel']
    assert found == pytest.approx(sparsity, abs=2e-3)


def test_small_kernels_keep_more_by_erdos_renyi():
  found = planner.sparsities(
    planner.plan(_WIDE, 25.0, allocation='erdos_renyi_kernel')
  )
  # Fewer weights for the sum of their axes: 612 / 51,200, 258 / 73,728, ..
  assert found['head/kernel'] < found['a/kernel'] < found['b/kernel']


@pytest.mark.parametrize('ratio', [16.0, 20.0])
def test_first_and_depthwise_convolutions_become_int8(rng, ratio):
  variables = _draw(_mobilenet(), rng)
  plan = planner.plan(variables, ratio)
  found = {path: layer.encoding for path, layer in plan.layers.items()}
  small = {path for path in found if re.match('stem|depthwise', path)}
  assert {found[path] for path in small} == {'int8'}
  assert found['pointwise3/kernel'] == found['head/kernel'] == 'ternary'
  written = _write(variables, plan, overhead.make_plain_artifact, rng)
  assert written <= 1.001 * plan.predicted_bytes
  assert plan.predicted_bytes <= 1.01 * written
  assert plan.dense_bytes / plan.predicted_bytes >= ratio


def test_encodings_may_be_restricted(rng):
  variables = _draw(_mobilenet(), rng)
  for names in (['ternary'], ['ternary', 'int8'], ['int8'], ['float16']):
    ratio = 15.0 if 'ternary' in names else 1.8
    plan = planner.plan(variables, ratio, encodings=names)
    assert {layer.encoding for layer in plan.layers.values()} == set(names)


def test_distance_is_the_least_of_many(rng):
  """No combination from a grid of sparsities is nearer and as small."""
  variables = _draw(_WIDE, rng)
  plan = planner.plan(variables, 30.0, encodings=['ternary'])
  grid = np.flatnonzero((costs.SPARSITIES > 0.4) & (costs.SPARSITIES < 0.99))
  network = overhead.measure(variables)
  tables = [
    [
      (
        1.0005 * costs.ternary_bytes(p.size, costs.SPARSITIES[i]),
        p.ternary[i],
      )
      for i in grid[::2]
    ]
    for p in network.costs.values()
  ]
  budget = plan.predicted_bytes - plan.fixed_bytes
  num_bytes = sum(np.ix_(*[np.array([x for x, _ in t]) for t in tables]))
  distances = sum(np.ix_(*[np.array([d for _, d in t]) for t in tables]))
  best = distances[num_bytes <= budget].min()
  found = sum(layer.cosine_distance for layer in plan.layers.values())
  assert found <= best + 1e-4
  uniform = planner.plan(variables, 30.0, allocation='uniform')
  assert found < sum(x.cosine_distance for x in uniform.layers.values()) - 0.01


def test_codes_that_take_less_leave_room_for_more():
  whole = planner.plan(_WIDE, 30.0, allocation='uniform')
  less = planner.plan(_WIDE, 30.0, allocation='uniform', code_fraction=0.9)
  one, other = planner.sparsities(whole), planner.sparsities(less)
  assert all(other[path] < one[path] for path in one)
  # 0.9 of the codes' bytes, and what is no code as before.
  same = planner.predict(_WIDE, one, code_fraction=0.9)
  codes = whole.predicted_bytes - whole.fixed_bytes
  assert same.predicted_bytes == pytest.approx(
    whole.fixed_bytes + 0.9 * codes, abs=4
  )


def test_a_sparsity_for_each_kernel():
  found = planner.predict(_WIDE, {'head/.*': 0.5, '.*': 0.9})
  assert planner.sparsities(found) == {
    'a/kernel': 0.9,
    'b/kernel': 0.9,
    'head/kernel': 0.5,
  }
  # 1.5 bits each, and the coder's own overhead.
  bytes_ = found.layers['head/kernel'].num_bytes
  assert bytes_ == pytest.approx(51_200 * 1.5 / 8, rel=1e-3)
  assert found.layers['a/kernel'].cosine_distance == pytest.approx(
    0.352, abs=0.02
  )


@pytest.mark.parametrize('ratio', [400.0, 1000.0])
@pytest.mark.parametrize('allocation', ['uniform', 'cosine_distance'])
def test_an_impossible_ratio_is_refused_in_bytes(allocation, ratio):
  with pytest.raises(ValueError) as caught:
    planner.plan(_WIDE, ratio, allocation=allocation)
  least = planner.predict(_WIDE, 0.995)
  message = str(caught.value)
  most = re.search(r'wanted a ratio of at most ([\d.]+)$', message)
  dense_bytes = 4 * (512 * 512 + 9 * 64 * 128 + 512 * 100 + 512 + 128 + 100)
  kernels = [
    f'{path} {least.layers[path].num_bytes:,}'
    for path in ('a/kernel', 'b/kernel', 'head/kernel')
  ]
  assert message.startswith(
    f'target_ratio is {ratio:g}, which leaves {int(dense_bytes / ratio):,}'
    f' bytes of {dense_bytes:,}; header, scales and norms alone take'
    f' {least.fixed_bytes:,}, and kernels that are ternary with 99.5% zeros'
    f' {least.predicted_bytes - least.fixed_bytes:,} more (most of them'
    f' {", ".join(kernels)}), wanted'
  )
  # What it wants is what it takes, and hardly more is refused.
  best = float(most[1])
  plan = planner.plan(_WIDE, best, allocation=allocation)
  assert dense_bytes / plan.predicted_bytes >= best
  with pytest.raises(ValueError, match='target_ratio'):
    planner.plan(_WIDE, best + 0.1, allocation=allocation)


@pytest.mark.parametrize(
  'ratio', [1, 1.0, 0.5, -3.0, float('nan'), float('inf'), '30', None, True]
)
def test_what_is_no_ratio_is_refused(ratio):
  with pytest.raises(ValueError) as caught:
    planner.plan(_WIDE, ratio)
  assert str(caught.value) == (
    f'target_ratio is {ratio!r}, wanted a number above 1'
  )


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'allocation': 'fair'}, "allocation is 'fair', wanted one of: cosine"),
    ({'encodings': ['int4']}, r"encodings is \['int4'\], wanted some of"),
    ({'encodings': []}, r'encodings is \[\], wanted some of'),
    ({'code_fraction': 0}, r'code_fraction is 0, wanted a number in \(0, 2\]'),
    ({'code_fraction': float('nan')}, 'code_fraction is nan'),
    ({'select': 'nothing'}, "select: 'nothing' matches no leaf"),
  ],
)
def test_other_arguments_are_checked(arguments, message):
  with pytest.raises(ValueError, match=f'^{message}'):
    planner.plan(_WIDE, 30.0, **arguments)


@pytest.mark.parametrize('sparsity', [1.0, -0.1, float('nan'), 'half'])
def test_what_is_no_sparsity_is_refused(sparsity):
  with pytest.raises(ValueError) as caught:
    planner.predict(_WIDE, sparsity)
  assert str(caught.value) == (
    f'sparsity is {sparsity!r} for a/kernel, wanted a number in [0, 1)'
  )


def _draw_stack(rng, width=128, depth=4):
  """Layers of attention that differ in size, and what stands around them."""
  gains = np.float32(2.0) ** -np.arange(depth).reshape(-1, 1, 1, 1)
  draw = lambda *shape: rng.standard_normal(shape, np.float32)
  return {
    'blocks': {
      'query': {'kernel': draw(depth, width, 2, width // 2) * gains},
      'out': {'kernel': draw(depth, 2, width // 2, width) * gains},
      'mlp': {'kernel': draw(depth, width, 4 * width) * gains[..., 0]},
      'norm': {'scale': 1 + 0.1 * draw(depth, width)},
    },
    'embed': {'kernel': draw(4, 4, 3, width)},
    'position': draw(17, width),
    'head': {'weight': draw(10, width)},
  }


_LAYERS = {'blocks/.*/kernel': 0}


@pytest.mark.parametrize('sparsity', [1 / 3, 0.8, 0.95])
def test_a_prediction_of_stacks_is_hardly_above_the_file(rng, sparsity):
  params = _draw_stack(rng)
  plan = planner.predict(params, sparsity, layer_axes=_LAYERS)
  found = post_training.compress(
    params, sparsity=sparsity, layer_axes=_LAYERS
  ).tensors
  codes = {
    path: found[name]
    for name, path in trees.in_params({p: p for p in plan.layers}).items()
  }
  written = overhead.make_plain_artifact({'params': params}, codes, {})
  num_bytes = len(artifact.dumps(written))
  assert plan.predicted_bytes == pytest.approx(num_bytes, rel=0.01)
  assert plan.layers['blocks/mlp/kernel'].layer_axes == (0,)
  assert plan.layers['head/weight'].layer_axes == ()


def test_distances_of_a_stack_are_the_mean_of_its_layers(rng):
  (query, mlp) = (
    _draw_stack(rng)['blocks'][m]['kernel'] for m in ('query', 'mlp')
  )
  for kernel, channel in ((query, (2, 3)), (mlp, (2,))):
    found = costs.measure(kernel, trees.Axes(channel, (0,)))
    layers = [costs.measure(x.reshape(len(x), -1)) for x in kernel]
    wanted = np.mean([layer.ternary for layer in layers], axis=0)
    np.testing.assert_allclose(found.ternary, wanted, rtol=1e-12)
    assert found.num_layers == 4
    size = kernel.size // 4
    assert costs.ternary_bytes(kernel.size, 0.8, 4) == 4 * costs.ternary_bytes(
      size, 0.8
    )


def test_a_stack_is_planned_as_its_layers_would_be(rng):
  stack = rng.standard_normal((4, 256, 256), np.float32)
  other = {'kernel': rng.standard_normal((512, 128), np.float32)}
  layers = {f'{i}': {'kernel': layer} for i, layer in enumerate(stack)}
  found = planner.plan(
    {'a': {'kernel': stack}, 'b': other}, 20.0, layer_axes={'a/kernel': 0}
  ).layers
  wanted = planner.plan(layers | {'b': other}, 20.0).layers
  assert found['a/kernel'].sparsity == pytest.approx(
    wanted['0/kernel'].sparsity, abs=0.005
  )
  assert found['b/kernel'].sparsity == pytest.approx(
    wanted['b/kernel'].sparsity, abs=0.005
  )


def test_kernels_that_no_file_holds_are_refused():
  kernel = np.array([[1.0, np.nan]], np.float32)
  with pytest.raises(ValueError, match=r'^variables: a/kernel holds NaN'):
    planner.plan({'a': {'kernel': kernel}}, 30.0)


def test_fixed_bytes_are_those_of_the_layout(rng):
  """Whatever the kernels hold, and however many they are."""
  network = overhead.measure(_WIDE)
  names = list(network.kernels)
  fixed = {
    found: overhead.fixed_bytes(network, dict(zip(names, found, strict=True)))
    for found in itertools.product(['ternary', 'int8', 'float16'], repeat=3)
  }
  # Scales and tables of 740 channels and three kernels, at most.
  assert max(fixed.values()) - min(fixed.values()) < 2 * 740 + 1500


def test_a_plan_without_ternary_kernels_is_described_by_what_it_has():
  layer = planner.LayerPlan('binary', 0.0, 10, 0.2)
  plan = planner.Plan(dict.fromkeys('abcd', layer), 40_000, 100, 1_000_000)
  assert planner.describe(plan) == (
    '4 in binary; at most 40,000 of 1,000,000 bytes (25.0x)'
  )
  layers = plan.layers | {'a': planner.LayerPlan('int8', 0.0, 80, 0.0)}
  assert planner.describe(plan._replace(layers=layers)) == (
    '1 in int8, 3 in binary; at most 40,000 of 1,000,000 bytes (25.0x)'
  )
