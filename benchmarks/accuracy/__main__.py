"""Accuracy at equal file size: this library, its baselines, its own parts.

  python -m benchmarks.accuracy --workdir=runs/accuracy

Every method starts from the same dense network, has as many epochs, and finds
its learning rate with the same search on held-out training images, at each size
and until the best rate lies between two that are worse; then it is trained with
several seeds at each ratio and writes a file, from which accuracy is measured.
The ratio is float32 bytes of one reference network over bytes of the file:
methods that have no smaller codes have a narrower network, whose width is
corrected by the files of the search. With `--bytes` each method has networks of
several widths at each size, those of which the file is one of the `--ratios`,
and is trained in the one that is best on held-out images:

  python -m benchmarks.accuracy --workdir=runs/bytes --sets fashion_mnist \
      --networks mlp --bytes 4000 16000 64000 --ratios 40 20 80

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


def make_keys(
  cells: Sequence[Cell],
  methods: Sequence[str],
  ratios: Sequence[float],
  part_ratios: Sequence[float],
) -> list[tables.Key]:
  """Each method at each ratio, dense first; parts at ratios of their own."""
  keys = [(*cell, 'dense', 0.0) for cell in cells]
  for cell, method in itertools.product(cells, methods):
    found = part_ratios if method in tasks.ABLATIONS else ratios
    keys += [(*cell, method, ratio) for ratio in found]
  return keys


def make_sized_keys(
  cells: Sequence[Cell],
  methods: Sequence[str],
  sizes: Sequence[float],
  ratios: Sequence[float],
) -> list[tables.Key]:
  """By bytes of the file: networks of which these are one of the ratios.

  So each method has wide networks with few bits a weight and narrow ones with
  many, but for those whose bits are given, and dense. What a method cannot
  reach is left out.
  """
  from benchmarks.accuracy import runs

  keys = []
  for cell, num_bytes in itertools.product(cells, sizes):
    reference = tasks.Task(*cell, 'dense', 0.0, 1.0, 0)
    where = tasks.get_budget(reference), runs.open_set(cell[0])
    for ratio in (1.0, *ratios):
      network = tasks.find_network(reference, *where, ratio * num_bytes)
      dense = reference._replace(network=network)
      if ratio == 1.0:
        keys.append(dense[:4])
        continue
      dense = dense._replace(ratio=tasks.count_bytes(dense, *where) / num_bytes)
      for method in methods:
        if method in tasks.FITTED and ratio != ratios[0]:
          continue
        task = dense._replace(method=method)
        if tasks.is_reached(task, *where):
          keys.append(task[:4])
        else:
          name = ', '.join(task[:3])
          print(f'{name}: left out, it does not get {ratio:g}x smaller')
  return keys


def make_searches(keys: Sequence[tables.Key]) -> list[tasks.Task]:
  """The runs that a search of the learning rates begins with."""
  return [
    task
    for key, rate in itertools.product(keys, tasks.FIRST_RATES)
    for task in _try_rate(key, rate)
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
  budget = tasks.BUDGETS[key[0], tasks.get_family(key[1])]
  return [
    tasks.Task(*key, rate, tasks.SEARCH_SEED + number, 'search')
    for number in range(budget.num_searches)
  ]


def find_rate(rates: Mapping[tables.Key, float], key: tables.Key) -> float:
  """The rate that was best at a ratio, or at the nearest one searched.

  Without one of the cell, that of a network of other widths, or any other.
  """
  at = lambda other: (
    other[0] != key[0],
    tasks.get_family(other[1]) != tasks.get_family(key[1]),
    other[1] != key[1],
    abs(math.log((other[3] or 1.0) / (key[3] or 1.0))),
  )
  others = [other for other in rates if other[2] == key[2]]
  return rates[min(others, key=at)] if others else 1.0


def make_finals(
  keys: Sequence[tables.Key],
  seeds: Sequence[int],
  rates: Mapping[tables.Key, float],
  kind: str = 'final',
) -> list[tasks.Task]:
  """What is run once the rates are known, the first seeds of all first."""
  return [
    tasks.Task(*key, find_rate(rates, key), seed, kind)
    for seed, key in itertools.product(seeds, keys)
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
    '--bytes',
    type=float,
    nargs='+',
    help='of the file, in place of ratios to one network: of networks that are'
    ' --ratios times as large the best one, by held-out images, of each method',
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
    if arguments.bytes:
      found = _find_networks(cells, arguments, run_all)
    else:
      found = _make_runs(cells, arguments, run_all)
    _run(found, arguments, run_all)
  report.write(arguments.workdir)


def _make_runs(cells, arguments, run_all) -> list[tasks.Task]:
  """Seeds and traces, after the search."""
  searched = arguments.search_ratios or arguments.ratios
  keys = make_keys(cells, arguments.methods, searched, searched)
  rates = _find_rates(keys, arguments, run_all)
  keys = make_keys(
    cells, arguments.methods, arguments.ratios, arguments.part_ratios
  )
  traced = [
    (*cell, method, arguments.ratios[0])
    for cell, method in itertools.product(cells, _TRACED)
    if method in arguments.methods
  ]
  seeds = arguments.seeds
  return make_finals(keys, seeds, rates) + make_finals(
    traced, seeds[: arguments.traces], rates, 'trace'
  )


def _find_networks(cells, arguments, run_all) -> list[tasks.Task]:
  """Seeds of the network of each method at each size that a search found."""
  keys = make_sized_keys(
    cells, arguments.methods, arguments.bytes, arguments.ratios
  )
  rates = _find_rates(keys, arguments, run_all)
  tried = [
    task for key in keys for task in _try_rate(key, find_rate(rates, key))
  ]
  results = _run(tried, arguments, run_all, 'networks')
  chosen = tables.choose_networks(results)
  return make_finals(
    [key for key in keys if key in chosen], arguments.seeds, rates
  )


def _find_rates(keys, arguments, run_all) -> dict[tables.Key, float]:
  """Searches, or reads what a search has found."""
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
  searched = make_searches(keys)
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
  known = [x for kind in tasks.KINDS for x in tables.read(root, kind)]
  seconds = {
    task: tables.estimate_seconds(task, known) if task in open_ else 0.0
    for task in found
  }
  # Of a seed, long runs first, so that no process is idle in the end.
  found = sorted(found, key=lambda task: (task.seed, -seconds[task]))
  of_files = [task for task in open_ if task.method != 'dense']
  run_all('fit', 'fit', _first(of_files, lambda task: task[:4]), {})
  get_start = lambda x: _get_start(x, root, arguments.epochs_fraction)
  run_all('dense', 'fit_dense', _first(open_, get_start), {})
  return run_all(title, 'run', found, seconds)


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
