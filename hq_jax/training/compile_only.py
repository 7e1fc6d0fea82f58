"""The programs of a run, compiled for a slice of TPUs that need not be at hand.

Their memory, their collectives and their operations are known before the slice
is paid for; their speed is not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import math
import re
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import tabulate

from hq_jax import config as config_lib
from hq_jax.runtime import collectives
from hq_jax.runtime import sharding
from hq_jax.runtime import terminal
from hq_jax.runtime import topologies
from hq_jax.training import evaluate
from hq_jax.training import loop
from hq_jax.training import setup as setup_lib
from hq_jax.training import stages
from hq_jax.training import train_state

PLAIN = 'dense step'
COMPRESS = 'compression step'
_MEMORY = ('argument', 'output', 'alias', 'temp', 'generated_code')
_EXHAUSTED = re.compile(
  r'Used ([\d.]+)([KMG]) of ([\d.]+)([KMG]) hbm'
  r'|\(([\d.]+)([KMG])\) exceeds available HBM \(([\d.]+)([KMG])\)'
)
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30}


class Compiled(NamedTuple):
  """What the compiler says of a program, on one chip.

  Attributes:
    name: of the program.
    memory: bytes of 'argument', 'output', 'alias' (of both), 'temp' and
      'generated_code'.
    collectives: by kind, their 'count' and the 'bytes' of their results.
    operations: floating-point operations, all branches of a condition counted.
    bytes_accessed: read and written, counted alike.
    seconds: that it took to compile.
    text: the optimized HLO.
  """

  name: str
  memory: dict[str, int]
  collectives: dict[str, dict[str, int]]
  operations: float
  bytes_accessed: float
  seconds: float
  text: str

  @property
  def num_bytes(self) -> int:
    """All memory of a chip while it runs."""
    return sum(self.memory.values()) - 2 * self.memory['alias']


class DoesNotFit(ValueError):
  """A program that needs more memory than a chip has.

  Attributes:
    used: bytes.
    limit: bytes.
  """

  def __init__(self, name: str, used: float, limit: float):
    super().__init__(
      f'the {name} needs {used / 2**30:.2f} GiB on a chip that has'
      f' {limit / 2**30:.2f}'
    )
    self.used = used
    self.limit = limit


def run(config: Mapping[str, Any], topology: str) -> list[Compiled]:
  """Compiles all programs of a run, and prints a table of them.

  Args:
    config: of `config.get_defaults`, changed; or nested dictionaries.
    topology: a slice by its name in libtpu, such as 'v5e:16x16'.

  Returns:
    What the compiler says of each.

  Raises:
    ValueError: with the field and its value, before anything compiles; where a
      program does not fit, with what would.
  """
  found = topologies.find(topology)
  checked = config_lib.validate(config)
  setup = setup_lib.prepare_shapes(checked, found.devices)
  terminal.show(
    f'{topology}: {len(found.devices)} chips, config.mesh.fsdp='
    f'{checked.mesh.fsdp}, {checked.batch_size // len(found.devices)} images of'
    f' {"x".join(map(str, setup.dataset.image_shape))} on each, computed in'
    f' {checked.model.dtype}'
  )
  rows = []
  try:
    for row in compile_programs(setup):
      terminal.show(f'{row.name}: compiled in {row.seconds:.0f} s')
      rows.append(row)
  except DoesNotFit as error:
    raise ValueError(_advise(error, setup, topology)) from None
  terminal.show(make_table(rows, found))
  return rows


def compile_programs(
  setup: setup_lib.Setup, names: Sequence[str] | None = None
) -> Iterator[Compiled]:
  """Compiles the programs of a run, one after another.

  Args:
    setup: with a mesh of the devices to compile for.
    names: of the programs; None for all.

  Yields:
    What the compiler says of each.

  Raises:
    DoesNotFit: where one needs more memory than a device has.
  """
  for name, lower in _list_programs(setup).items():
    if names is None or name in names:
      yield _compile(name, lower)


def _list_programs(
  setup: setup_lib.Setup,
) -> dict[str, Callable[[], jax.stages.Lowered]]:
  mesh, config, shape = setup.mesh, setup.config, setup.dataset.image_shape
  key = jax.eval_shape(lambda: jax.random.key(0))
  dense_stage = stages.make_dense_stage(setup)
  init = train_state.jit_init(setup.model, dense_stage.tx, shape, mesh)
  abstract = lambda fn, *args: sharding.with_shardings(
    fn.eval_shape(*args), mesh
  )
  given = sharding.with_shardings(setup.pretrained.variables, mesh)
  dense = abstract(init, key, given)
  weights = dense.params, dense.batch_stats
  teacher = dense.variables if config.distill.weight else None
  stage = stages.make_compress_stage(setup, setup.plan, teacher)
  restart = train_state.jit_restart(stage.tx, mesh)
  size = config.batch_size
  batch = sharding.make_abstract_batch(
    {
      'image': ((size, *shape), np.float32),
      'label': ((size,), np.int32),
      'valid': ((size,), np.bool_),
    },
    mesh,
  )
  examples = {name: batch[name] for name in ('image', 'label')}
  lower: Any = lambda fn, *args: lambda: fn.lower(*args)
  programs = {
    'initialization': lower(init, key, given),
    PLAIN: lower(loop.make_step(setup, dense_stage), dense, examples, None),
    'start of compression': lower(restart, *weights),
    COMPRESS: lower(
      loop.make_step(setup, stage),
      abstract(restart, *weights),
      examples,
      teacher,
    ),
    'evaluation': lower(
      evaluate.make_eval_step(setup.model, mesh), dense.variables, batch
    ),
  }
  if not config.dense.epochs:
    del programs[PLAIN]
  return programs


def _compile(name: str, lower: Callable[[], jax.stages.Lowered]) -> Compiled:
  started = time.monotonic()
  try:
    compiled = lower().compile()
  except jax.errors.JaxRuntimeError as error:
    match = _EXHAUSTED.search(str(error))
    if match is None:
      raise
    used, used_unit, limit, unit = (x for x in match.groups() if x)
    raise DoesNotFit(
      name, float(used) * _UNITS[used_unit], float(limit) * _UNITS[unit]
    ) from error
  seconds = time.monotonic() - started
  memory: Any = compiled.memory_analysis()
  cost: Any = compiled.cost_analysis()
  text = compiled.as_text() or ''
  return Compiled(
    name=name,
    memory={key: getattr(memory, f'{key}_size_in_bytes') for key in _MEMORY},
    collectives=collectives.count(text),
    operations=cost.get('flops', 0.0),
    bytes_accessed=cost.get('bytes accessed', 0.0),
    seconds=seconds,
    text=text,
  )


def _advise(error: DoesNotFit, setup: setup_lib.Setup, topology: str) -> str:
  """What would fit, by the memory that a chip's images take."""
  config, mesh = setup.config, setup.mesh
  fixed = count_bytes(describe_state(setup))
  images = config.batch_size / mesh.size
  fit = int(images * (error.limit - fixed) / max(error.used - fixed, 1))
  wanted = f'about {fit * mesh.size}' if fit > 0 else 'more chips'
  if config.mesh.fsdp < mesh.size and fixed > error.limit / 4:
    wanted += f' or config.mesh.fsdp={mesh.size}'
  return (
    f'config.batch_size is {config.batch_size}, wanted {wanted}: {error}'
    f' ({topology})'
  )


def describe_state(setup: setup_lib.Setup) -> Any:
  """Shapes, types and shardings of the state of compression."""
  stage = stages.make_compress_stage(setup, setup.plan)
  shapes = setup_lib.get_shapes(setup.model, setup.dataset.image_shape)
  state = jax.eval_shape(
    train_state.jit_restart(stage.tx, setup.mesh),
    shapes['params'],
    shapes.get('batch_stats', {}),
  )
  return sharding.with_shardings(state, setup.mesh)


def count_bytes(tree: Any) -> int:
  """The bytes of a tree of `jax.ShapeDtypeStruct` on each device."""
  return sum(
    leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
    for leaf in jax.tree.leaves(tree)
  )


def make_table(rows: Sequence[Compiled], found: topologies.Slice) -> str:
  """A Markdown table with a row for each program."""
  plain = next((row for row in rows if row.name == PLAIN), None)
  kinds = [
    kind
    for kind in collectives.KINDS
    if any(row.collectives[kind]['count'] for row in rows)
  ]
  columns = ['program', 'arguments, MB', 'outputs, MB', 'temporaries, MB']
  columns += ['in all, of the chip', *(f'{kind}: number, MB' for kind in kinds)]
  columns += ['operations, 1e9', 'over dense', 'touched, MB', 'compiled in, s']
  lines = []
  for row in rows:
    over = '' if plain is None else f'{row.operations / plain.operations:.3f}'
    cells = [row.name]
    cells += [
      f'{row.memory[key] / 1e6:.1f}' for key in ('argument', 'output', 'temp')
    ]
    cells.append(f'{row.num_bytes / found.memory_bytes:.1%}')
    for kind in kinds:
      counted = row.collectives[kind]
      cells.append(f'{counted["count"]}: {counted["bytes"] / 1e6:.2f}')
    cells += [f'{row.operations / 1e9:.1f}', over]
    cells += [f'{row.bytes_accessed / 1e6:.0f}', f'{row.seconds:.0f}']
    lines.append(cells)
  return tabulate.tabulate(lines, columns, 'github', disable_numparse=True)
