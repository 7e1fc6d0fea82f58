"""Rows of many tasks become batches, and each task gets its own back."""

import asyncio

import numpy as np
import pytest

from hq_jax.inference.server import batcher as batchers


def _run(main, function, **settings):
  sizes = []

  async def run():
    batcher = batchers.Batcher(function, observe=sizes.append, **settings)
    task = asyncio.create_task(batcher.run())
    try:
      return await main(batcher)
    finally:
      task.cancel()

  return asyncio.run(run()), sizes


def _rows(start, number):
  return np.arange(start, start + number)[:, None]


def test_rows_of_many_tasks_share_batches():
  async def main(batcher):
    tasks = [batcher.submit(_rows(10 * i, 1 + i % 3)) for i in range(9)]
    return await asyncio.gather(*tasks)

  found, sizes = _run(
    main, lambda x: 2 * x, max_batch_size=8, max_wait_seconds=0.2
  )
  for i, rows in enumerate(found):
    np.testing.assert_array_equal(rows, 2 * _rows(10 * i, 1 + i % 3))
  assert sizes == [8, 8, 2]


def test_what_is_cancelled_is_not_computed():
  async def main(batcher):
    with pytest.raises(TimeoutError):
      async with asyncio.timeout(0.01):
        await batcher.submit(_rows(0, 3))
    found = await batcher.submit(_rows(5, 1))
    return found, len(batcher)

  (found, waiting), sizes = _run(
    main, lambda x: x, max_batch_size=8, max_wait_seconds=0.1
  )
  assert (found.tolist(), waiting, sizes) == ([[5]], 0, [1])


def test_a_failure_is_told_to_those_of_its_batch():
  def fail_at_zero(rows):
    if not rows.all():
      raise ZeroDivisionError
    return rows

  async def main(batcher):
    with pytest.raises(ZeroDivisionError):
      await batcher.submit(_rows(0, 2))
    return await batcher.submit(_rows(1, 2))

  found, _ = _run(main, fail_at_zero, max_batch_size=2, max_wait_seconds=0.1)
  assert found.tolist() == [[1], [2]]
