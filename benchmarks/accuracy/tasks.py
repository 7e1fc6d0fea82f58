"""What is run: sets, networks, methods, and a config for each run."""

import bisect
from collections.abc import Mapping
import dataclasses
import math
import os
from typing import Any, NamedTuple

import jax
import numpy as np

from hq_jax import config as config_lib
from hq_jax.compression import planner
from hq_jax.data.sets import datasets
from hq_jax.training import setup as setup_lib

# Learning rates, each about twice the one before. A search begins with some,
# and goes on while the best one is the first or the last of those it tried.
RATES = (2.5e-4, 5e-4, 1e-3, 3e-3, 7e-3, 1.5e-2, 3e-2, 6e-2, 0.12, 0.25, 0.5)
FIRST_RATES = (7e-3, 1.5e-2, 3e-2)
SEARCH_SEED = 100  # none of those that are reported

_START_RATE = 3e-3  # of the dense network that is compressed

# Of the training images, what a search keeps to measure accuracy on: one in
# so many parts, another one for each of its seeds.
_NUM_PARTS = 5

# LSQ's step grows, and with it the entropy of its codes: from 1.5 bits for
# Gaussian weights to 1.8 and less, as trained.
_UNIFORM_BITS = 1.8

# What `vector` may choose from: weights in a group, and codewords.
_GROUP_SIZES = (2, 4, 8)
_NUM_CODEWORDS = tuple(
  sorted({round(4 * 2 ** (step / 8)) for step in range(49)}, reverse=True)
)

# Widths are counted in so many parts of those of the network. Methods whose
# bits a weight are given make it narrower where it does not fit, and wider
# where that leaves room.
_WHOLE = 512
_WIDTHS = tuple(range(768, 63, -1))
_WIDEST = 16 * _WHOLE


class Budget(NamedTuple):
  """What every method has on a set with a network.

  Attributes:
    dense_epochs: of the dense network that all start from.
    compress_epochs: of compression; of the reference, more dense ones.
    batch_size: images in a step.
    augmentation: fields of `config.Data`.
    num_searches: seeds of the search of the learning rate, from `SEARCH_SEED`
      on, each with held-out images of its own: more than one where these are
      so few that one does not tell rates apart.
  """

  dense_epochs: int
  compress_epochs: int
  batch_size: int
  augmentation: Mapping[str, Any]
  num_searches: int = 1


_CLOTHES = {'flip': True, 'max_shift': 2, 'max_erased': 0.25}
BUDGETS = {
  ('digits', 'mlp'): Budget(20, 40, 64, {}, num_searches=3),
  ('digits', 'resnet'): Budget(15, 30, 64, {}, num_searches=3),
  ('glyphs/16', 'mlp'): Budget(15, 20, 128, {}),
  ('glyphs/16', 'resnet'): Budget(4, 6, 64, {}),
  ('fashion_mnist', 'mlp'): Budget(10, 15, 128, {'flip': True, 'max_shift': 1}),
  ('fashion_mnist', 'resnet_28'): Budget(8, 12, 64, _CLOTHES),
  # For a GPU.
  ('glyphs/32_large', 'resnet20'): Budget(6, 10, 512, {}),
}
NETWORKS: dict[str, dict[str, Any]] = {
  'mlp': {'name': 'mlp', 'widths': (256, 256, 256)},
  'resnet': {
    'name': 'small_resnet',
    'widths': (16, 32, 64),
    'num_blocks': (1, 1, 1),
  },
  # The same for images of 28x28: its blocks begin at 14x14.
  'resnet_28': {
    'name': 'small_resnet',
    'widths': (8, 16, 32, 64),
    'num_blocks': (0, 1, 1, 1),
  },
  # With widths that a rival may choose.
  'resnet20': {
    'name': 'small_resnet',
    'widths': (16, 32, 64),
    'num_blocks': (3, 3, 3),
  },
}

_PLAIN = {
  'recipe.tangent': False,
  'recipe.project': False,
  'recipe.prune': False,
  'recipe.reinit': False,
  'recipe.distribution': 'uniform',
}
_PLANNED = _PLAIN | {'recipe.distribution': 'cosine_distance'}
_SPHERE = {'recipe.tangent': True, 'recipe.project': True}
_RISE = {'recipe.prune': True}
# All else that is ours is the default of a config.
_OURS = {'recipe.distribution': 'cosine_distance'}
_UNIFORM = {'recipe.distribution': 'uniform'}
_DISTILL = {'distill.weight': 0.5}
# The first and the last layer stay in int8, but for a first one that holds most
# of the weights.
_INT8 = {'quantizer.int8': True}
_ENDS = {'mlp': ('head',)}
_USUAL_ENDS = 'conv_stem', 'head'
# Fields by method. What has a recipe is steered to its ratio.
METHODS: dict[str, dict[str, Any]] = {
  'hq': _OURS,
  'plain': _PLAIN,
  'plain_int8': _PLAIN | _INT8,
  'plain_erk': _PLAIN | _INT8 | {'recipe.distribution': 'erdos_renyi_kernel'},
  'plain_planned': _PLANNED,
  'vector': _INT8 | {'quantizer.name': 'vector', 'recipe.refresh_steps': 1},
  'binary': _INT8 | {'quantizer.name': 'binary'},
  'uniform': _INT8 | {'quantizer.name': 'uniform'},
  'uniform_4': _INT8 | {'quantizer.name': 'uniform', 'quantizer.bits': 4},
  'uniform_8': _INT8 | {'quantizer.name': 'uniform', 'quantizer.bits': 8},
  'twn': _INT8 | {'quantizer.name': 'twn'},
  'ttq': _INT8 | {'quantizer.name': 'ttq'},
  'parq': _INT8 | {'quantizer.name': 'parq'},
  # Of the three parts, the sphere, the rising sparsity and reinitialization,
  # which needs the rise, those that are named: with all it is `hq`, without any
  # `plain_planned`.
  'sphere': _PLANNED | _SPHERE,
  'rise': _PLANNED | _RISE,
  'sphere_rise': _PLANNED | _SPHERE | _RISE,
  'rise_reinit': _PLANNED | _RISE | {'recipe.reinit': True},
  # Ours with another in the place of a part.
  'hq_masked': _OURS | {'recipe.prune_gradients': 'masked'},
  'hq_int8': _OURS | _UNIFORM | _INT8,
  'hq_tree': _OURS | _UNIFORM | {'recipe.scope': 'tree'},
  'hq_distill': _OURS | _DISTILL,
  'plain_distill': _PLAIN | _DISTILL,
}
# Whose width is chosen so that the file fits.
FITTED = frozenset(
  name
  for name, fields in METHODS.items()
  if fields.get('quantizer.name', 'vector') != 'vector'
)
RIVALS = tuple(METHODS)[1 : list(METHODS).index('sphere')]
ABLATIONS = tuple(METHODS)[len(RIVALS) + 1 :]


KINDS = 'final', 'search', 'trace'


class Task(NamedTuple):
  """One run.

  Attributes:
    set: a name in `BUDGETS`.
    network: a name in `NETWORKS`; with `@768` behind it, 768/512 as wide.
    method: a name in `METHODS`, or 'dense'.
    ratio: float32 bytes of the reference network over bytes of the file; 0 for
      'dense'.
    rate: the peak of the learning rate, of compression or of 'dense'.
    seed: of everything.
    kind: 'final'; 'search', whose accuracy is measured on held-out training
      images; or 'trace', which measures the bias after each epoch.
  """

  set: str
  network: str
  method: str
  ratio: float
  rate: float
  seed: int
  kind: str = 'final'

  @property
  def name(self) -> str:
    """A name for its files."""
    return (
      f'{self.kind}-{self.set.replace("/", "")}-{self.network}-{self.method}'
      f'-{self.ratio:g}x-rate{self.rate:g}-seed{self.seed}'
    )

  def get_path(self, root: str) -> str:
    """Where its result is, or will be."""
    return os.path.join(root, 'results', f'{self.name}.json')


def get_family(network: str) -> str:
  """The name in `NETWORKS` of a network that is as wide, wider or narrower."""
  return network.partition('@')[0]


def get_network(network: str) -> dict[str, Any]:
  """The fields of `config.model`."""
  family, _, part = network.partition('@')
  fields = NETWORKS[family]
  return fields | {'widths': _scale(fields['widths'], int(part or _WHOLE))}


def _scale(widths, part):
  return tuple(max(1, round(part * width / _WHOLE)) for width in widths)


def find_network(
  task: Task, budget: Budget, dataset: datasets.Dataset, num_bytes: float
) -> str:
  """The widest network of a task's family within float32 bytes."""
  family = get_family(task.network)
  count = lambda part: count_bytes(
    task._replace(network=f'{family}@{part}'), budget, dataset
  )
  parts = range(1, _WIDEST)
  return f'{family}@{bisect.bisect_right(parts, num_bytes, key=count) or 1}'


def get_budget(task: Task, fraction: float = 1.0) -> Budget:
  """The budget of a run, or a part of it: for a look at whether all works."""
  budget = BUDGETS[task.set, get_family(task.network)]
  scale = lambda epochs: max(3, round(fraction * epochs))
  return budget._replace(
    dense_epochs=scale(budget.dense_epochs),
    compress_epochs=scale(budget.compress_epochs),
  )


def hold_out(dataset: datasets.Dataset, seed: int) -> datasets.Dataset:
  """A set without its test images: a fifth of the training images stands in.

  `SEARCH_SEED` has the last fifth, the next seed the one before.
  """
  size = len(dataset.train)
  part = (SEARCH_SEED - seed - 1) % _NUM_PARTS
  first, end = (round(at * size / _NUM_PARTS) for at in (part, part + 1))
  is_held_out = np.zeros(size, bool)
  is_held_out[first:end] = True
  choose = lambda where: dataclasses.replace(
    dataset.train,
    images=dataset.train.images[where],
    labels=dataset.train.labels[where],
  )
  return dataset._replace(train=choose(~is_held_out), test=choose(is_held_out))


def make_config(task: Task, budget: Budget, fitted: Mapping[str, Any]) -> Any:
  """The config of a run."""
  config = config_lib.get_defaults()
  config.seed = task.seed
  config.batch_size = budget.batch_size
  config.data.name = task.set
  config.data.update(budget.augmentation)
  config.model.update(get_network(task.network))
  config.checkpoint.every_epochs = 1000
  config.measure_bias = task.kind == 'trace'
  config.dense.epochs = budget.dense_epochs
  config.dense.learning_rate = _START_RATE
  config.prune.epochs = 0
  config.ternary.epochs = budget.compress_epochs
  if task.method == 'dense':
    config.dense.epochs += budget.compress_epochs
    config.dense.learning_rate = task.rate
    return config
  config.target_ratio = task.ratio
  fields = dict(METHODS[task.method]) | dict(fitted)
  if 'quantizer.int8' in fields:
    fields['quantizer.int8'] = _ENDS.get(get_family(task.network), _USUAL_ENDS)
  config.prune.learning_rate = config.ternary.learning_rate = task.rate
  config.ternary.warmup_fraction = 0.1
  if fields.get('recipe.prune', True) and 'quantizer.name' not in fields:
    config_lib.set_compression(config, budget.compress_epochs, task.rate)
  for name, value in fields.items():
    group, _, field = name.partition('.')
    config[group][field] = value
  return config


def fit(
  task: Task,
  budget: Budget,
  dataset: datasets.Dataset,
  excess: float = 1.0,
) -> dict[str, Any]:
  """The fields with which a method reaches its ratio.

  Of codebooks, the one of least cosine distance whose file is small enough; of
  binary and few-level networks, the widest one; on Gaussian weights, before
  anything is trained. What a trained file has over what was wanted of it, the
  excess, is made up for. A network with a recipe is steered to its ratio.
  """
  name = METHODS[task.method].get('quantizer.name')
  if name is None:
    return {}
  wanted = count_bytes(task, budget, dataset) / task.ratio / excess
  if name == 'vector':
    series = [
      [
        {'quantizer.group_size': size, 'quantizer.num_codewords': number}
        for number in _NUM_CODEWORDS
      ]
      for size in _GROUP_SIZES
    ]
  else:
    widths = get_network(task.network)['widths']
    scaled = [_scale(widths, part) for part in _WIDTHS]
    series = [[{'model.widths': found} for found in dict.fromkeys(scaled)]]

  plans: dict[tuple[Any, ...], planner.Plan] = {}

  def predict(fields):
    key = tuple(fields.items())
    if key not in plans:
      plans[key] = _predict(task, budget, dataset, fields)
    return plans[key]

  def fits(fields):
    plan = predict(fields)
    return _get_bytes(task, budget, dataset, fields, plan) <= wanted

  found = []
  for choices in series:  # The further on, the smaller.
    first = bisect.bisect_left(choices, True, key=fits)
    found += choices[first : first + 1]
  if found:
    return min(found, key=lambda fields: _get_distance(predict(fields)))
  raise ValueError(
    f'ratio is {task.ratio:g}, wanted one that {task.method} can reach'
  )


def is_reached(task: Task, budget: Budget, dataset: datasets.Dataset) -> bool:
  """Whether a method can make its network so small."""
  try:
    _predict(task, budget, dataset, fit(task, budget, dataset))
  except ValueError:
    return False
  return True


def count_bytes(task: Task, budget: Budget, dataset: datasets.Dataset) -> int:
  """The float32 bytes of the reference network."""
  dense = task._replace(method='dense')
  _, shapes, _ = _build(dense, budget, dataset, {})
  return 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def _build(
  task: Task,
  budget: Budget,
  dataset: datasets.Dataset,
  fields: Mapping[str, Any],
) -> tuple[config_lib.Config, Any, dict[str, Any]]:
  config = config_lib.validate(make_config(task, budget, fields))
  model, header = setup_lib.build_model(config, dataset)
  return config, setup_lib.get_shapes(model, dataset.image_shape), header


def _predict(
  task: Task,
  budget: Budget,
  dataset: datasets.Dataset,
  fields: Mapping[str, Any],
) -> planner.Plan:
  config, shapes, header = _build(task, budget, dataset, fields)
  return setup_lib.make_method(config, header, steps_per_epoch=1).plan(shapes)


def _get_distance(plan: planner.Plan) -> float:
  return sum(layer.cosine_distance for layer in plan.layers.values())


def _get_bytes(
  task: Task,
  budget: Budget,
  dataset: datasets.Dataset,
  fields: Mapping[str, Any],
  plan: planner.Plan,
) -> float:
  if task.method != 'uniform':
    return plan.predicted_bytes
  _, shapes, _ = _build(task, budget, dataset, fields)
  kernels = planner.find_kernels(shapes['params'])
  num_bytes = float(plan.fixed_bytes)
  for path, layer in plan.layers.items():
    is_uniform = layer.encoding == 'uniform'
    num_weights = math.prod(kernels[path].shape)
    num_bytes += (
      _UNIFORM_BITS / 8 * num_weights if is_uniform else layer.num_bytes
    )
  return num_bytes
