"""The image files below a folder: which files are images, and in what order."""

from collections.abc import MutableMapping
import itertools
import os
import pathlib

EXTENSIONS = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.webp')
# Copies and thumbnails that macOS and network disks leave beside the images.
_IGNORED = {'__MACOSX', '@eaDir'}


def list_images(
  root: pathlib.Path, folder: str, ignored: MutableMapping[str, int]
) -> list[str]:
  """Lists all images below a folder, however deep.

  Links are followed, each folder counting once. Other files are added to those
  ignored, by their endings in small letters.
  """
  visited = {parent.resolve() for parent in (root / folder).parents}
  paths, pending = [], [(folder, (root / folder).parent.resolve())]
  while pending:
    folder, holder = pending.pop()
    real = (root / folder).resolve()
    # A link to a folder around it would add all other classes to this one.
    if real in visited or holder.is_relative_to(real):
      continue
    visited.add(real)
    folders, images, others = scan(root / folder)
    for name in others:
      ending = os.path.splitext(name)[1].lower()
      ignored[ending] = ignored.get(ending, 0) + 1
    paths += [f'{folder}/{name}' for name in images]
    pending += [(f'{folder}/{name}', real) for name in reversed(folders)]
  return sorted(paths)


def scan(folder: pathlib.Path) -> tuple[list[str], list[str], list[str]]:
  """Lists the folders, images and other files that are right in a folder.

  Names that begin with a dot are skipped.
  """
  folders, images, others = [], [], []
  with os.scandir(folder) as entries:
    for entry in entries:
      if entry.name.startswith('.') or entry.name in _IGNORED:
        continue
      if _is_folder(entry):
        folders.append(entry.name)
      elif _is_image(entry):
        images.append(entry.name)
      else:
        others.append(entry.name)
  for name in itertools.chain(folders, images):
    try:
      name.encode()
    except UnicodeEncodeError:
      raise folder_error(
        folder / name, 'is not UTF-8, wanted a name that is'
      ) from None
  return sorted(folders), sorted(images), others


def folder_error(path: str | os.PathLike[str], what: str) -> ValueError:
  """Says in one line what is wrong with a folder of images."""
  return ValueError(f'config.data.data_dir: {os.fspath(path)!r} {what}')


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
