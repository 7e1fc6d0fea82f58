"""Accuracy at equal file size: this library, its baselines, its own parts.

  python -m benchmarks.accuracy --workdir=runs/accuracy

Every method starts from the same dense network, has as many epochs, and finds
its learning rate with the same search on held-out training images; then it is
trained with several seeds at each ratio and writes a file, from which accuracy
is measured. The ratio is float32 bytes of one reference network over bytes of
the file: methods that have no smaller codes have a narrower network.

Every run is a file in the workdir's `results`; what is there is not run again,
so that an interrupted benchmark goes on with the same command. Prints a
Markdown table, and as its last line a JSON object; writes `results.json` and
pictures in the workdir.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import itertools
import os
from typing import Any

from benchmarks.accuracy import pool
from benchmarks.accuracy import report
from benchmarks.accuracy import tables
from benchmarks.accuracy import tasks

_RATIOS = (20.0, 30.0, 40.0, 60.0)
_PART_RATIOS = (40.0, 60.0)  # of what lacks a part
_TRACED = ('hq', 'plain')


def make_searches(
  cells: Sequence[tuple[str, str]], methods: Sequence[str]
) -> list[tasks.Task]:
  """The runs that decide each method's learning rate."""
  return [
    tasks.Task(
      *cell,
      method,
      tasks.SEARCH_RATIO,
      rate,
      tasks.SEARCH_SEED + number,
      'search',
    )
    for cell, method, rate in itertools.product(cells, methods, tasks.RATES)
    for number in range(tasks.BUDGETS[cell].num_searches)
  ]


def spread_rates(
  rates: Mapping[tuple[str, str, str], float], cells: Sequence[tuple[str, str]]
) -> dict[tuple[str, str, str], float]:
  """The rates of one set and network, for others."""
  return {
    (*cell, method): rate
    for cell, ((_, _, method), rate) in itertools.product(cells, rates.items())
  }


def make_finals(
  cells: Sequence[tuple[str, str]],
  arguments: argparse.Namespace,
  rates: Mapping[tuple[str, str, str], float],
) -> list[tasks.Task]:
  """What is run once the rates are known."""
  found = []
  for cell, seed in itertools.product(cells, arguments.seeds):
    found.append(tasks.Task(*cell, 'dense', 0.0, 0.0, seed))
  for cell, method in itertools.product(cells, arguments.methods):
    is_part = method in tasks.ABLATIONS
    ratios = arguments.part_ratios if is_part else arguments.ratios
    rate = rates.get((*cell, method), 1.0)
    for ratio, seed in itertools.product(ratios, arguments.seeds):
      found.append(tasks.Task(*cell, method, ratio, rate, seed))
    if method in _TRACED:
      seeds = arguments.seeds[: arguments.traces]
      found += [
        tasks.Task(*cell, method, tasks.SEARCH_RATIO, rate, seed, 'trace')
        for seed in seeds
      ]
  return found


def main() -> None:
  """Runs, or reads what was run, and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--workdir', default='runs/accuracy')
  parser.add_argument('--sets', nargs='+', default=['digits', 'glyphs/16'])
  parser.add_argument('--networks', nargs='+', default=['mlp', 'resnet'])
  parser.add_argument('--methods', nargs='+', default=list(tasks.METHODS))
  parser.add_argument('--ratios', type=float, nargs='+', default=_RATIOS)
  parser.add_argument(
    '--part_ratios', type=float, nargs='+', default=_PART_RATIOS
  )
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
  parser.add_argument('--traces', type=int, default=3)
  parser.add_argument('--epochs_fraction', type=float, default=1.0)
  parser.add_argument('--processes', type=int, default=os.cpu_count())
  parser.add_argument(
    '--rates_of',
    nargs=2,
    metavar=('SET', 'NETWORK'),
    help='no search: the learning rates that were best there',
  )
  arguments = parser.parse_args()
  cells = list(itertools.product(arguments.sets, arguments.networks))
  if unknown := [cell for cell in cells if cell not in tasks.BUDGETS]:
    parser.error(
      f'--sets and --networks are {" with ".join(unknown[0])}, wanted one of:'
      f' {", ".join(map(" with ".join, tasks.BUDGETS))}'
    )
  searched_cells = [tuple(arguments.rates_of)] if arguments.rates_of else cells
  searched = make_searches(searched_cells, arguments.methods)
  fraction = arguments.epochs_fraction
  where = arguments.processes, arguments.workdir, fraction
  with pool.open_pool(*where) as run_all:
    is_open = lambda task: not os.path.exists(task.get_path(where[1]))
    every = [*searched, *make_finals(cells, arguments, {})]
    every = list(filter(is_open, every))
    of_files = [task for task in every if task.method != 'dense']
    run_all('fit', 'fit', _first(of_files, lambda task: task[:4]))
    starts = _first(every, lambda task: _get_start(task, *where[1:]))
    run_all('dense', 'fit_dense', starts)
    rates = tables.choose_rates(run_all('search', 'run', searched))
    if arguments.rates_of:
      rates = spread_rates(rates, cells)
    run_all('train', 'run', make_finals(cells, arguments, rates))
  report.write(arguments.workdir)


def _first(
  found: Sequence[tasks.Task], key: Callable[[tasks.Task], Any]
) -> list[tasks.Task]:
  """The first task of each key."""
  first: dict[Any, tasks.Task] = {}
  for task in found:
    first.setdefault(key(task), task)
  return list(first.values())


def _get_start(task: tasks.Task, root: str, fraction: float) -> str:
  from benchmarks.accuracy import runs

  budget = tasks.get_budget(task, fraction)
  fitted = {} if task.method == 'dense' else runs.fit(task, budget, root)
  return runs.get_start(task, fitted, budget, root)


if __name__ == '__main__':
  main()
