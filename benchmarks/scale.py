"""What a training step with a sharded state costs each of 1 to 8 devices.

  python -m benchmarks.scale [--devices=1,2,4,8] [--model=resnet50]

The network for 1,000 classes, `transforms.hq` around SGD with momentum, and
its state sharded over all devices (`fsdp`). Each number of devices runs in a
process of its own: on accelerators over the first of those that are there,
where numbers that the machine has not are left out; on a CPU, or with
`JAX_PLATFORMS=cpu`, on so many virtual devices. For each:

- the bytes of the state on the fullest device, over those of the whole state;
- the memory that the compiler plans on one device for the step, and for the
  function that makes the first state: its temporary buffers show what is
  whole there for a while;
- the collectives of the compiled step, with the bytes of their results on one
  device. `benchmarks.tpu_compile` has those of a TPU's compiler;
- the median time of a step. Virtual devices share the cores: there it says
  that the step runs, and nothing of how much faster more devices are.

Nearly all of its time compiles: six minutes on two cores for the default.
Prints a Markdown table, and as its last line a JSON object.
"""

import argparse
from collections.abc import Sequence
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

import chex
import jax
import numpy as np
import optax
import tabulate

from hq_jax import config as config_lib
from hq_jax import models
from hq_jax import transforms
from hq_jax.runtime import collectives
from hq_jax.runtime import provenance
from hq_jax.runtime import sharding
from hq_jax.training import optimizers
from hq_jax.training import train_state
from hq_jax.training import train_step

_NUM_CLASSES = 1000
_MEMORY = ('argument', 'output', 'alias', 'temp')


def count_bytes(tree: chex.ArrayTree) -> dict[str, int]:
  """The bytes of arrays on the device that holds most of them, and in all.

  >>> import jax.numpy as jnp
  >>> count_bytes({'a': jnp.zeros((3, 2)), 'b': jnp.zeros((), jnp.int8)})
  {'per_device': 25, 'whole': 25}
  """
  held: dict[Any, int] = {}
  for leaf in jax.tree.leaves(tree):
    for shard in leaf.addressable_shards:
      held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
  return {
    'per_device': max(held.values(), default=0),
    'whole': sum(leaf.nbytes for leaf in jax.tree.leaves(tree)),
  }


def measure_state(state: train_state.TrainState) -> dict[str, Any]:
  """Counts the bytes of a state, and of its parts."""
  latents = optax.tree.get(state.opt_state, 'latents')
  parts = {
    'params': state.params,
    'latents': latents,
    'optimizer': optax.tree.set(state.opt_state, latents=()),
    'statistics': (state.step, state.batch_stats),
  }
  found = count_bytes(state)
  return {
    'bytes': found,
    'parts': {name: count_bytes(part) for name, part in parts.items()},
    'fraction_per_device': found['per_device'] / found['whole'],
  }


def get_memory(compiled: jax.stages.Compiled) -> dict[str, int] | None:
  """The bytes that the compiler plans on one device."""
  found = compiled.memory_analysis()
  if found is None:
    return None
  return {name: getattr(found, f'{name}_size_in_bytes') for name in _MEMORY}


def make_optimizer(name: str) -> optax.GradientTransformation:
  """The whole method, within its pruning, around an optimizer of a config."""
  inner = optimizers.make_optimizer(
    config_lib.Optimizer(name=name), optax.constant_schedule(1e-2)
  )
  recipe = transforms.Recipe(sparsity=0.85, prune_steps=1000)
  return transforms.hq(inner, recipe)


def measure(
  num_devices: int,
  *,
  model: str,
  optimizer: str,
  image_size: int,
  batch_size: int,
  num_rounds: int,
  seed: int,
) -> dict[str, Any] | None:
  """Measures on the first devices of this process; None if there are fewer."""
  if num_devices > jax.device_count():
    return None
  every = sharding.make_mesh()
  mesh = jax.make_mesh(
    (1, num_devices),
    every.axis_names,
    axis_types=every.axis_types,
    devices=jax.devices()[:num_devices],
  )
  network = models.build(model, num_classes=_NUM_CLASSES, arguments={})
  tx = make_optimizer(optimizer)
  shape = (image_size, image_size, 3)
  key = jax.random.key(seed)
  init = train_state.jit_init(network, tx, shape, mesh).lower(key, {}).compile()
  state = init(key, {})
  row = {'devices': num_devices, **measure_state(state)}

  rng = np.random.default_rng(seed)
  batch = {
    'image': rng.normal(size=(batch_size, *shape)).astype(np.float32),
    'label': rng.integers(0, _NUM_CLASSES, batch_size, np.int32),
  }
  batch = sharding.to_global(batch, mesh)
  jitted: Any = train_step.make_train_step(network, tx, seed=seed, mesh=mesh)
  step = jitted.lower(state, batch).compile()
  seconds = []
  # The first step finds thresholds, which most steps do not; it warms up, too.
  for _ in range(1 + num_rounds):
    started = time.perf_counter()
    state, *_ = jax.block_until_ready(step(state, batch))
    seconds.append(time.perf_counter() - started)
  return row | {
    'collectives': collectives.count(step.as_text()),
    'step_memory': get_memory(step),
    'init_memory': get_memory(init),
    'step_seconds': float(np.median(seconds[1:])),
    'hardware': provenance.get_hardware(),
  }


def make_table(rows: Sequence[dict[str, Any]]) -> str:
  """A Markdown table with a row for each number of devices.

  Of the collectives, it has their number and the MB of their results.
  """
  kinds = [
    kind
    for kind in collectives.KINDS
    if any(row['collectives'][kind]['count'] for row in rows)
  ]
  columns = ['devices', 'state on each, MB', 'of the whole']
  columns += ['step: temporary, MB', 'init: temporary, MB', *kinds, 'step, s']
  lines = []
  for row in rows:
    cells = [
      str(row['devices']),
      f'{row["bytes"]["per_device"] / 1e6:.1f}',
      f'{row["fraction_per_device"]:.4f}',
    ]
    for memory in (row['step_memory'], row['init_memory']):
      cells.append('' if memory is None else f'{memory["temp"] / 1e6:.1f}')
    for kind in kinds:
      found = row['collectives'][kind]
      cells.append(f'{found["count"]}: {found["bytes"] / 1e6:.1f}')
    cells.append(f'{row["step_seconds"]:.3f}')
    lines.append(cells)
  return tabulate.tabulate(lines, columns, 'github', disable_numparse=True)


def _run_child(num_devices: int, argv: Sequence[str]) -> dict[str, Any] | None:
  """A row, measured in a process of its own, whose devices are its own."""
  done = subprocess.run(
    [sys.executable, '-m', 'benchmarks.scale', *argv, f'--child={num_devices}'],
    cwd=pathlib.Path(__file__).parents[1],
    env=os.environ | {'JAX_NUM_CPU_DEVICES': str(num_devices)},
    stdout=subprocess.PIPE,
    text=True,
  )
  if done.returncode:
    raise SystemExit(
      f'the process with {num_devices} devices ended with {done.returncode}'
    )
  return json.loads(done.stdout.splitlines()[-1])


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  """The arguments, checked before a process starts."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--devices', default='1,2,4,8')
  parser.add_argument('--model', default='resnet50')
  parser.add_argument('--optimizer', default='sgd')
  parser.add_argument('--image_size', type=int, default=64)
  parser.add_argument('--batch_size', type=int, default=16)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument(
    '--child', type=int, help='measure this number of devices here'
  )
  arguments = parser.parse_args(argv)
  try:
    devices = sorted({int(number) for number in arguments.devices.split(',')})
  except ValueError:
    devices = [0]
  if devices[0] < 1:
    parser.error(
      f'--devices is {arguments.devices!r}, wanted numbers of at least 1: 1,2,4'
    )
  arguments.devices = devices
  for number in arguments.devices:
    if arguments.batch_size % number:
      parser.error(
        f'--batch_size is {arguments.batch_size}, wanted a multiple of'
        f' the {number} devices'
      )
  try:
    models.build(arguments.model, num_classes=_NUM_CLASSES, arguments={})
    make_optimizer(arguments.optimizer)
  except ValueError as error:
    flags = {'model.name': '--model', 'config.optimizer.name': '--optimizer'}
    field, _, rest = str(error).partition(' ')
    parser.error(f'{flags[field]} {rest}')
  return arguments


def main() -> None:
  """Measures and prints."""
  argv = sys.argv[1:]
  arguments = _parse(argv)
  settings = {
    name: getattr(arguments, name)
    for name in ('model', 'optimizer', 'image_size', 'batch_size', 'seed')
  }
  if arguments.child is not None:
    row = measure(arguments.child, num_rounds=arguments.rounds, **settings)
    print(json.dumps(row))
    return
  rows = [_run_child(number, argv) for number in arguments.devices]
  found = [row for row in rows if row is not None]
  if not found:
    raise SystemExit(
      f'--devices is {arguments.devices}, more than the machine has'
    )
  hardware = [row.pop('hardware') for row in found]
  fractions = {row['devices']: row['fraction_per_device'] for row in found}
  print(make_table(found))
  print(
    json.dumps(
      settings
      | {
        'rounds': arguments.rounds,
        'rows': found,
        'fraction_per_device_8': fractions.get(8),
        'commit': provenance.get_commit(),
        'hardware': hardware[-1],
      },
      sort_keys=True,
    )
  )


if __name__ == '__main__':
  main()
