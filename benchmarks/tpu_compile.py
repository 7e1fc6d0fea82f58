"""What compression adds to a step on TPUs, and sharding, by their compiler.

  python -m benchmarks.tpu_compile [--networks=resnet50,mobilenet_v2]
      [--topologies=v5e:2x2] [--fsdp=1,4] [--images_per_chip=64]
      [--processes=2]

Needs no TPU, but libtpu (the extra `tpu`). The dense step and the compression
step of the networks' configs, with 1,000 classes, images of 224 pixels,
bfloat16, as `--compile_only` compiles them. For each network, slice and number
of parts of the state:

- the step's temporary memory on a chip, the bytes of its collectives, its
  operations and its compile time, of the compression step over the dense one.
  All branches of a condition are counted, so that these are upper bounds of an
  ordinary step, which ranks no kernel;
- temporary memory with a state in parts over that with a copy on each chip;
- the part of the gathered bytes whose gradients come by reduce-scatter;
- the images that a chip could take in a second at its peak, a bound that no
  network reaches, which its host would have to read.

Nothing is run: numbers and speed need a TPU. Compile times are of one round, of
a compiler that takes one core in each of so many processes.
Prints a Markdown table, and as its last line a JSON object with the worst of
each over the networks and slices.
"""

import argparse
from collections.abc import Sequence
from concurrent import futures
import importlib
import itertools
import json
import multiprocessing
import os
import tempfile
from typing import Any

import tabulate

from hq_jax import config as config_lib
from hq_jax.runtime import provenance
from hq_jax.runtime import topologies
from hq_jax.training import compile_only
from hq_jax.training import setup as setup_lib

_OVER = ('temporaries', 'collective_bytes', 'operations', 'compile')


def measure(
  network: str, topology: str, fsdp: int, images_per_chip: int
) -> dict[str, Any]:
  """Compiles both steps of a network's config for a slice."""
  found = topologies.find(topology)
  config = importlib.import_module(f'configs.{network}').get_config()
  config.batch_size = images_per_chip * len(found.devices)
  config.mesh.fsdp = fsdp
  with tempfile.TemporaryDirectory() as empty:
    config.data.data_dir = empty  # The set of the config, without its images.
    setup = setup_lib.prepare_shapes(config_lib.validate(config), found.devices)
  names = compile_only.PLAIN, compile_only.COMPRESS
  plain, ours = compile_only.compile_programs(setup, names)
  return {
    'network': network,
    'topology': topology,
    'fsdp': fsdp,
    'images_per_chip': images_per_chip,
    'plain': _describe(plain),
    'ours': _describe(ours),
    'in_use': ours.num_bytes / found.memory_bytes,
    'images_a_second': images_per_chip
    * found.operations_per_second
    / ours.operations,
  }


def _describe(row: compile_only.Compiled) -> dict[str, float]:
  gathered = row.collectives['all-gather']['bytes']
  return {
    'arguments': row.memory['argument'],
    'temporaries': row.memory['temp'],
    'collective_bytes': sum(x['bytes'] for x in row.collectives.values()),
    'gathered': gathered,
    'scattered': row.collectives['reduce-scatter']['bytes'],
    'largest_all_reduce': row.collectives['all-reduce']['largest_bytes'],
    'operations': row.operations,
    'compile': row.seconds,
  }


def summarize(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
  """The worst of each number over all rows; `rows` are of `measure`."""
  result = {
    f'{name}_over_plain': max(x['ours'][name] / x['plain'][name] for x in rows)
    for name in _OVER
  }
  whole = {(x['network'], x['topology']): x for x in rows if x['fsdp'] == 1}
  over, parts = [], []
  for row in rows:
    if row['fsdp'] == 1:
      continue
    for step in ('plain', 'ours'):
      found = row[step]
      parts.append(row['fsdp'] * found['scattered'] / found['gathered'])
      copies = whole.get((row['network'], row['topology']))
      if copies:
        over.append(found['temporaries'] / copies[step]['temporaries'])
  if parts:
    result['fsdp_reduce_scatters'] = min(parts)
  if over:
    result['fsdp_temporaries_over_replicated'] = max(over)
  return result


def make_table(rows: Sequence[dict[str, Any]]) -> str:
  """A Markdown table with a row for each network, slice and sharding."""
  columns = ['network', 'slice', 'fsdp', 'state and batch, MB']
  columns += ['temporaries, MB', 'over dense', 'of the chip', 'collectives, MB']
  columns += ['over dense', 'reduce-scatter, MB', 'operations, 1e12']
  columns += ['over dense', 'images/s at most', 'compiled in, s', 'over dense']
  lines = []
  for row in rows:
    ours, plain = row['ours'], row['plain']
    over = {name: f'{ours[name] / plain[name]:.3f}' for name in _OVER}
    lines.append(
      [
        *(row['network'], row['topology'], str(row['fsdp'])),
        f'{ours["arguments"] / 1e6:.0f}',
        f'{ours["temporaries"] / 1e6:.0f}',
        over['temporaries'],
        f'{row["in_use"]:.0%}',
        f'{ours["collective_bytes"] / 1e6:.1f}',
        over['collective_bytes'],
        f'{ours["scattered"] / 1e6:.1f}',
        f'{ours["operations"] / 1e12:.2f}',
        over['operations'],
        f'{row["images_a_second"]:,.0f}',
        f'{ours["compile"]:.0f}',
        f'{ours["compile"] / plain["compile"]:.1f}',
      ]
    )
  return tabulate.tabulate(lines, columns, 'github', disable_numparse=True)


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--networks', default='resnet50,mobilenet_v2')
  parser.add_argument('--topologies', default='v5e:2x2')
  parser.add_argument('--fsdp', default='1,4')
  parser.add_argument('--images_per_chip', type=int, default=64)
  parser.add_argument('--processes', type=int, default=os.cpu_count())
  arguments = parser.parse_args()
  cells = itertools.product(
    arguments.networks.split(','),
    arguments.topologies.split(','),
    map(int, arguments.fsdp.split(',')),
    [arguments.images_per_chip],
  )
  rows = []
  try:
    # Processes of their own: the compiler is loaded once in each.
    with futures.ProcessPoolExecutor(
      arguments.processes, multiprocessing.get_context('spawn')
    ) as pool:
      for row in pool.map(measure, *zip(*cells, strict=True)):
        rows.append(row)
        print(f'{row["network"]}, {row["topology"]}, {row["fsdp"]}', flush=True)
  except ValueError as error:
    parser.error(str(error))
  except ModuleNotFoundError as error:
    parser.error(
      f'{error.name} is not installed, wanted the extra tpu, configs'
    )
  print(make_table(rows))
  print(
    json.dumps(
      summarize(rows)
      | {
        'rows': rows,
        'commit': provenance.get_commit(),
        'hardware': provenance.get_hardware(),
      },
      sort_keys=True,
    )
  )


if __name__ == '__main__':
  main()
