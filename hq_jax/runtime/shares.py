"""What each of several processes takes of a batch."""

import numpy as np


def get_local_size(
  batch_size: int, process_index: int, process_count: int
) -> int:
  """Returns one process's share of a global batch, in images."""
  check_range('process_count', process_count, 1, None)
  check_range('process_index', process_index, 0, process_count - 1)
  check_range('batch_size', batch_size, 1, None)
  if batch_size % process_count:
    raise ValueError(
      f'batch_size: got {batch_size}, wanted a multiple of process_count'
      f' {process_count}'
    )
  return batch_size // process_count


def check_range(name: str, value: int, low: int, high: int | None) -> None:
  """Refuses a number outside its range."""
  if not isinstance(value, int | np.integer):
    raise ValueError(f'{name}: got {value!r}, wanted an integer')
  if value < low or (high is not None and value > high):
    wanted = f'{low}..{high}' if high is not None else f'at least {low}'
    raise ValueError(f'{name}: got {value}, wanted {wanted}')
