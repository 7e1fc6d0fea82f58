"""Normalization of pixels, in training and wherever a model is used."""

from collections.abc import Mapping, Sequence
import math
import typing
from typing import Any

import numpy as np

if typing.TYPE_CHECKING:
  # Whoever predicts has none of what data sets need.
  from hq_jax.data.sets import datasets

_MAX_PIXELS = 8192


def preprocessing(dataset: 'datasets.Dataset') -> dict[str, Any]:
  """Returns what turns pixels into a model's input, as plain JSON values.

  It is written into the file of a compressed model, so that whoever reads the
  file can normalize images as they were in training.
  """
  pixel_min, pixel_max = dataset.pixel_range
  crop = {}
  if dataset.resize is not None:
    crop = {'resize': dataset.resize, 'crop': dataset.image_shape[0]}
  return crop | {
    'pixel_min': pixel_min,
    'pixel_max': pixel_max,
    'mean': list(dataset.pixel_mean),
    'std': list(dataset.pixel_std),
  }


def check(preprocessing: Mapping[str, Any], input_shape: Sequence[int]) -> None:
  """Refuses what a file says of its preprocessing, if it makes no sense."""
  crop = get_crop(preprocessing)
  height, width, channels = input_shape
  if crop is not None and (height, width) != (crop[1], crop[1]):
    raise ValueError(
      f'crop is {crop[1]}, but input_shape is {tuple(input_shape)}'
    )
  get_pixel_range(preprocessing)
  get_statistics(preprocessing, channels)


def get_crop(preprocessing: Mapping[str, Any]) -> tuple[int, int] | None:
  """Reads what image files are resized and cropped to."""
  if not {'resize', 'crop'} & set(preprocessing):
    return None
  resize, crop = (_pixels(name, preprocessing) for name in ('resize', 'crop'))
  if crop > resize:
    raise ValueError(f'crop is {crop}, wanted at most resize, {resize}')
  return resize, crop


def get_pixel_range(preprocessing: Mapping[str, Any]) -> tuple[float, float]:
  """Reads the lowest and the highest value that a pixel can have."""
  found = {'pixel_min': 0.0, 'pixel_max': 255.0} | dict(preprocessing)
  low, high = found['pixel_min'], found['pixel_max']
  for name, value in (('pixel_min', low), ('pixel_max', high)):
    if type(value) not in (int, float) or not math.isfinite(value):
      raise ValueError(f'{name} is {value!r}, wanted a finite number')
  if low >= high:
    raise ValueError(f'pixel_max is {high}, wanted more than pixel_min, {low}')
  return float(low), float(high)


def _pixels(name: str, preprocessing: Mapping[str, Any]) -> int:
  value = preprocessing.get(name)
  if type(value) is not int or not 1 <= value <= _MAX_PIXELS:
    raise ValueError(f'{name} is {value!r}, wanted an int of 1..{_MAX_PIXELS}')
  return value


def normalize(
  images: np.ndarray, preprocessing: Mapping[str, Any]
) -> np.ndarray:
  """Turns raw pixels into a model's input: `(images - mean) / std`."""
  mean, std = get_statistics(preprocessing, images.shape[-1])
  # In rows of whole image lines: along an axis of three NumPy is slow.
  normalized = images.astype(np.float32, order='C')
  width = images.shape[-2] if images.ndim > 1 else 1
  rows = normalized.reshape(-1, width * images.shape[-1])
  rows -= np.tile(mean, width)
  rows /= np.tile(std, width)
  return normalized


def get_statistics(
  preprocessing: Mapping[str, Any], num_channels: int
) -> tuple[np.ndarray, np.ndarray]:
  """Reads mean and std, float32 `[c]` each, out of `preprocessing`."""
  mean = _channel_numbers('mean', preprocessing, num_channels)
  std = _channel_numbers('std', preprocessing, num_channels)
  if not (std > 0).all():
    raise ValueError(f'std is {std.tolist()}, wanted numbers above 0')
  return mean, std


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
      f'{name} is {preprocessing.get(name)!r}, wanted {num_channels} finite'
      ' number(s), one per channel'
    )
  return numbers
