"""Folders of image files as they are, one folder per class, as sources."""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import itertools
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from hq_jax.data.images import memory
from hq_jax.data.sets import folder_layouts
from hq_jax.data.sets import image_files


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
      image = memory.read_file(path)
    except OSError as error:
      # The system names the file where opening it fails, not where reading it.
      raise OSError(error.errno, error.strerror, str(path)) from error
    return {'image': image, 'label': int(self.labels[index]), 'name': name}

  def fingerprint(self) -> str:
    """Returns a digest of the paths and labels, in their order.

    It shows whether a run is continued on the images that it began with: the
    same while no file was added, removed or renamed, wherever the folder lies.
    It says nothing of what is in the files, none of which is looked at.
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
    validation: those that epochs are evaluated on; None to use those of test.
    test: the images that accuracy is measured on.
    is_held_out: whether these are so by our choice, not by the folder's.
    ignored: how many files in the folders of the classes are no images that can
      be read: by ending, as '.txt', or '' for none; or by what they are, HEIC.
  """

  class_names: tuple[str, ...]
  train: FolderSource
  validation: FolderSource | None
  test: FolderSource
  is_held_out: bool
  ignored: Mapping[str, int]


def open_folder(path: str | os.PathLike[str]) -> Folder:
  """Lists a folder of images; none of them is decoded.

  The images of a class are the files below its folder, however deep, that end
  in one of `image_files.EXTENSIONS`, in capitals or not, or that begin as files
  of images do, whatever they are called. Names that begin with a dot are
  skipped; links are followed, each folder counting once per class.
  Which folders are classes, and which images are tested on, is said at
  `folder_layouts.list_splits`; they may lie one folder deeper, or a few, where
  each is the only one in the one around it.
  """
  root = _find_root(path)
  ignored: dict[str, int] = {}
  found = folder_layouts.list_splits(root, ignored)
  class_names = tuple(found.train)
  make = lambda classes: _make_source(root, class_names, classes)
  return Folder(
    class_names,
    train=make(found.train),
    validation=make(found.validation) if any(found.validation) else None,
    test=make(found.test),
    is_held_out=found.is_held_out,
    ignored=ignored,
  )


def open_evaluated(
  path: str | os.PathLike[str], class_names: Sequence[str], split: str | None
) -> Folder:
  """Lists what a network that knows some classes is evaluated on.

  As `open_folder`, but that the folder need not have all of the classes, nor
  anything to train on; see `folder_layouts.list_evaluated`.
  """
  root = _find_root(path)
  ignored: dict[str, int] = {}
  classes, is_held_out = folder_layouts.list_evaluated(
    root, class_names, split, ignored
  )
  return Folder(
    tuple(class_names),
    train=_make_source(root, class_names, {}),
    validation=None,
    test=_make_source(root, class_names, classes),
    is_held_out=is_held_out,
    ignored=ignored,
  )


def _find_root(path: str | os.PathLike[str]) -> pathlib.Path:
  root = pathlib.Path(os.path.expanduser(path)).absolute()
  if not os.fspath(path) or not root.is_dir():
    raise image_files.folder_error(path, 'is no folder, wanted one of images')
  return folder_layouts.find_root(root)


def _make_source(
  root: pathlib.Path,
  class_names: Sequence[str],
  classes: folder_layouts.Classes,
) -> FolderSource:
  # A class may have no images to test on.
  by_label = [
    classes.get(folder_layouts.normalize(name), []) for name in class_names
  ]
  return FolderSource(
    root,
    paths=tuple(itertools.chain.from_iterable(by_label)),
    labels=np.repeat(
      np.arange(len(by_label), dtype=np.int32), [len(x) for x in by_label]
    ),
  )
