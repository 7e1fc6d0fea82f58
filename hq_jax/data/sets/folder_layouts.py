"""Layouts of a folder of images: its classes, and what is tested on.

Two layouts are understood. In the first, `test` may be called `val` or
`validation`, or be missing:

    ROOT/train/CLASS/*.jpg  ROOT/test/CLASS/*.jpg
    ROOT/CLASS/*.jpg

Where there are no images to test on, a fifth of each class is held out.
"""

from collections.abc import MutableMapping, Sequence
import hashlib
import pathlib
import posixpath

from hq_jax.data.sets import image_files

_FILES = f'files that end in {" ".join(image_files.EXTENSIONS)}'
_TRAIN = 'train'
_TESTS = ('test', 'val', 'validation')
# What may be meant as a split, and must not be taken for a class in silence.
_SPLIT_WORDS = {_TRAIN, *_TESTS, 'training', 'testing', 'valid', 'eval'}

# The paths of the images by class; the paths are relative to ROOT.
Classes = dict[str, list[str]]
# How many files in the folders of the classes are no images, by their endings.
_Ignored = MutableMapping[str, int]


def list_splits(
  root: pathlib.Path, ignored: _Ignored
) -> tuple[Classes, Classes]:
  """Lists the images to train on and those to test on; none of them is opened.

  Files that are no images by their names are added to those ignored.

  The classes are the folders in `ROOT/train`, or those in ROOT where it has no
  folder `train`, in the order of their names' code points.

  The images to test on are those in `ROOT/test`, `ROOT/val` or
  `ROOT/validation`. Without such a folder, `max(1, n // 5)` images are held out
  of each class of n >= 2: those whose path below the folder of the classes has
  the lowest SHA-256. So the choice is the same everywhere, and a file that is
  added or removed moves at most one other from one side to the other.
  """
  folders = _scan_classes(root, '')
  if _TRAIN in folders:
    train, test = _list_train_and_test(root, folders, ignored)
  else:
    _check_no_splits(root, folders)
    train, test = _hold_out(_list_training(root, '', ignored), '')
  if not any(test.values()):
    raise image_files.folder_error(
      root, 'has no two images of a class, wanted some to test on'
    )
  return train, test


def _list_train_and_test(
  root: pathlib.Path, folders: Sequence[str], ignored: _Ignored
) -> tuple[Classes, Classes]:
  """Lists `ROOT/train` and what there is to test on."""
  tests = [name for name in folders if name in _TESTS]
  if len(tests) > 1:
    raise image_files.folder_error(
      root, f'has {" and ".join(tests)}, wanted one of them'
    )
  for name in folders:
    if name not in (_TRAIN, *tests) and image_files.list_images(
      root, name, ignored
    ):
      raise image_files.folder_error(
        root / name,
        f'holds images beside {_TRAIN!r}, wanted {", ".join(_TESTS)} or none'
        f' (a class lies in {_TRAIN!r})',
      )
  train = _list_training(root, _TRAIN, ignored)
  if not tests:
    return _hold_out(train, _TRAIN)
  test = _list_classes(root, tests[0], ignored)
  unknown = sorted(test.keys() - train.keys())
  if unknown:
    raise image_files.folder_error(
      root / tests[0] / unknown[0],
      f'is no class of {_TRAIN!r}, wanted one that it has',
    )
  _check_any_image(root / tests[0], test)
  return train, test


def _check_no_splits(root: pathlib.Path, folders: Sequence[str]) -> None:
  for name in folders:
    if name.lower() in _SPLIT_WORDS:
      raise image_files.folder_error(
        root,
        f'has a folder {name!r} and none called {_TRAIN!r}, wanted'
        f' {_TRAIN!r}, alone or with one of {", ".join(_TESTS)} (a class of'
        f' such a name lies in {_TRAIN!r})',
      )


def _list_training(
  root: pathlib.Path, split: str, ignored: _Ignored
) -> Classes:
  """Lists the classes of a split, each of which must have images."""
  classes = _list_classes(root, split, ignored)
  _check_any_image(root / split, classes)
  for name, paths in classes.items():
    if not paths:
      raise image_files.folder_error(
        root / split / name, f'is a class without images, wanted {_FILES}'
      )
  if len(classes) < 2:
    raise image_files.folder_error(
      root / split, f'has one class, {min(classes)!r}, wanted two or more'
    )
  return classes


def _check_any_image(folder: pathlib.Path, classes: Classes) -> None:
  if not any(classes.values()):
    raise image_files.folder_error(
      folder,
      f'has no images, wanted a folder for each class with {_FILES}',
    )


def _list_classes(root: pathlib.Path, split: str, ignored: _Ignored) -> Classes:
  return {
    name: image_files.list_images(root, posixpath.join(split, name), ignored)
    for name in _scan_classes(root, split)
  }


def _scan_classes(root: pathlib.Path, split: str) -> list[str]:
  """Returns the folders in a folder that may hold no images besides."""
  folders, images, _ = image_files.scan(root / split)
  if images:
    raise image_files.folder_error(
      root / split / images[0],
      'is an image in no class, wanted a folder for each class',
    )
  return folders


def _hold_out(classes: Classes, split: str) -> tuple[Classes, Classes]:
  """Shares the images of each class out, to train and to test on."""

  def digest(path):
    # From the class on: a folder is split alike in both layouts.
    return hashlib.sha256(path.removeprefix(f'{split}/').encode()).digest()

  train, test = {}, {}
  for name, paths in classes.items():
    num_test = max(len(paths) // 5, min(len(paths) - 1, 1))
    chosen = set(sorted(paths, key=digest)[:num_test])
    test[name] = [path for path in paths if path in chosen]
    train[name] = [path for path in paths if path not in chosen]
  return train, test
