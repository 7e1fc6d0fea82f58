"""Hyperspherical Quantization in JAX: a reconstruction from its abstract.

What is listed here is imported when it is first used: the reader of `.hq` files
needs no JAX, and the transformations no Flax.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
  from hq_jax import artifact as artifact
  from hq_jax import baselines as baselines
  from hq_jax import config as config
  from hq_jax import core as core
  from hq_jax import models as models
  from hq_jax import transforms as transforms
  from hq_jax.compression import planner as planner
  from hq_jax.compression.post_training import compress as compress
  from hq_jax.inference import export as export
  from hq_jax.inference.classifier import Classifier as Classifier
  from hq_jax.inference.classifier import load as load
  from hq_jax.inference.classifier import Prediction as Prediction
  from hq_jax.training.train import train as train

__version__ = '0.1.0'
__all__ = [
  'Classifier',
  'Prediction',
  'artifact',
  'baselines',
  'compress',
  'config',
  'core',
  'export',
  'load',
  'models',
  'planner',
  'train',
  'transforms',
]
# Of what does not lie in `hq_jax.NAME`.
_PLACES = {
  'Classifier': 'hq_jax.inference.classifier:Classifier',
  'Prediction': 'hq_jax.inference.classifier:Prediction',
  'compress': 'hq_jax.compression.post_training:compress',
  'export': 'hq_jax.inference.export',
  'load': 'hq_jax.inference.classifier:load',
  'planner': 'hq_jax.compression.planner',
  'train': 'hq_jax.training.train:train',
}


if not typing.TYPE_CHECKING:  # A type checker would take any name for defined.

  def __getattr__(name):
    if name not in __all__:
      raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    module, _, attribute = _PLACES.get(name, f'hq_jax.{name}').partition(':')
    try:
      found = importlib.import_module(module)
    except ModuleNotFoundError as error:
      from hq_jax.core import extras

      raise extras.explain(error, f'hq_jax.{name}') from error
    found = getattr(found, attribute) if attribute else found
    globals()[name] = found
    return found


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
