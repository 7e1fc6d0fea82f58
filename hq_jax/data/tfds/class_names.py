"""The files of class names in a prepared set, and digests of them.

TFDS takes what a file says: a name that is cut, or two that have changed
places, would be those of the classes.
"""

import collections
import hashlib
import json
import pathlib
from typing import Any
import unicodedata

from hq_jax.data.tfds import errors as tfds_errors
from hq_jax.runtime import atomic_write

# As `sha256sum` writes and reads it.
DIGESTS = 'class_names.sha256'

_ENDING = '.labels.txt'


def sign(folder: pathlib.Path) -> None:
  """Writes digests of the names that were just written beside them."""
  path = folder / DIGESTS
  digests = _list_digests(_read(folder))
  if digests and not path.exists():
    atomic_write.write_bytes(path, digests.encode())


def check(folder: pathlib.Path) -> None:
  """Refuses names that are not as they were written, as far as can be known.

  Without digests, the set is one that TFDS has prepared by itself.
  """
  path = folder / DIGESTS
  try:
    files = _read(folder)
    signed = path.read_bytes().decode(errors='replace') if path.exists() else ''
    num_classes = _count_classes(folder)
  except OSError as error:
    raise tfds_errors.damaged(folder, f'{error}') from error
  if path.exists():
    names = [line.partition('  ')[2] for line in signed.splitlines()]
    for name in names:
      if name not in files:
        raise tfds_errors.damaged(folder, f'{name!r:.60} is missing')
    if signed != _list_digests(files):
      listed = ', '.join(files) or f'*{_ENDING}'
      raise tfds_errors.damaged(
        folder, f'{listed} and the digest in {DIGESTS} do not fit'
      )
  for name, content in files.items():
    reason = _find_fault(content, num_classes.get(name))
    if reason:
      raise tfds_errors.damaged(folder, f'{name} {reason}')


def _read(folder: pathlib.Path) -> dict[str, bytes]:
  paths = sorted(folder.glob(f'*{_ENDING}'))
  return {path.name: path.read_bytes() for path in paths}


def _list_digests(files: dict[str, bytes]) -> str:
  return ''.join(
    f'{hashlib.sha256(content).hexdigest()}  {name}\n'
    for name, content in files.items()
  )


def _count_classes(folder: pathlib.Path) -> dict[str, int]:
  """The number of classes by the name of the file; of a bad set, none."""
  try:
    config: Any = json.loads((folder / 'features.json').read_bytes())
    features = config['featuresDict']['features']
    return {
      f'{key}{_ENDING}': int(feature['classLabel']['numClasses'])
      for key, feature in features.items()
      if 'classLabel' in feature
    }
  except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
    return {}


def _find_fault(content: bytes, num_classes: int | None) -> str:
  """What is wrong with names of which hardly more than their number is known.

  TFDS leaves out empty lines.
  """
  try:
    lines = content.decode().split('\n')
  except UnicodeDecodeError:
    return 'is not UTF-8'
  if lines.pop():
    return 'ends within a line'
  names = [line.strip() for line in lines]
  if num_classes not in (None, len(names)):
    return f'has {len(names)} lines, wanted {num_classes}'
  for name in names:
    if not name or any(unicodedata.category(c) == 'Cc' for c in name):
      return f'has the name {name!r:.60}, wanted text'
  name, count = next(iter(collections.Counter(names).most_common(1)), ('', 0))
  return f'has the name {name!r:.60} twice' if count > 1 else ''
