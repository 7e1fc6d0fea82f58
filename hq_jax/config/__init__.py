"""The fields of a config, their defaults, and their validation.

A config file makes its `ml_collections.ConfigDict` from `get_defaults()` and
changes what it wants; `validate` turns it into the typed `Config` that the
rest of the library reads, before anything compiles.
"""

from hq_jax.config.arguments import parse_arguments as parse_arguments
from hq_jax.config.fields import Checkpoint as Checkpoint
from hq_jax.config.fields import Config as Config
from hq_jax.config.fields import Data as Data
from hq_jax.config.fields import Distill as Distill
from hq_jax.config.fields import Mesh as Mesh
from hq_jax.config.fields import Model as Model
from hq_jax.config.fields import Optimizer as Optimizer
from hq_jax.config.fields import OURS as OURS
from hq_jax.config.fields import Phase as Phase
from hq_jax.config.fields import Quantizer as Quantizer
from hq_jax.config.fields import Recipe as Recipe
from hq_jax.config.help import describe as describe
from hq_jax.config.phases import set_compression as set_compression
from hq_jax.config.validation import check_field as check_field
from hq_jax.config.validation import get_defaults as get_defaults
from hq_jax.config.validation import is_optional as is_optional
from hq_jax.config.validation import to_dict as to_dict
from hq_jax.config.validation import validate as validate
from hq_jax.config.validation import with_field as with_field

__all__ = [
  'OURS',
  'Checkpoint',
  'Config',
  'Data',
  'Distill',
  'Mesh',
  'Model',
  'Optimizer',
  'Phase',
  'Quantizer',
  'Recipe',
  'check_field',
  'describe',
  'get_defaults',
  'is_optional',
  'parse_arguments',
  'set_compression',
  'to_dict',
  'validate',
  'with_field',
]
