"""TFDS builders: of sets to be prepared, and of those that are.

Both can be checked to be of image classification, by `find_keys`.
"""

import difflib
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from hq_jax.data.tfds import class_names
from hq_jax.data.tfds import errors as tfds_errors
from hq_jax.data.tfds import lookup

# What is read without TensorFlow.
FORMAT = tfds.core.FileFormat.ARRAY_RECORD


def make_builder(name: str, root: pathlib.Path) -> tfds.core.DatasetBuilder:
  """Makes the builder of a set that TFDS knows; nothing is downloaded."""
  dataset, config, version = lookup.parse_name(name)
  try:
    # What `tfds.builder` does at the end, after it has looked elsewhere.
    builder_class = tfds.builder_cls(dataset)
    configs = builder_class.builder_configs
    if config is None or config in configs:
      return builder_class(
        data_dir=root,
        config=config,
        version=version,
        file_format='array_record',
      )
  except tfds.core.DatasetNotFoundError as error:
    names = tfds.list_builders(with_community_datasets=False)
    near = difflib.get_close_matches(dataset, names)
    but = f', but {", ".join(near)}' if near else ''
    raise ValueError(f'name: TFDS has no data set {dataset!r}{but}') from error
  except Exception as error:  # TFDS raises most kinds of it.
    raise tfds_errors.explain(
      name, 'cannot be opened by TFDS', error
    ) from error
  wanted = f'one of {", ".join(configs)}' if configs else 'none'
  raise ValueError(f'name: {dataset} has no config {config!r}, wanted {wanted}')


def write(
  builder: tfds.core.DatasetBuilder,
  config: tfds.download.DownloadConfig | None = None,
) -> None:
  """Has TFDS write a set, safe against other processes and being killed.

  TFDS writes to a folder `incomplete.*`, which it renames when it is complete.
  A killed process leaves that folder behind, which may be deleted. Beside the
  names of the classes is then a digest of them.
  """
  try:
    builder.download_and_prepare(download_config=config)
  except Exception:  # TFDS raises most kinds of it.
    # Another process may have been the first to put its folder there.
    if not lookup.is_complete(pathlib.Path(builder.data_dir)):
      raise
  class_names.sign(pathlib.Path(builder.data_dir))


def open_builder(folder: pathlib.Path) -> tfds.core.DatasetBuilder:
  """Opens a prepared set and checks that it can be used here."""
  class_names.check(folder)
  try:
    builder = tfds.builder_from_directory(folder)
    formats = builder.info.available_file_formats()
  except Exception as error:  # TFDS raises most kinds of it.
    raise tfds_errors.damaged(folder, tfds_errors.first_line(error)) from error
  if FORMAT not in formats:
    found = ', '.join(sorted(file_format.value for file_format in formats))
    config = builder.builder_config
    name = f'{builder.name}/{config.name}' if config else builder.name
    root = folder.parents[2 if config else 1]
    raise ValueError(
      f'data_dir: {str(folder)!r} has the file format {found}, wanted'
      ' array_record: choose another data_dir, or delete that folder and run'
      f' `{lookup.prepare_command(name, root)}`'
    )
  builder.info.set_file_format(
    FORMAT, override=True, override_if_initialized=True
  )
  return builder


def find_keys(info: tfds.core.DatasetInfo) -> tuple[str, str]:
  """Finds the image and the label of a classification set."""
  features = dict(info.features)
  # Supervised keys may be trees of names, which are no keys of `features`.
  chosen = [k for k in info.supervised_keys or features if isinstance(k, str)]
  images = [k for k in chosen if _is_image(features.get(k))]
  labels = [k for k in chosen if _is_label(features.get(k))]
  if len(images) != 1 or len(labels) != 1:
    types = {k: type(feature).__name__ for k, feature in features.items()}
    listed = ', '.join(f'{k} ({name})' for k, name in types.items())
    keys = info.supervised_keys
    supervised = f', of which supervised {keys}' if keys else ''
    raise ValueError(
      f'{info.name} has the features {listed}{supervised}, wanted one image'
      ' (an Image or a Tensor of uint8) and one label (a ClassLabel)'
    )
  return images[0], labels[0]


def describe(
  info: tfds.core.DatasetInfo,
) -> tuple[tuple[str, ...], tuple[Any, ...]]:
  """Class names, and the shape `(h, w, c)` with None where images differ."""
  image_key, label_key = find_keys(info)
  shape = info.features[image_key].shape
  names = tuple(info.features[label_key].names)
  return names, shape if len(shape) == 3 else (*shape, 1)


def _is_image(feature: Any) -> bool:
  # The shape of other kinds of features may be a dict or what not.
  if not isinstance(feature, tfds.features.Image | tfds.features.Tensor):
    return False
  ranks = (3,) if isinstance(feature, tfds.features.Image) else (2, 3)
  return feature.np_dtype == np.uint8 and len(feature.shape) in ranks


def _is_label(feature: Any) -> bool:
  is_label = isinstance(feature, tfds.features.ClassLabel)
  return is_label and feature.num_classes is not None
