"""Folders of image files as they are, one folder per class: nothing to prepare.

Two layouts are understood. In the first, `test` may be called `val` or
`validation`, or be missing:

    ROOT/train/CLASS/*.jpg  ROOT/test/CLASS/*.jpg
    ROOT/CLASS/*.jpg

Where there are no images to test on, a fifth of each class is held out.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import itertools
import os
import pathlib
import posixpath
from typing import Any, NamedTuple

import numpy as np

EXTENSIONS = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.webp')
_FILES = f'files that end in {" ".join(EXTENSIONS)}'
_TRAIN = 'train'
_TESTS = ('test', 'val', 'validation')
# What may be meant as a split, and must not be taken for a class in silence.
_SPLIT_WORDS = {_TRAIN, *_TESTS, 'training', 'testing', 'valid', 'eval'}
# Copies and thumbnails that macOS and network disks leave beside the images.
_IGNORED = {'__MACOSX', '@eaDir'}


@dataclasses.dataclass(frozen=True)
class FolderSource:
  """A split of image files; `source[i]` reads file i.

  An example is a dict of `image`, the file's bytes as they are, `label`, an
  int, and `name`, its path below `root`. A file that cannot be read raises an
  OSError with its path.

  Attributes:
    root: the folder, an absolute path.
    paths: of the files, relative to `root`, with slashes; by class, then by
      path.
    labels: int32, `[n]`.
  """

  root: pathlib.Path
  paths: tuple[str, ...] = dataclasses.field(repr=False)
  labels: np.ndarray = dataclasses.field(repr=False)

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, index: int) -> dict[str, Any]:
    name = self.paths[index]
    path = self.root / name
    try:
      image = path.read_bytes()
    except OSError as error:
      # The system names the file where opening it fails, not where reading it.
      raise OSError(error.errno, error.strerror, str(path)) from error
    return {'image': image, 'label': int(self.labels[index]), 'name': name}

  def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
    """Returns the examples at `indices`, in that order."""
    return [self[index] for index in indices]

  def fingerprint(self) -> str:
    """Returns a digest of the paths and labels, in their order.

    It shows whether a run is continued on the images that it began with: the
    same while no file was added, removed or renamed, wherever the folder lies.
    It says nothing of what is in the files, none of which is looked at.

    Returns:
      64 hexadecimal digits.
    """
    digest = hashlib.sha256(self.labels.astype('<i4').tobytes())
    for path in self.paths:
      digest.update(path.encode() + b'\0')
    return digest.hexdigest()


class Folder(NamedTuple):
  """A data set that is a folder of images.

  Attributes:
    class_names: in the order of the labels.
    train: the training images.
    test: the images that accuracy is measured on.
  """

  class_names: tuple[str, ...]
  train: FolderSource
  test: FolderSource


def open_folder(path: str | os.PathLike[str]) -> Folder:
  """Lists a folder of images; none of them is opened.

  The classes are the folders in `ROOT/train`, or those in ROOT where it has no
  folder `train`, in the order of their names' code points. The images of a
  class are the files below its folder, however deep, that end in one of
  `EXTENSIONS`, in capitals or not. Names that begin with a dot are skipped;
  links are followed, each folder counting once per class.

  The images to test on are those in `ROOT/test`, `ROOT/val` or
  `ROOT/validation`. Without such a folder, `max(1, n // 5)` images are held out
  of each class of n >= 2: those whose path below the folder of the classes has
  the lowest SHA-256. So the choice is the same everywhere, and a file that is
  added or removed moves at most one other from one side to the other.

  Args:
    path: ROOT; `~` is the home directory.

  Returns:
    The names of the classes and the two sources.

  Raises:
    ValueError: where there is no such folder, or it has another layout; where
      images lie in no class, or a class has no images, or there are fewer than
      two; or where a name is not UTF-8.
    OSError: for a folder that cannot be listed.

  >>> import tempfile
  >>> with tempfile.TemporaryDirectory() as root:
  ...   for name in ('cat/1.jpg', 'cat/2.jpg', 'dog/1.jpg', 'dog/2.png'):
  ...     file = pathlib.Path(root, name)
  ...     file.parent.mkdir(exist_ok=True)
  ...     _ = file.write_bytes(b'')
  ...   folder = open_folder(root)
  >>> folder.class_names, len(folder.train), len(folder.test)
  (('cat', 'dog'), 2, 2)
  """
  root = pathlib.Path(os.path.expanduser(path)).absolute()
  if not os.fspath(path) or not root.is_dir():
    raise _error(path, 'is no folder, wanted one of images')
  folders = _scan_classes(root, '')
  if _TRAIN in folders:
    train, test = _list_splits(root, folders)
  else:
    _check_no_splits(root, folders)
    train, test = _hold_out(_list_training(root, ''), '')
  class_names = tuple(train)
  if not any(test.values()):
    raise _error(root, 'has no two images of a class, wanted some to test on')
  return Folder(
    class_names,
    train=_make_source(root, class_names, train),
    test=_make_source(root, class_names, test),
  )


# The paths of the images by class; the paths are relative to ROOT.
_Classes = dict[str, list[str]]


def _list_splits(
  root: pathlib.Path, folders: Sequence[str]
) -> tuple[_Classes, _Classes]:
  """Lists `ROOT/train` and what there is to test on."""
  tests = [name for name in folders if name in _TESTS]
  if len(tests) > 1:
    raise _error(root, f'has {" and ".join(tests)}, wanted one of them')
  for name in folders:
    if name not in (_TRAIN, *tests) and _list_images(root, name):
      raise _error(
        root / name,
        f'holds images beside {_TRAIN!r}, wanted {", ".join(_TESTS)} or none'
        f' (a class lies in {_TRAIN!r})',
      )
  train = _list_training(root, _TRAIN)
  if not tests:
    return _hold_out(train, _TRAIN)
  test = _list_classes(root, tests[0])
  unknown = sorted(test.keys() - train.keys())
  if unknown:
    raise _error(
      root / tests[0] / unknown[0],
      f'is no class of {_TRAIN!r}, wanted one that it has',
    )
  _check_any_image(root / tests[0], test)
  return train, test


def _check_no_splits(root: pathlib.Path, folders: Sequence[str]) -> None:
  for name in folders:
    if name.lower() in _SPLIT_WORDS:
      raise _error(
        root,
        f'has a folder {name!r} and none called {_TRAIN!r}, wanted'
        f' {_TRAIN!r}, alone or with one of {", ".join(_TESTS)} (a class of'
        f' such a name lies in {_TRAIN!r})',
      )


def _list_training(root: pathlib.Path, split: str) -> _Classes:
  """Lists the classes of a split, each of which must have images."""
  classes = _list_classes(root, split)
  _check_any_image(root / split, classes)
  for name, paths in classes.items():
    if not paths:
      raise _error(
        root / split / name, f'is a class without images, wanted {_FILES}'
      )
  if len(classes) < 2:
    raise _error(
      root / split, f'has one class, {min(classes)!r}, wanted two or more'
    )
  return classes


def _check_any_image(folder: pathlib.Path, classes: _Classes) -> None:
  if not any(classes.values()):
    raise _error(
      folder,
      f'has no images, wanted a folder for each class with {_FILES}',
    )


def _list_classes(root: pathlib.Path, split: str) -> _Classes:
  return {
    name: _list_images(root, posixpath.join(split, name))
    for name in _scan_classes(root, split)
  }


def _scan_classes(root: pathlib.Path, split: str) -> list[str]:
  """Returns the folders in a folder that may hold no images besides."""
  folders, images = _scan(root / split)
  if images:
    raise _error(
      root / split / images[0],
      'is an image in no class, wanted a folder for each class',
    )
  return folders


def _list_images(root: pathlib.Path, folder: str) -> list[str]:
  """Returns the sorted paths of all images below a folder of ROOT."""
  visited = {parent.resolve() for parent in (root / folder).parents}
  paths, pending = [], [(folder, (root / folder).parent.resolve())]
  while pending:
    folder, holder = pending.pop()
    real = (root / folder).resolve()
    # A link to a folder around it would add all other classes to this one.
    if real in visited or holder.is_relative_to(real):
      continue
    visited.add(real)
    folders, images = _scan(root / folder)
    paths += [f'{folder}/{name}' for name in images]
    pending += [(f'{folder}/{name}', real) for name in reversed(folders)]
  return sorted(paths)


def _scan(folder: pathlib.Path) -> tuple[list[str], list[str]]:
  """Returns the sorted names of the folders and of the images in a folder."""
  folders, images = [], []
  with os.scandir(folder) as entries:
    for entry in entries:
      if entry.name.startswith('.') or entry.name in _IGNORED:
        continue
      if _is_folder(entry):
        folders.append(entry.name)
      elif _is_image(entry):
        images.append(entry.name)
  for name in itertools.chain(folders, images):
    try:
      name.encode()
    except UnicodeEncodeError:
      raise _error(
        folder / name, 'is not UTF-8, wanted a name that is'
      ) from None
  return sorted(folders), sorted(images)


def _is_folder(entry: os.DirEntry[str]) -> bool:
  try:
    return entry.is_dir()
  except OSError:  # A link that leads back to itself.
    return False


def _is_image(entry: os.DirEntry[str]) -> bool:
  if not entry.name.lower().endswith(EXTENSIONS):
    return False
  if entry.is_symlink():
    # One that leads nowhere counts: on reading it the loss is seen.
    return os.path.isfile(entry) or not os.path.exists(entry)
  return entry.is_file()


def _hold_out(classes: _Classes, split: str) -> tuple[_Classes, _Classes]:
  """Shares the images of each class out, to train and to test on."""

  def digest(path):
    # From the class on: a folder is shared out alike in both layouts.
    return hashlib.sha256(path.removeprefix(f'{split}/').encode()).digest()

  train, test = {}, {}
  for name, paths in classes.items():
    num_test = max(len(paths) // 5, min(len(paths) - 1, 1))
    chosen = set(sorted(paths, key=digest)[:num_test])
    test[name] = [path for path in paths if path in chosen]
    train[name] = [path for path in paths if path not in chosen]
  return train, test


def _make_source(
  root: pathlib.Path, class_names: Sequence[str], classes: _Classes
) -> FolderSource:
  # A class may have no images to test on.
  by_label = [classes.get(name, []) for name in class_names]
  return FolderSource(
    root,
    paths=tuple(itertools.chain.from_iterable(by_label)),
    labels=np.repeat(
      np.arange(len(by_label), dtype=np.int32), [len(x) for x in by_label]
    ),
  )


def _error(path: str | os.PathLike[str], what: str) -> ValueError:
  return ValueError(f'config.data.data_dir: {os.fspath(path)!r} {what}')
