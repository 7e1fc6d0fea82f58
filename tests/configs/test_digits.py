"""configs/digits.py: every argument that it documents loads and traces."""

import re

import jax
import numpy as np
import optax
import pytest

from configs import digits
from hq_jax import config as config_lib
from hq_jax import models
from hq_jax import optimizers
from hq_jax import sharding
from hq_jax import train_state
from hq_jax import train_step
from hq_jax import transforms

# For each argument that is documented, one that differs from the default.
_ARGUMENTS = {'ratio': 'ratio=40', 'seed': 'seed=7', 'debug': 'debug'}
_NUM_TRAIN = 1297


def _trace(config):
  """Traces both stages of a run, and a step of each; compiles nothing."""
  per_epoch = round(_NUM_TRAIN / config.batch_size)
  arguments = config_lib.to_dict(config)['model']
  model = models.build(
    arguments.pop('name'), num_classes=10, arguments=arguments
  )
  recipe = transforms.Recipe(
    **config_lib.to_dict(config)['recipe']
    | {
      'sparsity': 0.8,
      'distribution': 'uniform',  # The planner's shares are in the sparsity.
      'prune_steps': config.prune.epochs * per_epoch,
      'end_step': (config.prune.epochs + config.ternary.epochs) * per_epoch,
    }
  )
  stages = {
    'dense': ([config.dense], lambda tx: tx),
    'compress': (
      [config.prune, config.ternary],
      lambda tx: transforms.hq(tx, recipe),
    ),
  }
  states = {}
  for name, (phases, wrap) in stages.items():
    schedule = optimizers.make_schedule(phases, per_epoch)
    tx = wrap(optimizers.make_optimizer(config.optimizer, schedule))
    state = jax.eval_shape(
      lambda key, tx=tx: train_state.init(
        model, tx, key, (8, 8, 1), sharding.make_mesh()
      ),
      jax.random.key(0),
    )
    batch = {
      'image': jax.ShapeDtypeStruct((config.batch_size, 8, 8, 1), np.float32),
      'label': jax.ShapeDtypeStruct((config.batch_size,), np.int32),
    }
    step_fn = train_step.make_train_step(model, tx)
    after, sums = jax.eval_shape(step_fn, state, batch)
    describe = lambda x: (x.shape, x.dtype)
    assert jax.tree.map(describe, after) == jax.tree.map(describe, state)
    assert set(sums) == {'loss', 'accuracy'}
    states[name] = state
  return states


def test_every_argument_is_documented():
  (text,) = re.findall(r'Arguments: (.*?)\n\n', digits.__doc__, re.DOTALL)
  assert set(re.findall(r'`(\w+)`', text)) == set(_ARGUMENTS)
  # And there are no others.
  with pytest.raises(ValueError) as caught:
    digits.get_config('no_such_argument')
  assert str(caught.value) == (
    'config argument no_such_argument is not known, wanted one of: '
    + ', '.join(_ARGUMENTS)
  )


@pytest.mark.parametrize('arguments', [None, *_ARGUMENTS.values()])
def test_it_loads_validates_and_traces(arguments):
  config = config_lib.validate(digits.get_config(arguments))
  states = _trace(config)
  # Latents of 1 + 2 + 3 + 3 convolutions and the classifier.
  latents = optax.tree.get(states['compress'].opt_state, 'latents')
  assert len(jax.tree.leaves(latents)) == 10
  assert optax.tree.get(states['dense'].opt_state, 'latents') is None


def test_what_the_arguments_change():
  plain = config_lib.validate(digits.get_config())
  assert (plain.target_ratio, plain.seed) == (30.0, 0)
  config = config_lib.validate(digits.get_config('ratio=40,seed=7'))
  assert (config.target_ratio, config.seed) == (40.0, 7)
  debug = config_lib.validate(digits.get_config('debug'))
  assert debug.checkpoint_every_epochs == 1
  for phase in ('dense', 'prune', 'ternary'):
    assert 1 <= getattr(debug, phase).epochs <= 2
    assert getattr(plain, phase).epochs > 2


def test_examples_of_the_docstring_load():
  examples = re.findall(r'--config=configs/digits\.py:(\S+)', digits.__doc__)
  assert examples
  for arguments in examples:
    config_lib.validate(digits.get_config(arguments))


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ('ratio=1', 'config.target_ratio is 1.0, wanted a number above 1'),
    ('ratio=inf', 'config.target_ratio is inf, wanted a number above 1'),
    ('seed=-1', 'config.seed is -1, wanted an int in [0, 2**31)'),
  ],
)
def test_nonsense_is_refused_by_field(arguments, message):
  with pytest.raises(ValueError) as caught:
    config_lib.validate(digits.get_config(arguments))
  assert str(caught.value) == message
