"""Files that somebody names: opened at once, whatever they are."""

from collections.abc import Callable
import errno
import os
import stat
from typing import BinaryIO

NUM_FIRST_BYTES = 1024  # that tell what the others are

# Not on every system.
_AT_ONCE = getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_NOCTTY', 0)


class UnfitFileError(OSError, ValueError):
  """A file that is not even looked into."""

  def __str__(self) -> str:
    return f'{self.filename}: {self.strerror}'


def open_regular(
  path: str | os.PathLike[str], max_bytes: int | None = None
) -> BinaryIO:
  """Opens a regular file to read it; other files are refused.

  No writer of a pipe is waited for, and no device is read.

  Args:
    path: of the file, or of a link to one; `~` is the user's own folder.
    max_bytes: that it may have.

  Returns:
    The open file.

  Raises:
    UnfitFileError: it is not a regular file, or too large.
    OSError: it cannot be opened, or is a folder.
  """
  descriptor = os.open(os.path.expanduser(path), os.O_RDONLY | _AT_ONCE)
  try:
    found = os.fstat(descriptor)
    if stat.S_ISDIR(found.st_mode):
      raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(found.st_mode):
      what = 'a pipe or a device, wanted a regular file'
      raise UnfitFileError(errno.EINVAL, what, path)
    if max_bytes is not None and found.st_size > max_bytes:
      what = f'{found.st_size:,} bytes, wanted at most {max_bytes:,}'
      raise UnfitFileError(errno.EFBIG, what, path)
  except BaseException:
    os.close(descriptor)
    raise
  return os.fdopen(descriptor, 'rb')


def read(
  path: str | os.PathLike[str],
  max_bytes: int,
  check: Callable[[bytes, int], None] = lambda first, num_bytes: None,
) -> bytes:
  """Reads the bytes of a regular file.

  Args:
    path: of the file.
    max_bytes: that it may have.
    check: is given the first bytes and the number of all before these are read,
      and may raise.

  Returns:
    All bytes.

  Raises:
    FileNotFoundError: there is none; the message is one line.
    ValueError: it is refused or cannot be read; likewise.
  """
  try:
    with open_regular(path, max_bytes) as file:
      size = os.fstat(file.fileno()).st_size
      first = file.read(min(size, NUM_FIRST_BYTES))
      check(first, size)
      # Python allocates as much as it is told to read.
      return first + file.read(size - len(first))
  except FileNotFoundError:
    raise FileNotFoundError(f'{path}: no such file') from None
  except OSError as error:
    raise ValueError(f'{path}: cannot be read, {error.strerror}') from error
