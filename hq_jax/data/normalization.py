"""From raw pixels to a model's input, in training and wherever it is used."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hq_jax.data import datasets


def preprocessing(dataset: datasets.Dataset) -> dict[str, Any]:
  """Returns what turns pixels into a model's input, as plain JSON values.

  It is written into the file of a compressed model, so that whoever reads the
  file can normalize images as they were in training.

  Args:
    dataset: a data set.

  Returns:
    `pixel_min` and `pixel_max`, the range of raw pixels, and `mean` and
    `std`, one number per channel, in units of raw pixels.

  >>> import tempfile
  >>> with tempfile.TemporaryDirectory() as data_dir:
  ...   digits = datasets.load('digits', data_dir)
  >>> preprocessing(digits)['pixel_max']
  16.0
  """
  pixel_min, pixel_max = dataset.pixel_range
  return {
    'pixel_min': pixel_min,
    'pixel_max': pixel_max,
    'mean': list(dataset.pixel_mean),
    'std': list(dataset.pixel_std),
  }


def normalize(
  images: np.ndarray, preprocessing: Mapping[str, Any]
) -> np.ndarray:
  """Turns raw pixels into a model's input: `(images - mean) / std`.

  Args:
    images: raw pixels, `[..., c]`, of any real dtype.
    preprocessing: what `preprocessing` returns; `mean` and `std` count, each
      of c numbers, std > 0.

  Returns:
    float32, the shape of `images`.

  Raises:
    ValueError: for a `mean` or `std` that is missing, is not one finite number
      per channel, or a `std` that is not positive.

  >>> normalize(np.array([[1], [5]]), {'mean': [3.0], 'std': [2.0]}).tolist()
  [[-1.0], [1.0]]
  """
  mean = _channel_numbers('mean', preprocessing, images.shape[-1])
  std = _channel_numbers('std', preprocessing, images.shape[-1])
  if not (std > 0).all():
    raise ValueError(f'std: got {std.tolist()}, wanted numbers above 0')
  return (images.astype(np.float32) - mean) / std


def _channel_numbers(
  name: str, preprocessing: Mapping[str, Any], num_channels: int
) -> np.ndarray:
  """Reads one number per channel, float32 `[c]`, out of `preprocessing`."""
  try:
    with np.errstate(over='ignore'):
      numbers = np.array(preprocessing[name], np.float32)
  except (KeyError, TypeError, ValueError):
    numbers = np.array([])
  if numbers.shape != (num_channels,) or not np.isfinite(numbers).all():
    raise ValueError(
      f'{name}: got {preprocessing.get(name)!r}, wanted {num_channels} finite'
      ' number(s), one per channel'
    )
  return numbers
