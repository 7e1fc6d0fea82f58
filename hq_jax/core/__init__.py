"""Pure functions over arrays and trees."""

import importlib
import typing

if typing.TYPE_CHECKING:
  from hq_jax.core import qtensors as qtensors
  from hq_jax.core import schedules as schedules
  from hq_jax.core import sparsity_distributions as sparsity_distributions
  from hq_jax.core import sphere as sphere
  from hq_jax.core import ternary as ternary
  from hq_jax.core import thresholds as thresholds
  from hq_jax.core import trees as trees

__all__ = [
  'qtensors',
  'schedules',
  'sparsity_distributions',
  'sphere',
  'ternary',
  'thresholds',
  'trees',
]


if not typing.TYPE_CHECKING:  # A type checker would take any name for defined.

  def __getattr__(name):
    if name not in __all__:
      raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return importlib.import_module(f'{__name__}.{name}')
