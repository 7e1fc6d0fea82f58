"""Folders of files that are named like images, and what is found in them."""

import pytest

from hq_jax.data.sets import folders


def touch(root, *names):
  """Writes files that hold their own names."""
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name, encoding='utf-8')
  return root


def numbered(root, folder, num):
  return touch(root, *(f'{folder}/{i:03d}.jpg' for i in range(num)))


def both(root, *classes):
  """A class folder of two images for each name."""
  for name in classes:
    numbered(root, name, 2)
  return root


def paths_of(folder):
  return sorted([*folder.train.paths, *folder.test.paths])


def link(path, target):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.symlink_to(target)


def error_of(root):
  """The one line with which a folder is refused."""
  with pytest.raises(ValueError, match=r'^config\.data\.data_dir: ') as info:
    folders.open_folder(root)
  message = str(info.value)
  assert '\n' not in message
  return message
