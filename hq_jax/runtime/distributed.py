"""Processes of one run: initialization, communication, shares of a batch."""

from collections.abc import Callable, Iterator
import contextlib
import json
import re
import sys
import threading
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils
import numpy as np

_T = TypeVar('_T')

AUTO = 'auto'
_SLOW_SECONDS = 20.0
# All abort after so long without a sign of life of one, as docs/pods.md says.
_SILENT_SECONDS = 100


def initialize(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
  """Makes this process one of several, before anything is computed."""
  check(coordinator, num_processes, process_id)
  if coordinator == AUTO:
    try:
      with _announce_wait('this process waits for the others'):
        jax.distributed.initialize(heartbeat_timeout_seconds=_SILENT_SECONDS)
    except ValueError as error:
      raise ValueError(
        "coordinator is 'auto', but JAX finds no cluster here, wanted"
        ' HOST:PORT, --num_processes and --process_id'
      ) from error
  elif coordinator is not None:
    with _announce_wait(
      f'process {process_id} waits for all {num_processes} processes at'
      f' {coordinator}'
    ):
      jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        heartbeat_timeout_seconds=_SILENT_SECONDS,
      )


@contextlib.contextmanager
def _announce_wait(what: str) -> Iterator[None]:
  """A message after some seconds: JAX waits for minutes, and then aborts."""
  say = lambda: print(
    f'hq_jax: {what}; after five minutes JAX gives up',
    file=sys.stderr,
    flush=True,
  )
  timer = threading.Timer(_SLOW_SECONDS, say)
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def check(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
  """Refuses what `initialize` cannot use."""
  numbers = {'num_processes': num_processes, 'process_id': process_id}
  if coordinator is None or coordinator == AUTO:
    for name, value in numbers.items():
      if value is not None:
        raise ValueError(
          f'{name} is {value}, but coordinator is {coordinator!r}, wanted'
          ' HOST:PORT'
        )
    return
  found = re.fullmatch(r'\S+:(\d{1,5})', coordinator)
  if not found or not 0 < int(found[1]) < 2**16:
    raise ValueError(
      f"coordinator is {coordinator!r}, wanted HOST:PORT or 'auto'"
    )
  for name, value in numbers.items():
    if value is None:
      raise ValueError(
        f'{name} is missing, wanted with coordinator {coordinator!r}'
      )
  assert num_processes is not None and process_id is not None  # seen above
  check_range('num_processes', num_processes, 1, None)
  check_range('process_id', process_id, 0, num_processes - 1)


def is_single_process() -> bool:
  """Whether this is the only process of the run."""
  return jax.process_count() == 1


def is_primary() -> bool:
  """Whether this is process 0, which writes and prints for all."""
  return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
  """The value of each process, in all of them; JSON must hold it."""
  if is_single_process():
    return [value]
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(text.size))
  padded = np.zeros(sizes.max(), np.uint8)
  padded[: text.size] = text
  rows = multihost_utils.process_allgather(padded)
  return [
    json.loads(row[:size].tobytes())
    for row, size in zip(rows, sizes, strict=True)
  ]


def broadcast_bytes(data: bytes | None) -> bytes:
  """The bytes of process 0, in all processes."""
  if is_single_process():
    return data or b''
  mine = np.frombuffer((data or b'') if is_primary() else b'', np.uint8)
  size = multihost_utils.broadcast_one_to_all(np.int32(mine.size))
  padded = np.zeros(int(size), np.uint8)
  padded[: mine.size] = mine
  return np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes()


def raise_on_all(run: Callable[[], _T]) -> _T:
  """Runs a function in all processes; an error in one is raised in all.

  Otherwise the others would wait for a process that has given up.
  """
  caught: Exception | None = None
  result: Any = None
  try:
    result = run()
  except (ValueError, OSError) as error:
    caught = error
  refusals = gather(None if caught is None else f'{caught}')
  if caught is not None:
    raise caught
  for process, refusal in enumerate(refusals):
    if refusal is not None:
      raise ValueError(f'process {process}: {refusal}')
  return result


def first_then_others(run: Callable[[], _T]) -> _T:
  """Runs a function in process 0, and then in the others.

  For work whose result the others find, such as a data set that is generated
  when it is first opened.
  """
  if is_single_process():
    return run()
  result = raise_on_all(lambda: run() if is_primary() else None)
  other = raise_on_all(lambda: None if is_primary() else run())
  found: Any = result if is_primary() else other
  return found


def get_local_size(
  batch_size: int, process_index: int, process_count: int
) -> int:
  """The number of images of a global batch in one process."""
  check_range('process_count', process_count, 1, None)
  check_range('process_index', process_index, 0, process_count - 1)
  check_range('batch_size', batch_size, 1, None)
  if batch_size % process_count:
    raise ValueError(
      f'batch_size is {batch_size}, wanted a multiple of process_count'
      f' {process_count}'
    )
  return batch_size // process_count


def check_range(name: str, value: int, low: int, high: int | None) -> None:
  """Refuses a number outside its range."""
  if not isinstance(value, int | np.integer):
    raise ValueError(f'{name} is {value!r}, wanted an integer')
  if value < low or (high is not None and value > high):
    wanted = f'{low}..{high}' if high is not None else f'at least {low}'
    raise ValueError(f'{name} is {value}, wanted {wanted}')
