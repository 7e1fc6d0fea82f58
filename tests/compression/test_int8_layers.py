"""Layers that a config keeps in int8, with the library's method and others."""

import jax
import numpy as np
import pytest

from hq_jax import config as config_lib
from hq_jax import models
from hq_jax.training import setup as setup_lib

_HEADER = {
  'model': 'mlp',
  'model_arguments': {'widths': [32, 16]},
  'input_shape': (8, 8, 1),
  'preprocessing': {},
  'class_names': tuple('abcde'),
}


def _plan(**fields):
  config = config_lib.validate(
    {'prune': {'epochs': 0}, 'target_ratio': 12.0} | fields
  )
  model = models.build('mlp', num_classes=5, arguments={'widths': [32, 16]})
  shapes = setup_lib.get_shapes(model, (8, 8, 1))
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda leaf: (
      rng.normal(size=leaf.shape)
      if len(leaf.shape) > 1
      else rng.uniform(0.5, 1.5, leaf.shape)
    ).astype(np.float32),
    shapes,
  )
  method = setup_lib.make_method(config, _HEADER, steps_per_epoch=4)
  return method, method.plan(variables), variables


@pytest.mark.parametrize(
  'fields',
  [
    {'quantizer': {'int8': ('head',)}},
    {
      'quantizer': {'int8': ('head',)},
      'recipe': {'distribution': 'erdos_renyi_kernel'},
    },
    {'quantizer': {'int8': ('head',)}, 'recipe': {'sparsity': 0.9}},
    {'quantizer': {'name': 'binary', 'int8': ('head',)}},
  ],
  ids=['uniform', 'erdos_renyi_kernel', 'given', 'binary'],
)
def test_named_layers_are_int8(fields):
  _, plan, _ = _plan(**fields)
  name = fields['quantizer'].get('name', 'ternary')
  encodings = {path: layer.encoding for path, layer in plan.layers.items()}
  assert encodings == {
    'dense1/kernel': name,
    'dense2/kernel': name,
    'head/kernel': 'int8',
  }
  # A byte a weight, rounded to 255 levels.
  assert 0.7 * 16 * 5 <= plan.layers['head/kernel'].num_bytes <= 1.3 * 16 * 5
  assert plan.layers['head/kernel'].cosine_distance < 1e-4


def test_a_plan_with_them_has_the_size_that_it_says():
  _, plan, _ = _plan(quantizer={'int8': ('head',)})
  assert plan.predicted_bytes <= plan.target_bytes == plan.dense_bytes // 12
  zeros = {plan.layers[f'dense{i}/kernel'].sparsity for i in (1, 2)}
  _, without, _ = _plan()
  assert len(zeros) == 1
  assert zeros.pop() > without.layers['dense1/kernel'].sparsity


@pytest.mark.parametrize('name', ['ternary', 'binary'])
def test_a_layer_that_is_not_there_is_refused(name):
  with pytest.raises(
    ValueError,
    match=r"config\.quantizer\.int8 is 'hea', wanted layers of: dense1/kernel",
  ):
    _plan(quantizer={'name': name, 'int8': ('hea',)})


def test_cosine_distance_finds_its_own():
  with pytest.raises(
    ValueError, match=r"config\.quantizer\.int8 is \('head',\), wanted none"
  ):
    _plan(
      quantizer={'int8': ('head',)},
      recipe={'distribution': 'cosine_distance'},
    )
