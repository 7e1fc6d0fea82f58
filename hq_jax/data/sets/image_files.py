"""The image files below a folder: which files are images, and in what order."""

from collections.abc import Mapping, MutableMapping
import itertools
import os
import pathlib
from typing import NamedTuple

from hq_jax.data.images import formats

# Files so called count as images without a look into them, so that what is
# wrong with one is seen when it is read.
EXTENSIONS = (
  *('.avif', '.bmp', '.gif', '.jfif', '.jpeg', '.jpg', '.pgm', '.png', '.ppm'),
  *('.tif', '.tiff', '.webp'),
)
_HEIC = ('.heic', '.heif', '.hif')
# Raw photographs are TIFFs to Pillow, which would read thumbnails.
_RAW = {
  *('.3fr', '.arw', '.cr2', '.crw', '.dcr', '.dng', '.erf', '.iiq', '.k25'),
  *('.kdc', '.mef', '.mos', '.mrw', '.nef', '.nrw', '.orf', '.pef', '.raw'),
  *('.rw2', '.rwl', '.sr2', '.srf', '.srw'),
}
# What systems and network disks leave beside the images.
_IGNORED = {
  *('__MACOSX', '@eaDir', 'lost+found', '$RECYCLE.BIN', 'RECYCLER'),
  'System Volume Information',
}
_NUM_KINDS = 5  # of files, that are named


class Listing(NamedTuple):
  """What is right in a folder: names, and for other files their kinds."""

  folders: list[str]
  images: list[str]
  others: dict[str, str]


def list_images(
  root: pathlib.Path, folder: str, ignored: MutableMapping[str, int]
) -> list[str]:
  """Lists all images below a folder, however deep.

  Links are followed, each folder counting once. Other files are added to those
  ignored, by their endings in small letters, or as 'HEIC' where they are that,
  and it cannot be read here.
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
    for kind in others.values():
      ignored[kind] = ignored.get(kind, 0) + 1
    paths += [f'{folder}/{name}' for name in images]
    pending += [(f'{folder}/{name}', real) for name in reversed(folders)]
  return sorted(paths)


def scan(folder: pathlib.Path) -> Listing:
  """Lists the folders, images and other files that are right in a folder.

  Names that begin with a dot are skipped.
  """
  folders, images, others = [], [], {}
  with os.scandir(folder) as entries:
    for entry in entries:
      if entry.name.startswith('.') or entry.name in _IGNORED:
        continue
      if _is_folder(entry):
        folders.append(entry.name)
      elif (kind := _find_kind(entry)) is None:
        images.append(entry.name)
      else:
        others[entry.name] = kind
  for name in itertools.chain(folders, images):
    try:
      name.encode()
    except UnicodeEncodeError:
      raise folder_error(
        folder / name, 'is not UTF-8, wanted a name that is'
      ) from None
  return Listing(sorted(folders), sorted(images), others)


def describe_ignored(ignored: Mapping[str, int]) -> str:
  """Names files that were left out, the most frequent kinds first.

  >>> describe_ignored({'.heic': 48, '': 1, '.txt': 1})
  '48 .heic, 1 no ending, 1 .txt; HEIC needs pillow-heif: pip install \
pillow-heif'
  """
  kinds = sorted(ignored, key=lambda kind: (-ignored[kind], kind))
  counts = [
    f'{ignored[kind]:,} {kind[:24] or "no ending"}'
    for kind in kinds[:_NUM_KINDS]
  ]
  if len(kinds) > _NUM_KINDS:
    rest = sum(ignored[kind] for kind in kinds[_NUM_KINDS:])
    counts.append(f'{rest:,} others')
  needs = sorted({need for kind in kinds if (need := find_need(kind))})
  return '; '.join([', '.join(counts), *map(formats.describe_need, needs)])


def find_need(kind: str) -> str:
  """The one of `formats.PACKAGES` that a kind of other files needs, or ''."""
  if kind in _HEIC:
    return 'HEIC'
  return kind if kind in formats.PACKAGES else ''


def folder_error(path: str | os.PathLike[str], what: str) -> ValueError:
  """Says in one line what is wrong with a folder of images."""
  return ValueError(f'config.data.data_dir: {os.fspath(path)!r} {what}')


def _is_folder(entry: os.DirEntry[str]) -> bool:
  try:
    return entry.is_dir()
  except OSError:  # A link that leads back to itself.
    return False


def _find_kind(entry: os.DirEntry[str]) -> str | None:
  """None for an image; otherwise what a file is to be counted as."""
  ending = os.path.splitext(entry.name)[1].lower()
  if ending in EXTENSIONS or (ending in _HEIC and formats.has_heif()):
    if not entry.is_symlink():
      return None if entry.is_file() else ending
    # One that leads nowhere counts: on reading it the loss is seen.
    is_image = os.path.isfile(entry) or not os.path.exists(entry)
    return None if is_image else ending
  if ending in _RAW or not os.path.isfile(entry):
    return ending
  kind = formats.recognize(entry.path)
  if kind == formats.IMAGE:
    return None
  return ending if ending in _HEIC else kind or ending
