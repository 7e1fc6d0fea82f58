"""Files that are written whole or not at all."""

import os
import secrets


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
  """Puts a file in its place in one step.

  The bytes go to a temporary file in the same folder, are forced to the disk,
  and take the place of `path`: whatever interrupts it, the old file or the new
  one is there. The temporary file is removed on failure; only a process that
  is killed, or a computer that stops, leaves it. Its name is `.hq-*.tmp`:
  nothing reads it, and it may be deleted.
  """
  target = os.path.abspath(path)
  folder = os.path.dirname(target)
  if not os.path.isdir(folder):
    raise FileNotFoundError(f'{path}: its folder does not exist')
  temporary = os.path.join(folder, f'.hq-{secrets.token_hex(8)}.tmp')
  try:
    with open(temporary, 'xb') as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    replace(temporary, target)
  except BaseException:
    if os.path.exists(temporary):
      os.unlink(temporary)
    raise


def replace(path: str, target: str) -> None:
  """Puts a file that is on the disk into the place of another."""
  os.replace(path, target)
  # The new name is on the disk only once its folder is.
  descriptor = os.open(os.path.dirname(target), os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
