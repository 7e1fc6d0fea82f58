"""The devices, the images and the weights that a config names."""

import dataclasses
import hashlib
import re
from typing import Any

import jax

from hq_jax import config as config_lib
from hq_jax.data.sets import datasets
from hq_jax.models import pretrained as pretrained_lib
from hq_jax.runtime import sharding


def make_mesh(config: config_lib.Config) -> jax.sharding.Mesh:
  """All devices as a config wants them."""
  try:
    mesh = sharding.make_mesh(config.mesh.fsdp)
  except ValueError as error:
    raise with_field(error, 'config.mesh.', config_lib.Mesh) from error
  sharding.check_batch_size(config.batch_size, mesh)
  return mesh


def load_dataset(config: config_lib.Data) -> datasets.Dataset:
  """Opens the data set of a config."""
  try:
    return datasets.load(
      config.name,
      config.data_dir,
      image_size=config.image_size,
      crop_fraction=config.crop_fraction,
      train_split=config.train_split,
      test_split=config.test_split,
    )
  except ValueError as error:
    raise with_field(error, 'config.data.', config_lib.Data) from error


def check_dataset(config: config_lib.Config, dataset: datasets.Dataset) -> None:
  """Refuses a config that does not fit the images."""
  if config.batch_size > len(dataset.train):
    raise ValueError(
      f'config.batch_size is {config.batch_size}, wanted at most the'
      f' {len(dataset.train)} training images'
    )
  least_side = min(dataset.image_shape[:2])
  max_shift = config.data.max_shift
  if dataset.resize is not None and max_shift:
    raise ValueError(
      f'config.data.max_shift is {max_shift}, wanted 0 where images are cropped'
      ' at random'
    )
  if max_shift >= least_side:
    raise ValueError(
      f'config.data.max_shift is {max_shift}, wanted 0 to {least_side - 1} for'
      f' images of {dataset.image_shape}'
    )


def read_pretrained(
  config: config_lib.Config, shapes: Any
) -> dict[str, Any] | None:
  """The weights that training begins with, if they are not random ones."""
  path, model = config.pretrained, config.model.name
  if not config.dense.epochs and (path is None or not config.pretrained_head):
    what = 'network' if path is None else 'classifier'
    raise ValueError(
      f'config.dense.epochs is 0, wanted at least 1: the {what} begins with'
      ' random weights'
    )
  if path is None:
    return None
  if model not in pretrained_lib.ARCHITECTURES:
    raise ValueError(
      f'config.pretrained is {path!r}, but config.model.name is {model!r},'
      f' wanted one of: {", ".join(pretrained_lib.ARCHITECTURES)}'
    )
  try:
    return pretrained_lib.to_flax(
      pretrained_lib.read(path),
      shapes,
      architecture=model,
      new_head=not config.pretrained_head,
      path=path,
    )
  except OSError as error:
    raise ValueError(
      f'config.pretrained is {path!r}: {error.strerror}'
    ) from error
  except ValueError as error:
    raise ValueError(f'config.pretrained: {error}') from error


def identify(
  config: config_lib.Config, dataset: datasets.Dataset
) -> dict[str, Any]:
  """What a run must find again when it goes on, besides its config."""
  found = {}
  if dataset.fingerprint is not None:
    found['images'] = dataset.fingerprint
  if config.pretrained is not None:
    with open(config.pretrained, 'rb') as file:
      found['pretrained'] = hashlib.file_digest(file, 'sha256').hexdigest()
  return {'inputs': found} if found else {}


def with_field(error: ValueError, prefix: str, record: type) -> ValueError:
  """The same error, by the full name of the field that it begins with."""
  names = {field.name for field in dataclasses.fields(record)}
  first = re.match(r'\w*', str(error))
  if first and first[0] in names:
    return ValueError(f'{prefix}{error}')
  return error
