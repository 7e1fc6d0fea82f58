"""Batches of images from requests that come at the same time."""

import asyncio
import collections
from collections.abc import Callable
from concurrent import futures

import numpy as np


class Batcher:
  """Runs a function of `[n, ...]` on rows that many tasks hand in.

  A batch begins once it is full, or its first row has waited long enough; one
  runs at a time, in a thread of its own, and others gather meanwhile. Made in
  the event loop in which it is used; `run` is a task of its own.
  """

  def __init__(
    self,
    function: Callable[[np.ndarray], np.ndarray],
    *,
    max_batch_size: int,
    max_wait_seconds: float,
    observe: Callable[[int], None],
  ):
    self._function = function
    self._max_batch_size = max_batch_size
    self._max_wait_seconds = max_wait_seconds
    self._observe = observe
    self._waiting: collections.deque[tuple[np.ndarray, asyncio.Future]] = (
      collections.deque()
    )
    self._has_one, self._is_full = asyncio.Event(), asyncio.Event()

  def __len__(self) -> int:
    return len(self._waiting)

  async def submit(self, rows: np.ndarray | list[np.ndarray]) -> np.ndarray:
    """Returns the function's values, a row for each."""
    loop = asyncio.get_running_loop()
    answers = [loop.create_future() for _ in rows]
    self._waiting.extend(zip(rows, answers, strict=True))
    self._update()
    # Where this is cancelled, so are the futures: `_take` leaves them out.
    return np.stack(await asyncio.gather(*answers))

  async def run(self) -> None:
    """Runs batches until it is cancelled."""
    loop = asyncio.get_running_loop()
    with futures.ThreadPoolExecutor(1, 'inference') as thread:
      while True:
        rows, answers = await self._take()
        if not rows:
          continue
        self._observe(len(rows))
        call = lambda rows=rows: self._function(np.stack(rows))
        try:
          values = await loop.run_in_executor(thread, call)
        except Exception as error:
          for answer in answers:
            if not answer.done():
              answer.set_exception(error)
          continue
        for answer, value in zip(answers, values, strict=True):
          if not answer.done():
            answer.set_result(value)

  async def _take(self) -> tuple[list[np.ndarray], list[asyncio.Future]]:
    await self._has_one.wait()
    try:
      async with asyncio.timeout(self._max_wait_seconds):
        await self._is_full.wait()
    except TimeoutError:
      pass
    rows: list[np.ndarray] = []
    answers: list[asyncio.Future] = []
    while self._waiting and len(rows) < self._max_batch_size:
      row, answer = self._waiting.popleft()
      if not answer.done():
        rows.append(row)
        answers.append(answer)
    self._update()
    return rows, answers

  def _update(self) -> None:
    for event, least in (
      (self._has_one, 1),
      (self._is_full, self._max_batch_size),
    ):
      (event.set if len(self._waiting) >= least else event.clear)()
