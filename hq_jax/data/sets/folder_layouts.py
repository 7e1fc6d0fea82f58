"""Layouts of a folder of images: its classes, and what is tested on.

Two layouts are understood. In the first, `train` may be called `training`, and
`test` may be called otherwise, too, or be missing; capitals do not matter:

    ROOT/train/CLASS/*.jpg  ROOT/test/CLASS/*.jpg
    ROOT/CLASS/*.jpg

Names of classes are the same where they look the same: macOS and others write
accents as different code points. Where there are no images to test on, a fifth
of each class is held out.
"""

from collections.abc import MutableMapping, Sequence
import hashlib
import pathlib
import posixpath
import unicodedata

from hq_jax.data.sets import image_files

_FILES = 'files of images, such as .jpg, .png, .webp or .tiff'
# The first of each is how errors call it.
_TRAINS = ('train', 'training')
_TESTS = ('test', 'val', 'validation', 'valid', 'testing', 'eval')
# An archive may hold a folder that holds another, and so on.
_MAX_DEPTH = 4

# The paths of the images by class; the paths are relative to ROOT.
Classes = dict[str, list[str]]
# How many files in the folders of the classes are no images, by their endings.
_Ignored = MutableMapping[str, int]


def find_root(folder: pathlib.Path) -> pathlib.Path:
  """The folder of splits or classes, which may be the only one in a folder."""
  for _ in range(_MAX_DEPTH):
    folders, images, _ = image_files.scan(folder)
    if images or len(folders) != 1 or _is_split(folders[0]):
      break
    inner, images, _ = image_files.scan(folder / folders[0])
    if images or not inner:
      break
    folder = folder / folders[0]
  return folder


def _is_split(name: str) -> bool:
  return name.lower() in (*_TRAINS, *_TESTS)


def list_splits(
  root: pathlib.Path, ignored: _Ignored
) -> tuple[Classes, Classes]:
  """Lists the images to train on and those to test on; none of them is opened.

  Files that are no images by their names are added to those ignored.

  The classes are the folders in `ROOT/train`, or those in ROOT where it has no
  folder `train`, in the order of their names' code points.

  The images to test on are those in `ROOT/test`, or how it is called there.
  Without such a folder, `max(1, n // 5)` images are held out
  of each class of n >= 2: those whose path below the folder of the classes has
  the lowest SHA-256. So the choice is the same everywhere, and a file that is
  added or removed moves at most one other from one side to the other.
  """
  folders = _scan_classes(root, '')
  if any(name.lower() in _TRAINS for name in folders):
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
  trains = [name for name in folders if name.lower() in _TRAINS]
  tests = [name for name in folders if name.lower() in _TESTS]
  for names in (trains, tests):
    if len(names) > 1:
      raise image_files.folder_error(
        root, f'has {" and ".join(names)}, wanted one of them'
      )
  for name in folders:
    if not _is_split(name) and image_files.list_images(root, name, ignored):
      raise image_files.folder_error(
        root / name,
        f'holds images beside {trains[0]!r}, wanted {", ".join(_TESTS)} or none'
        f' (a class lies in {trains[0]!r})',
      )
  train = _list_training(root, trains[0], ignored)
  if not tests:
    return _hold_out(train, trains[0])
  test = _list_classes(root, tests[0], ignored)
  unknown = sorted(test.keys() - train.keys())
  if unknown:
    raise image_files.folder_error(
      root / tests[0] / unknown[0],
      f'is no class of {trains[0]!r}, wanted one that it has',
    )
  _check_any_image(root / tests[0], test, ignored)
  return train, test


def _check_no_splits(root: pathlib.Path, folders: Sequence[str]) -> None:
  for name in folders:
    if _is_split(name):
      raise image_files.folder_error(
        root,
        f'has a folder {name!r} and none called {_TRAINS[0]!r}, wanted'
        f' {_TRAINS[0]!r}, alone or with one of {", ".join(_TESTS)} (a class of'
        f' such a name lies in {_TRAINS[0]!r})',
      )


def _list_training(
  root: pathlib.Path, split: str, ignored: _Ignored
) -> Classes:
  """Lists the classes of a split, each of which must have images."""
  classes = _list_classes(root, split, ignored)
  _check_any_image(root / split, classes, ignored)
  for name, paths in classes.items():
    if not paths:
      raise image_files.folder_error(
        root / split / name,
        f'is a class without images, wanted {_FILES}{_name(ignored)}',
      )
  if len(classes) < 2:
    raise image_files.folder_error(
      root / split, f'has one class, {min(classes)!r}, wanted two or more'
    )
  return classes


def _check_any_image(
  folder: pathlib.Path, classes: Classes, ignored: _Ignored
) -> None:
  if not any(classes.values()):
    raise image_files.folder_error(
      folder,
      f'has no images, wanted a folder for each class with {_FILES}'
      f'{_name(ignored)}',
    )


def _name(ignored: _Ignored) -> str:
  if not ignored:
    return ''
  return f' (ignored: {image_files.describe_ignored(ignored)})'


def _list_classes(root: pathlib.Path, split: str, ignored: _Ignored) -> Classes:
  classes: Classes = {}
  for name in _scan_classes(root, split):
    paths = image_files.list_images(root, posixpath.join(split, name), ignored)
    classes.setdefault(unicodedata.normalize('NFC', name), []).extend(paths)
  return {name: sorted(classes[name]) for name in sorted(classes)}


def _scan_classes(root: pathlib.Path, split: str) -> list[str]:
  """Returns the folders in a folder that may hold no images besides."""
  folders, images, others = image_files.scan(root / split)
  # Those too that cannot be read here.
  images += [x for x, kind in others.items() if image_files.find_need(kind)]
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
    name = unicodedata.normalize('NFC', path.removeprefix(f'{split}/'))
    return hashlib.sha256(name.encode()).digest()

  train, test = {}, {}
  for name, paths in classes.items():
    num_test = max(len(paths) // 5, min(len(paths) - 1, 1))
    chosen = set(sorted(paths, key=digest)[:num_test])
    test[name] = [path for path in paths if path in chosen]
    train[name] = [path for path in paths if path not in chosen]
  return train, test
