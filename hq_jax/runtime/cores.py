"""The cores of this machine."""

import os


def count_cores() -> int:
  """Returns how many cores this process may use; not every system can tell."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
