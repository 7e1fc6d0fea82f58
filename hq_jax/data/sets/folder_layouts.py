"""Layouts of a folder of images: its classes, and what is tested on.

Two layouts are understood. In the first, splits may be called otherwise, too
(`training`, `valid`, `Test`), and all but `train` may be missing:

    ROOT/train/CLASS/*.jpg  ROOT/val/CLASS/*.jpg  ROOT/test/CLASS/*.jpg
    ROOT/CLASS/*.jpg

Names of classes are the same where they look the same: macOS and others write
accents as different code points. Where there are no images to test on, a fifth
of each class is held out.
"""

from collections.abc import Collection, Mapping, MutableMapping, Sequence
import hashlib
import itertools
import pathlib
import posixpath
from typing import Any, NamedTuple
import unicodedata

from hq_jax.data.sets import image_files

ALL = 'all'

_FILES = 'files of images, such as .jpg, .png, .webp or .tiff'
# What the folder of a split may be called, in capitals or not.
_NAMES = {
  'train': ('train', 'training'),
  'validation': ('val', 'validation', 'valid'),
  'test': ('test', 'testing', 'eval'),
}
_SPLITS = {name: split for split, names in _NAMES.items() for name in names}
_OTHERS = ', '.join((*_NAMES['test'], *_NAMES['validation']))
# An archive may hold a folder that holds another, and so on.
_MAX_DEPTH = 4

# The paths of the images by class; the paths are relative to ROOT.
Classes = dict[str, list[str]]
# How many files in the folders of the classes are no images, by their endings.
_Ignored = MutableMapping[str, int]


class Splits(NamedTuple):
  """The images of a folder.

  Attributes:
    train: the images to train on.
    validation: those that epochs are evaluated on; none where there are only
      these, which are then tested on.
    test: those to test on.
    is_held_out: whether the folder itself does not say which are tested on.
  """

  train: Classes
  validation: Classes
  test: Classes
  is_held_out: bool


def normalize(name: str) -> str:
  """The one form of all names that look alike."""
  return unicodedata.normalize('NFC', name)


def find_root(folder: pathlib.Path) -> pathlib.Path:
  """The folder of splits or classes, which may be the only one in a folder."""
  for _ in range(_MAX_DEPTH):
    folders, images, _ = image_files.scan(folder)
    if images or len(folders) != 1 or folders[0].lower() in _SPLITS:
      break
    inner, images, _ = image_files.scan(folder / folders[0])
    if images or not inner:
      break
    folder = folder / folders[0]
  return folder


def list_splits(root: pathlib.Path, ignored: _Ignored) -> Splits:
  """Lists the images to train on and to test on; none of them is opened.

  Files that are no images by their names are added to those ignored.

  The classes are the folders in `ROOT/train`, or those in ROOT where it has no
  folder `train`, in the order of their names' code points.

  The images to test on are those in `ROOT/test`, or those in `ROOT/val` where
  it has no folder `test`. With neither, `max(1, n // 5)` images are held out
  of each class of n >= 2: those whose path below the folder of the classes has
  the lowest SHA-256. So the choice is the same everywhere, and a file that is
  added or removed moves at most one other from one side to the other.
  """
  folders = _find_folders(root, ignored)
  if 'train' not in folders:
    name = min(folders.values())
    raise image_files.folder_error(
      root,
      f'has a folder {name!r} and none called {_NAMES["train"][0]!r}, wanted'
      f' {_NAMES["train"][0]!r}, alone or with others of {_OTHERS} (a class of'
      f' such a name lies in {_NAMES["train"][0]!r})',
    )
  train = _list_training(root, folders['train'], ignored)
  others = {}
  for split, name in folders.items():
    if split != 'train':
      others[split] = _list_classes(root, name, ignored)
      _check_known(root / name, others[split], train, repr(folders['train']))
      _check_any_image(root / name, others[split], ignored)
  found = _share_out(train, others, folders['train'])
  if not any(found.test.values()):
    raise image_files.folder_error(
      root, 'has no two images of a class, wanted some to test on'
    )
  return found


def list_evaluated(
  root: pathlib.Path,
  class_names: Sequence[str],
  split: str | None,
  ignored: _Ignored,
) -> tuple[Classes, bool]:
  """Lists the images of a folder that a network is evaluated on.

  Args:
    root: a folder of splits or classes, of which any may be missing.
    class_names: that the network knows.
    split: None for those that `list_splits` tests on, `train`, `validation`,
      `test`, or `all` of the folder.
    ignored: files that are no images are added.

  Returns:
    The images, and whether they are what is held out of a folder.
  """
  wanted = (*_NAMES, ALL)
  if split not in (None, *wanted):
    raise ValueError(
      f'config.data.test_split is {split!r}, wanted one of: {", ".join(wanted)}'
    )
  known = {normalize(name): None for name in class_names}
  folders = _find_folders(root, ignored, known)
  listed = {}
  for name, folder in folders.items():
    listed[name] = _list_classes(root, folder, ignored)
    _check_known(root / folder, listed[name], known, 'the network')
  train = listed.get('train', {})
  found = _share_out(train, listed, folders.get('train', ''))
  if split == ALL:
    chosen: Classes = {name: [] for name in known}
    for name, paths in itertools.chain(*(x.items() for x in listed.values())):
      chosen[name] += paths
  else:
    name = split or 'test'
    chosen = found._asdict()[name] or listed.get(name, {})
  if not any(chosen.values()):
    raise ValueError(
      f'config.data.test_split is {split!r}, but {str(root)!r} has no such'
      f' images{_name(ignored)}, wanted one of: {", ".join(wanted)}'
    )
  return chosen, found.is_held_out and split in (None, 'test')


def _find_folders(
  root: pathlib.Path, ignored: _Ignored, known: Collection[str] | None = None
) -> dict[str, str]:
  """The folders of splits by what they are; ROOT itself for `train` alone.

  The classes known are those of `train` if they are not given.
  """
  folders = _scan_classes(root, '')
  found: dict[str, str] = {}
  for name in folders:
    split = _SPLITS.get(name.lower())
    if split in found:
      raise image_files.folder_error(
        root, f'has {found[split]} and {name}, wanted one of them'
      )
    if split is not None:
      found[split] = name
  if not found:
    return {'train': ''}
  for name in folders:
    is_split = name.lower() in _SPLITS
    if not is_split and image_files.list_images(root, name, ignored):
      first = found.get('train') or min(found.values())
      raise image_files.folder_error(
        root / name,
        f'holds images beside {first!r}, wanted {_OTHERS} or none (a class lies'
        f' in {first!r})',
      )
  if {'train', 'test'} <= found.keys():
    if known is None:
      names = image_files.scan(root / found['train']).folders
      known = {normalize(name) for name in names}
    if _is_unlabelled(root, found['test'], known, ignored):
      del found['test']
  # In the order of use.
  return {split: found[split] for split in _NAMES if split in found}


def _is_unlabelled(
  root: pathlib.Path, name: str, known: Collection[str], ignored: _Ignored
) -> bool:
  """Whether a test has no classes, as those of competitions; counts it."""
  inner, images, _ = image_files.scan(root / name)
  is_one = not images and len(inner) == 1  # As `test/unknown`.
  if is_one and normalize(inner[0]) not in known:
    path = posixpath.join(name, inner.pop())
    images = image_files.list_images(root, path, ignored)
  if inner or not images:
    return False
  ignored[f'without a class in {name}'] = len(images)
  return True


def _share_out(
  train: Classes, others: Mapping[str, Classes], train_folder: str
) -> Splits:
  """The splits, whichever of them a folder has."""
  if 'test' in others:
    return Splits(train, others.get('validation', {}), others['test'], False)
  if 'validation' in others:
    return Splits(train, {}, others['validation'], False)
  return Splits(*_hold_out(train, train_folder), True)


def _check_known(
  folder: pathlib.Path, classes: Classes, known: Mapping[str, Any], whose: str
) -> None:
  unknown = sorted(classes.keys() - known.keys())
  if unknown:
    raise image_files.folder_error(
      folder / unknown[0], f'is no class of {whose}, wanted one that it has'
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
    classes.setdefault(normalize(name), []).extend(paths)
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


def _hold_out(classes: Classes, split: str) -> tuple[Classes, Classes, Classes]:
  """Shares the images of each class out, to train and to test on."""

  def digest(path):
    # From the class on: a folder is split alike in both layouts.
    name = normalize(path.removeprefix(f'{split}/'))
    return hashlib.sha256(name.encode()).digest()

  train, test = {}, {}
  for name, paths in classes.items():
    num_test = max(len(paths) // 5, min(len(paths) - 1, 1))
    chosen = set(sorted(paths, key=digest)[:num_test])
    test[name] = [path for path in paths if path in chosen]
    train[name] = [path for path in paths if path not in chosen]
  return train, {}, test
