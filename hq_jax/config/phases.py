"""Phases of compression: their epochs and learning rates."""

import ml_collections

_RAMP = 2 / 3  # of the epochs, with a rising sparsity
_RATE_AFTER_RAMP = 0.25  # of the peak: that of a cosine after two thirds


def set_compression(
  config: ml_collections.ConfigDict, epochs: int, learning_rate: float
) -> None:
  """Sets both phases of compression: two thirds with a rising sparsity.

  The learning rate rises over a tenth of the first phase and falls from there
  to 0 at the end of the second, nearly as one cosine over both.

  >>> from hq_jax import config as config_lib
  >>> config = config_lib.get_defaults()
  >>> set_compression(config, epochs=30, learning_rate=4e-3)
  >>> config.prune.epochs, config.ternary.epochs, config.ternary.learning_rate
  (20, 10, 0.001)

  Args:
    config: of `get_defaults`; `prune` and `ternary` are changed.
    epochs: of both, at least 2.
    learning_rate: its peak.

  Raises:
    ValueError: for fewer epochs.
  """
  if epochs < 2:
    raise ValueError(f'epochs is {epochs}, wanted at least 2')
  config.prune.epochs = max(1, round(_RAMP * epochs))
  config.prune.learning_rate = learning_rate
  config.prune.warmup_fraction = 0.1
  config.prune.final_fraction = _RATE_AFTER_RAMP
  config.ternary.epochs = epochs - config.prune.epochs
  config.ternary.learning_rate = _RATE_AFTER_RAMP * learning_rate
  config.ternary.warmup_fraction = 0.0
