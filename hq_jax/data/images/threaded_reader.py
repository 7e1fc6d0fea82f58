"""Reading of image files by many threads, and a count of unreadable ones."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
import threading
from typing import Any

from absl import logging
import numpy as np

from hq_jax.data import sources
from hq_jax.data.images import decode
from hq_jax.runtime import cores

# From a file's bytes and the position of the example in training to an image.
MakeImage = Callable[[bytes, int], np.ndarray]
_Found = tuple[np.ndarray, int] | None


class Unreadable:
  """What could not be read in a run, up to a limit; safe in threads.

  >>> unreadable = Unreadable(1)
  >>> unreadable.add('a.jpg', ValueError('it is empty'))
  >>> unreadable.names
  ('a.jpg',)
  >>> unreadable.add('b.jpg', ValueError('it is cut'))
  Traceback (most recent call last):
  ValueError: 2 image(s) cannot be read, wanted at most 1 \
(config.data.max_unreadable): a.jpg, b.jpg (it is cut)
  """

  def __init__(self, limit: int):
    """Begins with none."""
    self._limit = limit
    # By name, in the order in which they were met.
    self._reasons: dict[str, str] = {}
    self._warns = True
    self._lock = threading.Lock()

  def __getstate__(self) -> dict[str, Any]:
    """A copy in another process counts on, and leaves warning to this one."""
    with self._lock:
      reasons = self._reasons.copy()
    return {'_limit': self._limit, '_reasons': reasons, '_warns': False}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state, _lock=threading.Lock())

  @property
  def names(self) -> tuple[str, ...]:
    """Those that were met, each once."""
    with self._lock:
      return tuple(self._reasons)

  def add(self, name: str, error: Exception) -> None:
    """Counts an image, and warns of it when it is met for the first time."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    self._add(name, reason)

  def update(self, other: 'Unreadable') -> None:
    """Counts what a copy in another process has met."""
    for name, reason in other._reasons.items():
      self._add(name, reason)

  def _add(self, name: str, reason: str) -> None:
    with self._lock:
      is_new = name not in self._reasons
      self._reasons[name] = reason
      names = list(self._reasons)
    if len(names) > self._limit:
      shown = ', '.join([*names[:2], *names[2:][-1:]])
      raise ValueError(
        f'{len(names)} image(s) cannot be read, wanted at most {self._limit}'
        f' (config.data.max_unreadable): {shown} ({reason})'
      )
    if is_new and self._warns:
      logging.warning(
        'skipped, %d of at most %d: %s: %s',
        len(names),
        self._limit,
        name,
        reason,
      )


class FileReader:
  """Reads examples whose images are files, a batch at a time."""

  def __init__(
    self,
    source: sources.Source,
    make_image: MakeImage,
    unreadable: Unreadable,
    num_threads: int | None = None,
  ):
    """Starts the threads."""
    self._source = source
    self._make_image = make_image
    self._unreadable = unreadable
    self._num_threads = num_threads
    self._pool = futures.ThreadPoolExecutor(
      num_threads or cores.count_cores(), 'read_images'
    )

  def __reduce__(self) -> tuple[Any, ...]:
    """A copy in another process has threads of its own."""
    arguments = self._source, self._make_image, self._unreadable
    return FileReader, (*arguments, self._num_threads)

  def read(
    self, indices: Sequence[int] | np.ndarray, first_position: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Reads training examples; the next one stands in for an unreadable one."""
    positions = range(first_position, first_position + len(indices))
    found = list(self._pool.map(self._load_next, indices, positions))
    return (
      np.stack([image for image, _ in found]),
      np.array([label for _, label in found], np.int32),
    )

  def read_all(self, batches: Iterable[np.ndarray]) -> Iterator[list[_Found]]:
    """Reads batches of examples, one batch ahead of what is asked for."""
    ahead: list[futures.Future[_Found]] | None = None
    for indices in batches:
      started = [self._pool.submit(self._load, int(i), 0) for i in indices]
      if ahead is not None:
        yield [future.result() for future in ahead]
      ahead = started
    if ahead is not None:
      yield [future.result() for future in ahead]

  def _load(self, index: int, position: int) -> _Found:
    name = f'image {index}'
    try:
      example = self._source[index]
      name = example['name']
      return self._make_image(example['image'], position), example['label']
    except (decode.UnreadableImage, OSError) as error:
      self._unreadable.add(getattr(error, 'filename', None) or name, error)
      return None

  def _load_next(self, index: int, position: int) -> tuple[np.ndarray, int]:
    for offset in range(len(self._source)):
      found = self._load((int(index) + offset) % len(self._source), position)
      if found is not None:
        return found
    raise ValueError('not one of the training images can be read')
