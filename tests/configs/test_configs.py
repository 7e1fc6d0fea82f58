"""configs/*.py: every argument that they document loads and traces."""

import dataclasses
import functools
import importlib
import pathlib
import re

import jax
import numpy as np
import optax
import pytest

from hq_jax import config as config_lib
from hq_jax import models
from hq_jax import transforms
from hq_jax.runtime import sharding
from hq_jax.training import optimizers
from hq_jax.training import train_state
from hq_jax.training import train_step

_FOLDER = pathlib.Path(__file__).parents[2] / 'configs'

# For each argument that is documented, one that differs from the default.
_COMMON = {'ratio': 'ratio=40', 'seed': 'seed=7', 'debug': 'debug'}
_IMAGENET = _COMMON | {
  'pretrained': 'pretrained=a.pth',
  'distill': 'distill=0.5',
  'batch_size': 'batch_size=512',
  'data_dir': 'data_dir=/data',
}
_ARGUMENTS = {
  'digits': _COMMON | {'distill': 'distill=0.5'},
  'cifar10': _COMMON
  | {
    'model': 'model=resnet56',
    'distill': 'distill=0.5',
    'data_dir': 'data_dir=/data',
  },
  'fashion_mnist': _COMMON
  | {
    'ratio': 'ratio=60',
    'data_dir': 'data_dir=/data',
    'distill': 'distill=0.2',
    'quick': 'quick',
  },
  'folder': _COMMON
  | {
    'data_dir': 'data_dir=/data',
    'model': 'model=resnet20',
    'pretrained': 'pretrained=a.pth',
    'image_size': 'image_size=96',
    'own_size': 'own_size',
    'epochs': 'epochs=9',
    'batch_size': 'batch_size=64',
    'distill': 'distill=0.5',
  },
  'resnet50': _IMAGENET,
  'resnet18': _IMAGENET,
  'mobilenet_v2': _IMAGENET,
  'vit': _IMAGENET | {'model': 'model=vit_ti16'},
}
# Classes, and the images of sets that are not resized.
_NUM_CLASSES = dict.fromkeys(('digits', 'cifar10', 'fashion_mnist'), 10)
_NUM_CLASSES |= {'folder': 5}
_STORED = {'digits': (8, 8, 1), 'cifar10': (32, 32, 3), 'idx': (28, 28, 1)}
_STORED |= {'folder': (32, 32, 1)}
_LARGE = ('mobilenet_v2', 'resnet50')
_CASES = [
  pytest.param(name, arguments, marks=pytest.mark.slow)
  if name in _LARGE and arguments
  else (name, arguments)
  for name in _ARGUMENTS
  for arguments in (None, *_ARGUMENTS[name].values())
]


def _get(name, arguments=None):
  module = importlib.import_module(f'configs.{name}')
  return config_lib.validate(module.get_config(arguments))


def _docstring(name):
  return importlib.import_module(f'configs.{name}').__doc__


@functools.lru_cache
def _make_model(config: config_lib.Model, num_classes):
  fields = dataclasses.asdict(config)
  return models.build(
    fields.pop('name'), num_classes=num_classes, arguments=fields
  )


def _describe(tree):
  return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def _init(model, tx, shape):
  init = train_state.jit_init(model, tx, shape, sharding.make_mesh())
  return init.eval_shape(jax.random.key(0), {})


@functools.lru_cache
def _trace_step(model, shape, data, optimizer, distill):
  """Traces a step of the model as these parts of a config want it."""
  tx = optax.identity()
  state = _init(model, tx, shape)
  step_fn = train_step.make_train_step(
    model,
    tx,
    label_smoothing=optimizer.label_smoothing,
    mixup_alpha=data.mixup_alpha,
    cutmix_alpha=data.cutmix_alpha,
    distill_weight=distill.weight,
    temperature=distill.temperature,
  )
  batch = {
    'image': jax.ShapeDtypeStruct((8, *shape), np.float32),
    'label': jax.ShapeDtypeStruct((8,), np.int32),
  }
  teacher = state.variables if distill.weight else None
  after, sums, _ = jax.eval_shape(step_fn, state, batch, teacher)
  assert _describe(after) == _describe(state)
  assert set(sums) == {'loss', 'accuracy'}


def test_every_config_is_tested():
  assert {path.stem for path in _FOLDER.glob('*.py')} == set(_ARGUMENTS)


@pytest.mark.parametrize('name', _ARGUMENTS)
def test_every_argument_is_documented(name):
  (text,) = re.findall(r'Arguments: (.*?)\n\n', _docstring(name), re.DOTALL)
  text = re.sub(r'\([^()]*\)', '', text)  # What is said of their values.
  assert set(re.findall(r'`(\w+)`', text)) == set(_ARGUMENTS[name])
  # And there are no others.
  with pytest.raises(ValueError, match='no_such_argument is not kn') as caught:
    _get(name, 'no_such_argument')
  _, _, known = str(caught.value).partition('wanted one of: ')
  assert set(known.split(', ')) == set(_ARGUMENTS[name])


def _shape_of(name, config):
  size = config.data.image_size
  return _STORED[config.data.name] if size is None else (size, size, 3)


@pytest.mark.parametrize(('name', 'arguments'), _CASES)
def test_it_loads_validates_and_traces(name, arguments):
  config = _get(name, arguments)
  model = _make_model(config.model, _NUM_CLASSES.get(name, 1000))
  _trace_step(
    model,
    _shape_of(name, config),
    config.data,
    config.optimizer,
    config.distill,
  )
  optimizers.make_optimizer(config.optimizer, lambda step: 0.1)
  # Its sparsities are the planner's.
  fields = dataclasses.asdict(config.recipe) | {
    'sparsity': 0.8,
    'distribution': 'uniform',
  }
  transforms.Recipe(**fields)


@pytest.mark.parametrize('name', _ARGUMENTS)
def test_what_the_arguments_change(name):
  plain = _get(name)
  taught = 0.5 if name == 'fashion_mnist' else 0
  assert plain.seed == 0 and plain.distill.weight == taught
  config = _get(name, 'ratio=35.5,seed=7')
  assert (config.target_ratio, config.seed) == (35.5, 7)
  debug = _get(name, 'debug')
  # That of a transformer trains in earnest, on other images.
  assert (debug.checkpoint.every_epochs == 1) == (name != 'vit')
  for phase in ('dense', 'prune', 'ternary'):
    assert 1 <= getattr(debug, phase).epochs <= (40 if name == 'vit' else 2)
    assert getattr(plain, phase).epochs > 2
  # Each changes something of what is run.
  for arguments in _ARGUMENTS[name].values():
    assert _get(name, arguments) != plain, arguments
  if 'pretrained' in _ARGUMENTS[name]:
    assert plain.pretrained is None
    given = _get(name, 'pretrained=b.pth')
    assert given.pretrained == 'b.pth'
    assert given.pretrained_head == (name != 'folder')
    assert (given.dense.epochs == 0) == (name != 'folder')
  if 'data_dir' in _ARGUMENTS[name]:
    assert _get(name, 'data_dir=/mine').data.data_dir == '/mine'
  if 'distill' in _ARGUMENTS[name]:
    assert _get(name, 'distill=0.25').distill.weight == 0.25


@pytest.mark.parametrize('name', _ARGUMENTS)
def test_examples_of_the_docstring_load(name):
  examples = re.findall(
    rf'--config=configs/{name}\.py:?(\S*)', _docstring(name)
  )
  assert examples
  for arguments in examples:
    _get(name, arguments)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ('ratio=1', 'config.target_ratio is 1.0, wanted a number above 1'),
    ('ratio=inf', 'config.target_ratio is inf, wanted a number above 1'),
    ('seed=-1', 'config.seed is -1, wanted an int in [0, 2**31)'),
    ('distill=2', 'config.distill.weight is 2.0, wanted a fraction in [0, 1]'),
  ],
)
@pytest.mark.parametrize('name', _ARGUMENTS)
def test_nonsense_is_refused_by_field(name, arguments, message):
  with pytest.raises(ValueError) as caught:
    _get(name, arguments)
  assert str(caught.value) == message


def test_the_rates_of_imagenet_follow_the_batch():
  for name in ('resnet50', 'resnet18', 'mobilenet_v2', 'vit'):
    plain, small = _get(name), _get(name, 'batch_size=256')
    for phase in ('dense', 'prune', 'ternary'):
      rate = getattr(plain, phase).learning_rate
      assert getattr(small, phase).learning_rate == pytest.approx(rate / 4)


def test_the_epochs_of_a_folder_are_shared_out():
  for epochs in (9, 30, 31, 3):
    config = _get('folder', f'epochs={epochs}')
    phases = config.dense, config.prune, config.ternary
    assert sum(phase.epochs for phase in phases) == epochs
    assert min(phase.epochs for phase in phases) >= 1
  assert _get('folder').data.image_size == 64
  assert _get('folder', 'pretrained=a.pth').data.image_size == 224
