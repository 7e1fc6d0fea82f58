"""Models built from plain values, and what holds for all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax import models
from hq_jax.core import trees
from hq_jax.models import mlp
from hq_jax.models import mobilenet
from hq_jax.models import resnet
from hq_jax.models import small
from tests import compiling
from tests.models import reference

# Small ones, and blocks of those that are large.
MODELS = {
  'mlp': mlp.MLP(num_classes=3, widths=(6, 5)),
  'small': small.SmallResNet(num_classes=3, widths=(4, 6), num_blocks=(1, 1)),
  'resnet': resnet.Block(width=2, stride=2, bottleneck=True),
  'mobilenet': mobilenet.Block(width=4, expansion=2),
}


@pytest.mark.parametrize('name', MODELS)
def test_training_uses_and_updates_the_statistics_of_the_batch(rng, name):
  model = MODELS[name]
  x = rng.normal(size=(4, 4, 4, 4)).astype(np.float32)
  variables = reference.draw(model, x)

  @compiling.quick_jit
  def apply(variables, x):
    return model.apply(
      variables, x, train=True, mutable=['batch_stats', 'intermediates'],
      capture_intermediates=True,
    )  # fmt: skip

  _, updated = apply(variables, x)
  outputs = trees.flatten(updated['intermediates'])
  before = trees.flatten(variables['batch_stats'])
  after = trees.flatten(updated['batch_stats'])
  pairs = models.pair_norms(variables['params'])
  assert set(pairs) == set(models.find_norms(variables['params']))
  assert len(after) == 2 * len(pairs)
  scale = trees.flatten(variables['params'])
  for norm, layer in pairs.items():
    y = np.float64(outputs[f'{layer}/__call__/0'])
    axes = tuple(range(y.ndim - 1))
    for kind, value in (('mean', y.mean(axes)), ('var', y.var(axes))):
      wanted = 0.9 * before[f'{norm}/{kind}'] + 0.1 * value
      np.testing.assert_allclose(
        after[f'{norm}/{kind}'], wanted, rtol=1e-4, atol=1e-5
      )
    normalized = (y - y.mean(axes)) / np.sqrt(y.var(axes) + 1e-5)
    wanted = normalized * scale[f'{norm}/scale'] + scale[f'{norm}/bias']
    np.testing.assert_allclose(
      outputs[f'{norm}/__call__/0'], wanted, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(
  ('name', 'arguments'),
  [
    ('mlp', {'widths': [6, 5]}),
    ('small_resnet', {'widths': [4, 6], 'num_blocks': [1, 1]}),
    ('resnet18', {}),
    ('mobilenet_v2', {}),
    ('vit_ti16', {'layer_scale': True}),
  ],
)
def test_bfloat16_computes_in_bfloat16_and_keeps_float32(name, arguments):
  arguments = arguments | {'dtype': 'bfloat16'}
  model = models.build(name, num_classes=3, arguments=arguments)

  def apply(x):
    variables = model.init(jax.random.key(0), x)
    return variables, model.apply(variables, x, capture_intermediates=True)

  x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  variables, (logits, state) = jax.eval_shape(apply, x)
  assert logits.shape == (2, 3) and logits.dtype == jnp.float32
  types = {leaf.dtype for leaf in jax.tree.leaves(variables)}
  assert types == {jnp.dtype('float32')}
  norms = models.find_norms(variables['params'])
  assert set(models.pair_norms(variables['params'])) == set(norms)
  assert bool(norms) == ('batch_stats' in variables)
  del state['intermediates']['__call__']
  types = {leaf.dtype for leaf in jax.tree.leaves(state)}
  assert types == {jnp.dtype('bfloat16')}


def test_norms_that_do_not_follow_a_layer_directly_have_none():
  kernel, norm = {'kernel': 0}, {'scale': 0}
  # A bias in between, no such layer, another parent, and a layer of each kind.
  for params in (
    {'dense1': kernel | {'bias': 0}, 'norm1': norm},
    {'dense1': kernel, 'norm2': norm},
    {'a': {'dense1': kernel}, 'norm1': norm},
  ):
    assert models.pair_norms(params) == {}
  found = {'b': {'dense1': kernel, 'norm1': norm}, 'conv1': kernel}
  assert models.pair_norms(found | {'norm1': norm}) == {
    'b/norm1': 'b/dense1',
    'norm1': 'conv1',
  }


def test_a_model_is_built_from_plain_values():
  build = lambda **arguments: models.build(
    'mlp', num_classes=7, arguments=arguments
  )
  found = build(widths=[8, 4], dtype='bfloat16')
  assert found == mlp.MLP(7, (8, 4), jnp.bfloat16)
  # What a config leaves out, and what it says is None.
  assert build() == build(widths=None, num_blocks=None)
  assert build().widths == (256, 256, 256)


@pytest.mark.parametrize(
  ('name', 'arguments', 'message'),
  [
    (
      'mlp',
      {'widths': [8], 'num_blocks': [1]},
      r'model\.num_blocks is \[1\], but mlp takes no such argument; wanted one'
      ' of: widths, dtype',
    ),
    ('mlp', {'widths': [8, 0]}, r'model\.widths is \[8, 0\], wanted ints of'),
    ('mlp', {'widths': []}, r'model\.widths is \[\], wanted ints of at least'),
    ('mlp', {'widths': [100_001]}, r'model\.widths is .* at most 100000 in'),
    ('mlp', {'dtype': 'int8'}, r"model\.dtype is 'int8', wanted one of: floa"),
    ('mlp', {'dtype': ['float32']}, r"model\.dtype is \['float32'\], wanted"),
    ('mlp', {'widths': 3}, r'model\.widths is 3, wanted ints'),
    ('mlp', {'widths': 'ab'}, r"model\.widths is 'ab', wanted ints"),
    (
      'small_resnet',
      {'num_blocks': [10**9]},
      '.*, wanted at most 1000 in',
    ),
    ('small_resnet', {'num_blocks': [True]}, r'model\.num_blocks is \[True\],'),
    ('small_resnet', {'depth': 3}, r'model\.depth is 3, but small_resnet take'),
    ('small_resnet', {'widths': [8], 'num_blocks': [1, 1]}, '.* same length'),
    ('vgg', {}, "model.name is 'vgg', wanted one of: mlp, "),
  ],
)
def test_arguments_that_do_not_fit_are_refused(name, arguments, message):
  with pytest.raises(ValueError, match=f'^{message}'):
    models.build(name, num_classes=7, arguments=arguments)
