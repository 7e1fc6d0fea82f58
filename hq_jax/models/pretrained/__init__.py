"""Weights of torchvision, timm and Hugging Face for our networks, and back.

`read` gives the arrays of a file by their names, `to_flax` makes variables of
them, `to_torchvision` goes the other way.
"""

from hq_jax.models.pretrained.architectures import (
  ARCHITECTURES as ARCHITECTURES,
)
from hq_jax.models.pretrained.converting import convert as convert
from hq_jax.models.pretrained.converting import Converted as Converted
from hq_jax.models.pretrained.converting import from_paths as from_paths
from hq_jax.models.pretrained.converting import to_flax as to_flax
from hq_jax.models.pretrained.converting import to_torchvision as to_torchvision
from hq_jax.models.pretrained.reading import peek as peek
from hq_jax.models.pretrained.reading import read as read

__all__ = [
  'ARCHITECTURES',
  'read',
  'to_flax',
  'to_torchvision',
]
