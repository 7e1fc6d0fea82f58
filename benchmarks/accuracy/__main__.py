"""Accuracy at equal file size: this library, its baselines, its own parts.

  python -m benchmarks.accuracy --workdir=runs/accuracy

Every method starts from the same dense network, has as many epochs, and finds
its learning rate with the same search on held-out training images, at each size
and until the best rate lies between two that are worse; then it is trained with
several seeds at each ratio and writes a file, from which accuracy is measured.
The ratio is float32 bytes of one reference network over bytes of the file:
methods that have no smaller codes have a narrower network, whose width is
corrected by the files of the search.

Every run is a file in the workdir's `results`; what is there is not run again,
so that an interrupted benchmark goes on with the same command; so it does with
`--start_from=docs/results.json`, which holds all runs of another workdir.
Prints a Markdown table, and as its last line a JSON object; writes
`results.json` and pictures in the workdir.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import itertools
import math
import os
import sys
from typing import Any

from benchmarks.accuracy import pool
from benchmarks.accuracy import report
from benchmarks.accuracy import tables
from benchmarks.accuracy import tasks

_RATIOS = (40.0, 60.0, 30.0)  # The first is traced.
_PART_RATIOS = (40.0, 60.0)  # of what lacks a part
_TRACED = ('hq', 'plain_planned', 'plain_int8')

Cell = tuple[str, str]


def make_searches(
  cells: Sequence[Cell], methods: Sequence[str], ratios: Sequence[float]
) -> list[tasks.Task]:
  """The runs that a search of the learning rates begins with."""
  return [
    task
    for cell, (method, ratio) in itertools.product(
      cells, [('dense', 0.0), *itertools.product(methods, ratios)]
    )
    for rate in tasks.FIRST_RATES
    for task in _try_rate((*cell, method, ratio), rate)
  ]


def go_on(results: Sequence[Mapping[str, Any]]) -> list[tasks.Task]:
  """The next rate of each search whose best one is its first or its last."""
  found = []
  for key, best in tables.choose_rates(results).items():
    tried = {x['rate'] for x in results if tables.get_key(x) == key}
    at = tasks.RATES.index(best)
    for rate in tasks.RATES[max(0, at - 1) : at + 2]:
      found += _try_rate(key, rate) if rate not in tried else []
  return found


def _try_rate(key: tables.Key, rate: float) -> list[tasks.Task]:
  return [
    tasks.Task(*key, rate, tasks.SEARCH_SEED + number, 'search')
    for number in range(tasks.BUDGETS[key[:2]].num_searches)
  ]


def find_rate(rates: Mapping[tables.Key, float], key: tables.Key) -> float:
  """The rate that was best at a ratio, or at the nearest one searched.

  With those of another cell alone, that is the one.
  """
  at = lambda other: (
    other[:2] != key[:2],
    abs(math.log((other[3] or 1.0) / (key[3] or 1.0))),
  )
  others = [other for other in rates if other[2] == key[2]]
  return rates[min(others, key=at)] if others else 1.0


def make_finals(
  cells: Sequence[Cell],
  arguments: argparse.Namespace,
  rates: Mapping[tables.Key, float],
) -> list[tasks.Task]:
  """What is run once the rates are known, the first seeds of all first."""
  keys = [(*cell, 'dense', 0.0) for cell in cells]
  for cell, method in itertools.product(cells, arguments.methods):
    is_part = method in tasks.ABLATIONS
    ratios = arguments.part_ratios if is_part else arguments.ratios
    keys += [(*cell, method, ratio) for ratio in ratios]
  found = [
    tasks.Task(*key, find_rate(rates, key), seed)
    for seed, key in itertools.product(arguments.seeds, keys)
  ]
  traced = [
    (*cell, method, arguments.ratios[0])
    for cell, method in itertools.product(cells, _TRACED)
    if method in arguments.methods
  ]
  return found + [
    tasks.Task(*key, find_rate(rates, key), seed, 'trace')
    for seed, key in itertools.product(
      arguments.seeds[: arguments.traces], traced
    )
  ]


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
  parser.add_argument(
    '--search_ratios',
    type=float,
    nargs='+',
    help='those of a search, where not all are searched',
  )
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
  parser.add_argument('--traces', type=int, default=3)
  parser.add_argument(
    '--start_from',
    metavar='RESULTS_JSON',
    help='the runs that it holds are not run again',
  )
  parser.add_argument('--epochs_fraction', type=float, default=1.0)
  parser.add_argument('--processes', type=int, default=os.cpu_count())
  parser.add_argument(
    '--rates_of',
    nargs=2,
    metavar=('SET', 'NETWORK'),
    help='no search: the learning rates that one has found there',
  )
  arguments = parser.parse_args()
  cells = list(itertools.product(arguments.sets, arguments.networks))
  if unknown := [cell for cell in cells if cell not in tasks.BUDGETS]:
    parser.error(
      f'--sets and --networks are {" with ".join(unknown[0])}, wanted one of:'
      f' {", ".join(map(" with ".join, tasks.BUDGETS))}'
    )
  if arguments.start_from:
    report.unpack(arguments.start_from, arguments.workdir)
  where = arguments.processes, arguments.workdir, arguments.epochs_fraction
  with pool.open_pool(*where) as run_all:
    rates = _search(cells, arguments, run_all)
    _run(make_finals(cells, arguments, rates), arguments, run_all)
  report.write(arguments.workdir)


def _search(cells, arguments, run_all) -> dict[tables.Key, float]:
  if arguments.rates_of:
    found = tables.read(arguments.workdir, 'search')
    wanted = tuple(arguments.rates_of)
    rates = tables.choose_rates(
      [x for x in found if tables.get_key(x)[:2] == wanted]
    )
    missing = {'dense', *arguments.methods} - {key[2] for key in rates}
    if missing:
      sys.exit(
        f'--rates_of is {" ".join(wanted)}, where no search of'
        f' {", ".join(sorted(missing))} is in {arguments.workdir}'
      )
    return rates
  ratios = arguments.search_ratios or arguments.ratios
  searched = make_searches(cells, arguments.methods, ratios)
  results: list[dict[str, Any]] = []
  while searched:
    results += _run(searched, arguments, run_all, 'search')
    searched = go_on(results)
  return tables.choose_rates(results)


def _run(
  found: Sequence[tasks.Task],
  arguments: argparse.Namespace,
  run_all: Callable[..., list[Any]],
  title: str = 'train',
) -> list[dict[str, Any]]:
  """Runs tasks, after what they have in common, once each."""
  root = arguments.workdir
  open_ = [x for x in found if not os.path.exists(x.get_path(root))]
  of_files = [task for task in open_ if task.method != 'dense']
  run_all('fit', 'fit', _first(of_files, lambda task: task[:4]))
  get_start = lambda x: _get_start(x, root, arguments.epochs_fraction)
  run_all('dense', 'fit_dense', _first(open_, get_start))
  return run_all(title, 'run', found)


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
