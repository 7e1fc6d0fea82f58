"""Runs side by side: a process, and its share of the cores, for each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import sys
import traceback
from typing import Any, NamedTuple

import tqdm

from benchmarks.accuracy import tasks

_BAR = '{desc}: {percentage:3.0f}%{postfix}, {elapsed} so far, {remaining} left'


class _Failure(NamedTuple):
  text: str


@contextlib.contextmanager
def open_pool(
  num_processes: int, root: str, fraction: float = 1.0
) -> Iterator[Callable[..., list[Any]]]:
  """Opens processes, and shares the cores among them.

  Yields a function from a title, the name of a function in `runs`, tasks, and
  how many seconds each of them may take (where that is not known, 1) to what it
  returns for them, in any order; it shows how long is left. It ends the program
  where one failed, after all others are done.
  """
  context = multiprocessing.get_context('spawn')
  cores = context.Queue()
  for share in share_cores(sorted(os.sched_getaffinity(0)), num_processes):
    cores.put(share)
  with concurrent.futures.ProcessPoolExecutor(
    num_processes, context, initializer=_start, initargs=(cores,)
  ) as pool:

    def run_all(
      title: str,
      what: str,
      found: Sequence[tasks.Task],
      seconds: Mapping[tasks.Task, float],
    ) -> list[Any]:
      futures = {
        pool.submit(
          _run, what, task, tasks.get_budget(task, fraction), root
        ): seconds.get(task, 1.0)
        for task in found
      }
      results, failed = [], []
      with tqdm.tqdm(
        desc=title, total=sum(futures.values()), bar_format=_BAR
      ) as bar:
        for number, future in enumerate(
          concurrent.futures.as_completed(futures), 1
        ):
          result = future.result()
          is_failure = isinstance(result, _Failure)
          (failed if is_failure else results).append(result)
          bar.set_postfix_str(f'{number} of {len(found)}', refresh=False)
          bar.update(futures[future])
      for failure in failed:
        print(failure.text, file=sys.stderr)
      if failed:
        sys.exit(f'{len(failed)} of {len(found)} runs failed')
      return results

    yield run_all


def share_cores(cores: Sequence[int], num_processes: int) -> list[set[int]]:
  """The cores of each process: as many as there are for it, at least one."""
  size = max(1, len(cores) // num_processes)
  endless = itertools.cycle(cores)
  return [set(itertools.islice(endless, size)) for _ in range(num_processes)]


def _start(cores: multiprocessing.Queue) -> None:
  # Before JAX looks at how many there are: a small network is not faster on
  # several cores, but several of them are.
  os.sched_setaffinity(0, cores.get())


def _run(what: str, task: tasks.Task, budget: tasks.Budget, root: str) -> Any:
  """Calls a function of `runs`; what went wrong comes back as a `_Failure`."""
  from benchmarks.accuracy import runs

  try:
    with (
      open(os.devnull, 'w', encoding='utf-8') as nowhere,
      contextlib.redirect_stdout(nowhere),
    ):
      found = getattr(runs, what)(task, budget, root)
      return found if what == 'run' else None
  except Exception:  # The others go on.
    return _Failure(f'{task.name}\n{traceback.format_exc()}')
