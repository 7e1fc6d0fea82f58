"""From a config to optax pipelines: the schedules and the optimizer."""

from collections.abc import Sequence

import optax

from hq_jax import config as config_lib
from hq_jax.core import trees

_OPTIMIZERS = {
  'adamw': lambda rate, decay, mask: optax.adamw(
    rate, weight_decay=decay, mask=mask
  ),
  'sgd': lambda rate, decay, mask: optax.chain(
    optax.add_decayed_weights(decay, mask=mask),
    optax.sgd(rate, momentum=0.9, nesterov=True),
  ),
  'lion': lambda rate, decay, mask: optax.lion(
    rate, weight_decay=decay, mask=mask
  ),
}


def make_schedule(
  phases: Sequence[config_lib.Phase], steps_per_epoch: int
) -> optax.Schedule:
  """The learning rate of phases that follow each other.

  Each phase rises linearly from 0 to its rate over its `warmup_fraction`, and
  falls as a cosine to `final_fraction` of it.

  >>> phase = config_lib.Phase(epochs=2, learning_rate=0.5, warmup_fraction=0.5)
  >>> rate = make_schedule([phase, phase], steps_per_epoch=10)
  >>> [float(rate(step)) for step in (0, 10, 20, 30)]
  [0.0, 0.5, 0.0, 0.5]

  Args:
    phases: in their order; those of 0 epochs are left out.
    steps_per_epoch: at least 1.

  Returns:
    A function from the step to the rate; 0 where every phase is left out.
  """
  parts, boundaries, end = [], [], 0
  for phase in phases:
    if not phase.epochs:
      continue
    num_steps = phase.epochs * steps_per_epoch
    parts.append(
      optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=phase.learning_rate,
        warmup_steps=int(phase.warmup_fraction * num_steps),
        decay_steps=num_steps,
        end_value=phase.learning_rate * phase.final_fraction,
      )
    )
    end += num_steps
    boundaries.append(end)
  if not parts:
    return optax.constant_schedule(0.0)
  return optax.join_schedules(parts, boundaries[:-1])


def make_optimizer(
  config: config_lib.Optimizer, schedule: optax.Schedule
) -> optax.GradientTransformation:
  """The optimizer of a config, with weight decay on kernels alone.

  >>> tx = make_optimizer(config_lib.Optimizer(name='sgd'), lambda step: 0.1)

  Args:
    config: which optimizer.
    schedule: the learning rate by step.

  Returns:
    An optax transformation.

  Raises:
    ValueError: for an unknown name.
  """
  if config.name not in _OPTIMIZERS:
    raise ValueError(
      f'config.optimizer.name is {config.name!r}, wanted one of:'
      f' {", ".join(_OPTIMIZERS)}'
    )
  decayed = lambda params: trees.select(params, trees.kernels)
  return _OPTIMIZERS[config.name](schedule, config.weight_decay, decayed)
