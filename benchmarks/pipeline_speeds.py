"""Speeds of input pipelines, timed by turns, and their ratios."""

from collections.abc import Callable, Generator
import contextlib
import gc
import time
from typing import Any

import numpy as np
import tqdm

# Starts endless batches of images.
Runner = Callable[[], Generator[np.ndarray]]

SAME_WORK = ('tfdata_in_order', 'tfdata_any_order')
VARIANTS = ('ours', *SAME_WORK, 'tfdata_no_antialias')
# Batches taken before the clock starts: the threads and buffers fill, and
# tf.data finds its number of threads.
_WARMUP_BATCHES = 3


def measure(
  runners: dict[str, Runner], *, num_rounds: int, num_batches: int
) -> dict[str, np.ndarray]:
  """Times every pipeline once a round.

  Args:
    runners: by name.
    num_rounds: at least one.
    num_batches: that are timed in a round, at least one.

  Returns:
    Images per second by name, `[num_rounds, 2]`: by the clock, and by the time
    that the process computed for.
  """
  speeds: dict[str, list[np.ndarray]] = {name: [] for name in runners}
  for i in tqdm.trange(num_rounds, unit='round', disable=None):
    order = list(runners)
    for name in order if i % 2 == 0 else reversed(order):
      # A new one each time: one that waits for its turn would work ahead.
      with contextlib.closing(runners[name]()) as batches:
        for _ in range(_WARMUP_BATCHES):
          next(batches)
        started = np.array([time.perf_counter(), time.process_time()])
        num = sum(len(next(batches)) for _ in range(num_batches))
        stopped = np.array([time.perf_counter(), time.process_time()])
      speeds[name].append(num / (stopped - started))
      wait_until_idle()
  return {name: np.stack(values) for name, values in speeds.items()}


def wait_until_idle() -> None:
  """Waits until no thread of this process computes any more.

  Raises:
    RuntimeError: where they go on for a minute.
  """
  gc.collect()
  for _ in range(600):
    started = time.process_time()
    time.sleep(0.1)
    if time.process_time() - started < 0.005:
      return
  raise RuntimeError('what was stopped goes on working')


def summarize(
  speeds: dict[str, dict[str, np.ndarray]], num_cores: int
) -> dict[str, Any]:
  """Medians per core, and median ratios within the rounds.

  Args:
    speeds: of `measure`, by the name of the set, of which `imagenet` is one.
    num_cores: by which speeds by the clock are divided.

  Returns:
    What the JSON object says of speed: under `sets`, speeds and ratios by set
    and variant; and at the top those of `imagenet` against the faster of
    tf.data's two orders, None where it did not run.
  """
  sets = {
    name: _summarize_set(found, num_cores) for name, found in speeds.items()
  }
  found = sets['imagenet']
  same_work = [name for name in SAME_WORK if name in found['ours_over']]
  per_core = found['images_per_second_per_core']
  most = lambda values: max((values[name] for name in same_work), default=None)
  least = lambda values: min((values[name] for name in same_work), default=None)
  return {
    'ours_images_per_second_per_core': per_core['ours'],
    'tfdata_images_per_second_per_core': most(per_core),
    'ours_over_tfdata': least(found['ours_over']),
    'ours_over_tfdata_by_cpu': least(found['ours_over_by_cpu']),
    'sets': sets,
    'rounds': len(speeds['imagenet']['ours']),
  }


def _summarize_set(
  speeds: dict[str, np.ndarray], num_cores: int
) -> dict[str, dict[str, float]]:
  medians = {name: np.median(found, axis=0) for name, found in speeds.items()}
  over = {
    name: np.median(speeds['ours'] / found, axis=0)
    for name, found in speeds.items()
    if name != 'ours'
  }
  return {
    'images_per_second_per_core': {
      name: float(clock) / num_cores for name, (clock, _) in medians.items()
    },
    'images_per_cpu_second': {
      name: float(cpu) for name, (_, cpu) in medians.items()
    },
    'ours_over': {name: float(clock) for name, (clock, _) in over.items()},
    'ours_over_by_cpu': {name: float(cpu) for name, (_, cpu) in over.items()},
  }


def make_table(result: dict[str, Any]) -> str:
  """A Markdown table of a result.

  Args:
    result: the JSON object.

  Returns:
    The table.
  """
  lines = [
    '| files | pipeline | images per second and core | ours over it |'
    ' images per CPU second | ours over it |',
    '|---|---|---|---|---|---|',
  ]
  for name, found in result['sets'].items():
    show = lambda key, variant, found=found: (
      f'{found[key][variant]:.3f}' if variant in found[key] else ''
    )
    for variant, speed in found['images_per_second_per_core'].items():
      lines.append(
        f'| {name} | {variant} | {speed:.1f} | {show("ours_over", variant)} |'
        f' {found["images_per_cpu_second"][variant]:.1f} |'
        f' {show("ours_over_by_cpu", variant)} |'
      )
  return '\n'.join(lines)
