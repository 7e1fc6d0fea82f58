"""Test images on a page: the worst mistakes, and some right answers."""

import base64
from collections.abc import Sequence
import io

import numpy as np
from PIL import Image

from hq_jax.report import answers as answers_lib
from hq_jax.report import elements
from hq_jax.report import run_record

_MAX_SIDE = 96  # pixels of a picture


def show(inputs: run_record.Inputs, class_names: Sequence[str]) -> str:
  """Two sections of pictures; none where there are no pictures."""
  if inputs.answers is None or not inputs.pictures:
    return ''
  parts = ['<section>']
  for heading, note, chosen in (
    (
      'The worst mistakes',
      'Test images, as the model sees them, of whose wrong class it is surest.',
      answers_lib.find_worst(inputs.answers),
    ),
    (
      'Some right answers',
      'Spread over the classes.',
      answers_lib.find_right(inputs.answers),
    ),
  ):
    figures = [
      _show_picture(inputs.pictures[place], class_names, *answer)
      for place, *answer in zip(*map(np.ndarray.tolist, chosen), strict=True)
      if place in inputs.pictures
    ]
    if figures:
      parts += [
        f'<h2>{heading}</h2>\n<p class="note">{note}</p>',
        f'<div class="pictures">{"".join(figures)}</div>',
      ]
  return '\n'.join([*parts, '</section>'])


def _show_picture(
  image: np.ndarray,
  class_names: Sequence[str],
  label: int,
  prediction: int,
  probability: float,
  label_probability: float,
) -> str:
  smooth = '' if max(image.shape[:2]) < _MAX_SIDE // 2 else ' class="smooth"'
  data = base64.b64encode(to_png(image)).decode()
  name = lambda index: elements.name(class_names[index])
  caption = f'{name(prediction)}: {elements.percent(probability)}'
  if label == prediction:
    caption = f'<span class="right">{caption}</span>'
  else:
    caption = (
      f'<span class="wrong">taken for {caption}</span><br>is {name(label)}:'
      f' {elements.percent(label_probability)}'
    )
  return (
    f'<figure><img{smooth} src="data:image/png;base64,{data}"'
    f' alt="A test image"><figcaption>{caption}</figcaption></figure>\n'
  )


def to_png(image: np.ndarray) -> bytes:
  """A picture of uint8 `[h, w, c]`, made smaller where it is large."""
  pixels = image if image.shape[-1] == 3 else image[..., 0]
  picture = Image.fromarray(np.ascontiguousarray(pixels))
  picture.thumbnail((_MAX_SIDE, _MAX_SIDE))
  buffer = io.BytesIO()
  picture.save(buffer, 'PNG', optimize=True)
  return buffer.getvalue()
