"""What plans and `compress` take, in seconds and memory, by number of weights.

  python -m benchmarks.planner_scale

Networks of 10 million to a billion weights are to become 30 times smaller:

- `planner`: a plan where only shapes are known, of a transformer and of a
  residual network;
- `planner_of_weights`: the same with weights, of the transformer, and so are
- `compress`: to a file of that size, and
- `no_plan`: `compress` at a given sparsity, and `dumps`, for what has no plan.

Each is measured in a process of its own, which has done it with a small network
before. Seconds are medians of rounds; `compress` has one, in which XLA
compiles, too. CPU seconds are those of all threads, and hardly depend on what
else runs. The peak is the most by which the first round raises the resident
memory of the process (Linux), in bytes for each weight; weights that were there
before are not in it.

Takes two to six minutes. Prints a Markdown table, and as its last line a JSON
object with `planner_100m_seconds` and so on, the larger of both networks.
"""

import argparse
from collections.abc import Callable, Sequence
import itertools
import json
import math
import multiprocessing
import statistics
import time
from typing import Any
import warnings

import jax
import numpy as np
import tabulate

from benchmarks import memory
import hq_jax
from hq_jax import artifact
from hq_jax import planner
from hq_jax.runtime import provenance

Tree = dict[str, Any]

_RATIO = 30.0
_SPARSITY = 0.85
_SMALL = 300_000  # weights of the network that comes before
_DEPTH = 12  # blocks of the transformer
_BLOCKS = (3, 4, 6, 3)  # of the residual network


def make_transformer(num_weights: int) -> Tree:
  """The shapes of twelve blocks with about so many weights."""
  width = 16 * max(1, round(math.sqrt(num_weights / (12 * _DEPTH)) / 16))
  layers = dict.fromkeys(('query', 'key', 'value', 'out'), (width, width))
  layers |= {'up': (width, 4 * width), 'down': (4 * width, width)}
  block = {
    name: {'kernel': _shape(*shape), 'bias': _shape(shape[-1])}
    for name, shape in layers.items()
  }
  norm = {'scale': _shape(width), 'bias': _shape(width)}
  block |= {'norm1': norm, 'norm2': norm}
  return {'params': {f'block{i}': block for i in range(_DEPTH)}}


def make_resnet(num_weights: int) -> Tree:
  """The shapes of 32 convolutions as in ResNet-34, with about so many weights.

  Each stage is twice as wide as the one before, and the first convolution of a
  stage has half the inputs.
  """
  factors = [2**stage for stage in range(len(_BLOCKS))]
  of_one = 9 * sum(
    factor**2 * (2 * num_blocks - (factor > 1) / 2)
    for factor, num_blocks in zip(factors, _BLOCKS, strict=True)
  )
  first = max(1, round(math.sqrt(num_weights / of_one)))
  params, stats, inputs = {}, {}, first
  for stage, num_blocks in enumerate(_BLOCKS):
    width = first * factors[stage]
    for i in range(2 * num_blocks):
      params[f'stage{stage}_{i}'] = {
        'conv': {'kernel': _shape(3, 3, inputs, width)},
        'norm': {'scale': _shape(width), 'bias': _shape(width)},
      }
      norm = {'mean': _shape(width), 'var': _shape(width)}
      stats[f'stage{stage}_{i}'] = {'norm': norm}
      inputs = width
  return {'params': params, 'batch_stats': stats}


def _shape(*sizes: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(sizes, np.float32)


def count(tree: Tree) -> int:
  """The weights and statistics of a network."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


_NETWORKS = {'transformer': make_transformer, 'resnet': make_resnet}
_TASKS: dict[str, Callable[[Tree], Any]] = {
  'planner': lambda tree: planner.plan(tree, _RATIO),
  'planner_of_weights': lambda tree: planner.plan(tree, _RATIO),
  'compress': lambda tree: hq_jax.compress(tree, target_ratio=_RATIO),
  'no_plan': lambda tree: artifact.dumps(
    hq_jax.compress(tree, sparsity=_SPARSITY)
  ),
}


def measure(
  task: str, network: str, size: int, num_rounds: int
) -> dict[str, Any]:
  """Seconds and memory of a task, in this process."""
  run, make = _TASKS[task], _NETWORKS[network]
  small, tree = make(_SMALL), make(size)
  if task != 'planner':
    rng = np.random.default_rng(0)
    draw = lambda leaf: rng.standard_normal(leaf.shape, np.float32)
    small, tree = jax.tree.map(draw, small), jax.tree.map(draw, tree)
  with warnings.catch_warnings(action='ignore'):  # Of unused bytes.
    run(small)
  times: list[tuple[float, float]] = []
  peak = memory.measure_peak(lambda: times.append(_time(lambda: run(tree))))
  while task.startswith('planner') and len(times) < num_rounds:
    times.append(_time(lambda: run(tree)))
  seconds, cpu_seconds = map(statistics.median, zip(*times, strict=True))
  return {
    'task': task,
    'network': network,
    'size': size,
    'weights': count(tree),
    'rounds': len(times),
    'seconds': seconds,
    'cpu_seconds': cpu_seconds,
    'peak_bytes_per_weight': peak / count(tree),
  }


def _time(run: Callable[[], Any]) -> tuple[float, float]:
  """Seconds, and those of the CPU."""
  started, cpu_started = time.perf_counter(), time.process_time()
  run()
  return time.perf_counter() - started, time.process_time() - cpu_started


def measure_alone(*arguments: Any) -> dict[str, Any]:
  """`measure` in a new process."""
  with multiprocessing.get_context('spawn').Pool(1) as pool:
    return pool.apply(measure, arguments)


def list_cases(
  sizes: Sequence[int], most_drawn: int
) -> list[tuple[str, str, int]]:
  """Tasks, networks and sizes; so many weights are drawn at most."""
  cases = []
  for task in _TASKS:
    networks = list(_NETWORKS) if task == 'planner' else ['transformer']
    for network, size in itertools.product(networks, sizes):
      if task == 'planner' or size <= most_drawn:
        cases.append((task, network, size))
  return cases


def summarize(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
  """The most seconds and bytes for each weight, by task and size."""
  found: dict[str, float] = {}
  for row in rows:
    name = f'{row["task"]}_{format_size(row["size"])}'
    for key, value in (
      (f'{name}_seconds', row['seconds']),
      (f'{name}_cpu_seconds', row['cpu_seconds']),
      (f'{name}_bytes_per_weight', row['peak_bytes_per_weight']),
    ):
      found[key] = max(found.get(key, 0.0), value)
  return found


def format_size(size: int) -> str:
  """A number of weights as a part of a name.

  >>> format_size(100_000_000), format_size(10**9), format_size(2_500_000)
  ('100m', '1b', '2500k')
  """
  for suffix, unit in (('b', 10**9), ('m', 10**6), ('k', 10**3)):
    if size % unit == 0:
      return f'{size // unit}{suffix}'
  return str(size)


def make_table(rows: Sequence[dict[str, Any]]) -> str:
  """A Markdown table."""
  heads = ['task', 'network', 'weights', 'seconds', 'CPU seconds']
  heads += ['CPU ns per weight', 'peak bytes per weight']
  cells = [
    [
      *(row['task'], row['network'], f'{row["weights"]:,}'),
      f'{row["seconds"]:.2f}',
      f'{row["cpu_seconds"]:.2f}',
      f'{1e9 * row["cpu_seconds"] / row["weights"]:.1f}',
      f'{row["peak_bytes_per_weight"]:.3f}',
    ]
    for row in rows
  ]
  return tabulate.tabulate(cells, heads, 'github', disable_numparse=True)


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--sizes', type=float, nargs='+', default=[1e7, 1e8, 1e9], help='weights'
  )
  parser.add_argument(
    '--most_drawn', type=float, default=1e8, help='weights that are drawn'
  )
  parser.add_argument('--rounds', type=int, default=5)
  arguments = parser.parse_args()
  sizes = [round(size) for size in arguments.sizes]
  rows = [
    measure_alone(*case, arguments.rounds)
    for case in list_cases(sizes, arguments.most_drawn)
  ]
  print(make_table(rows))
  print(
    json.dumps(
      summarize(rows)
      | {
        'rows': rows,
        'ratio': _RATIO,
        'commit': provenance.get_commit(),
        'hardware': provenance.get_hardware(),
      },
      sort_keys=True,
    )
  )


if __name__ == '__main__':
  main()
