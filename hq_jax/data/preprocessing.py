"""Preprocessing of images: from a file or an array to a network's input.

The same for the test images of a training and for whoever uses a file;
`docs/predict.md` has it in words.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image as pil

from hq_jax.data import normalization
from hq_jax.data.images import crops

# The bytes of an image file, an image of Pillow, or pixels: uint8, `[h, w, c]`
# or `[h, w]`.
Image = bytes | pil.Image | np.ndarray

_EIGHT_BITS = 0.0, 255.0


def to_pixels(
  image: Image, input_shape: Sequence[int], preprocessing: Mapping[str, Any]
) -> np.ndarray:
  """Turns an image into raw pixels `[h, w, c]`, as training has them.

  They are uint8, or float32 where the pixels of training are not 0..255.
  """
  height, width, channels = input_shape
  crop = normalization.get_crop(preprocessing)
  pixel_range = normalization.get_pixel_range(preprocessing)
  if not isinstance(image, bytes | pil.Image):
    image = np.asarray(image)
    _check_array(image)
    if image.ndim == 2:
      image = image[:, :, None]
    if crop is None and image.shape == tuple(input_shape):
      return _check_range(image, pixel_range)
    image = _from_array(image, input_shape, pixel_range)
  if channels not in (1, 3):
    raise ValueError(
      f'image is no array of shape {tuple(input_shape)}, and cannot be given'
      f' {channels} channels'
    )
  if crop is None:
    found = crops.fit(image, height=height, width=width, channels=channels)
  else:
    resize, size = crop
    found = crops.center_crop(
      image, size=size, resize=resize, channels=channels
    )
  if pixel_range == _EIGHT_BITS:
    return found
  low, high = pixel_range
  step = np.float32((high - low) / 255)
  return found.astype(np.float32) * step + np.float32(low)


def _check_array(image: np.ndarray) -> None:
  if image.dtype != np.uint8:
    hint = ''
    if image.dtype.kind == 'f':
      hint = ': of pixels in 0..1, (255 * image).round().astype(np.uint8)'
    raise ValueError(f'image is {image.dtype}, wanted uint8{hint}')
  if image.ndim not in (2, 3) or not image.size:
    raise ValueError(
      f'image has the shape {image.shape}, wanted (height, width, channels) or'
      ' (height, width)'
    )


def _check_range(
  image: np.ndarray, pixel_range: tuple[float, float]
) -> np.ndarray:
  low, high = pixel_range
  for value in (image.min(), image.max()):
    if not low <= value <= high:
      raise ValueError(
        f'image has a pixel of {value}, wanted {low:g} to {high:g}, as in'
        ' training; give an image of 0 to 255 as a PIL image'
      )
  return image


def _from_array(
  image: np.ndarray,
  input_shape: Sequence[int],
  pixel_range: tuple[float, float],
) -> pil.Image:
  """Pixels that are resized, or whose channels change: as those of a file."""
  if image.shape[-1] not in (1, 3):
    raise ValueError(
      f'image has the shape {image.shape}, wanted 1 or 3 channels at the end'
    )
  if pixel_range != _EIGHT_BITS:
    raise ValueError(
      f'image has the shape {image.shape}, wanted {tuple(input_shape)}; give an'
      ' image of 0 to 255 as a PIL image'
    )
  return pil.fromarray(image[:, :, 0] if image.shape[-1] == 1 else image)
