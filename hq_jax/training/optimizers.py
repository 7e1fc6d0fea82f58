"""Schedules and optimizers of a config, as optax pipelines."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
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
  config: config_lib.Optimizer,
  schedule: optax.Schedule,
  decayed: Callable[[str, Any], bool] = trees.kernels,
) -> optax.GradientTransformation:
  """The optimizer of a config, with weight decay on kernels, or on others."""
  if config.name not in _OPTIMIZERS:
    raise ValueError(
      f'config.optimizer.name is {config.name!r}, wanted one of:'
      f' {", ".join(_OPTIMIZERS)}'
    )

  def mask(params):
    return jax.tree_util.tree_map_with_path(
      lambda path, leaf: decayed(trees.path_string(path), leaf), params
    )

  return _OPTIMIZERS[config.name](schedule, config.weight_decay, mask)
