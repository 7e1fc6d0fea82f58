"""The command that says what image files show."""

from collections.abc import Iterator, Sequence
import json
import os
import pathlib
import warnings

from hq_jax.data.sets import image_files
from hq_jax.inference import classifier as classifier_lib
from hq_jax.runtime import terminal

_REFUSED = 2


def predict_files(
  model: str,
  paths: Sequence[str],
  *,
  top: int = 5,
  as_json: bool = False,
  engine: str | None = None,
  activations: str | None = None,
) -> int:
  """Prints what images show, and returns the exit status.

  An image that cannot be read is named on stderr, and the others go on.
  """
  if top < 1:
    raise ValueError(f'top is {top}, wanted at least 1')
  classifier = classifier_lib.load(model, engine, activations=activations)
  write = _format_json if as_json else _format_text
  status = 0
  for path, error in _expand(paths):
    prediction = None
    try:
      if not error:
        prediction = _predict(classifier, path, top)
    except (OSError, ValueError) as caught:
      error = str(caught)
    if error:
      terminal.refuse(error)
      status = _REFUSED
    if as_json or prediction is not None:
      status = terminal.show(write(path, prediction, error)) or status
  return status


def _expand(paths: Sequence[str]) -> Iterator[tuple[str, str]]:
  """Each image, those of a folder in its place, and what is wrong with it."""
  for path in paths:
    if not os.path.isdir(path):
      yield path, ''
      continue
    found: list[str] = []
    ignored: dict[str, int] = {}
    reason = 'no image in it, wanted one that can be read'
    try:
      root = pathlib.Path(os.path.abspath(path))
      found = image_files.list_images(root, '.', ignored)
    except (OSError, ValueError) as error:
      reason = str(error)
    if ignored:
      kinds = image_files.describe_ignored(ignored)
      terminal.refuse(f'{path}: no images, ignored: {kinds}')
    for name in found:
      yield os.path.normpath(os.path.join(path, name)), ''
    if not found:
      yield path, f'{path}: {reason}'


def _predict(
  classifier: classifier_lib.Classifier, path: str, top: int
) -> classifier_lib.Prediction:
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    inputs = classifier.preprocess(path)
  for warning in caught:  # Such as of EXIF that is broken.
    terminal.refuse(f'{path}: {warning.message}')
  return classifier.rank(classifier.apply(inputs)[0], top)


def _format_text(path: str, prediction, error: str) -> str:
  del error  # It went to stderr.
  lines = [terminal.escape(path)]
  for name, probability in zip(*prediction, strict=True):
    lines.append(f'  {probability:7.2%}  {terminal.escape(name)}')
  return '\n'.join(lines)


def _format_json(path: str, prediction, error: str) -> str:
  if error:
    return json.dumps({'image': path, 'error': error})
  found = [
    {'class': name, 'probability': float(probability)}
    for name, probability in zip(*prediction, strict=True)
  ]
  return json.dumps({'image': path, 'predictions': found})
