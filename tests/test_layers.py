"""The import order: lower layers never import higher ones."""

import ast
import graphlib
import pathlib

import pytest

_PACKAGE = pathlib.Path(__file__).parents[1] / 'hq_jax'

# From the lowest to the highest. A name stands for a module or a package with
# all it holds; a name may be here before its file is.
_LAYERS = (
  {
    'command_line',
    'config',
    'distributed',
    'distributions',
    'files',
    'launching',
    'losses',
    'metrics',
    'mixing',
    'provenance',
    'schedules',
    'sphere',
    'tensors',
    'trees',
    'workdir',
  },
  {
    'artifact',
    'data',
    'fingerprints',
    'health',
    'launch',
    'models',
    'quantizers',
    'sharding',
    'ternary',
    'thresholds',
  },
  {
    'compress',
    'diagnostics',
    'optimizers',
    'planner',
    'preemption',
    'pretrained',
    'transforms',
  },
  {
    'checkpoint',
    'deploy',
    'export',
    'inputs',
    'inspect',
    'prepare',
    'report',
    'rivals',
    'stages',
    'steering',
    'train_state',
    'train_step',
  },
  {'evaluate', 'job', 'recipes'},
  {'epoch_ends', 'shipping'},
  {'loop'},
  {'train'},
  {'main'},
)
_LEVELS = {name: i for i, names in enumerate(_LAYERS) for name in names}

# What these may import of the package, besides themselves.
_ALLOWED = {
  'artifact': {'files', 'tensors'},
  'files': set(),
  'distributed': set(),
  'fingerprints': {'trees'},
  'health': {'trees'},
  'data': set(),
  'inputs': {'config', 'data', 'pretrained', 'sharding'},
  'inspect': {'artifact', 'command_line'},
  'models': {'trees'},
  'launch': {'launching'},
  'launching': set(),
  'losses': set(),
  'mixing': set(),
  'prepare': {'command_line', 'data'},
  'pretrained': {'models', 'trees'},
  'planner': {'artifact', 'distributions', 'tensors', 'ternary', 'trees'},
  'steering': {'artifact', 'planner', 'tensors'},
  'tensors': set(),
  'transforms': {
    'distributions',
    'health',
    'quantizers',
    'schedules',
    'sphere',
    'tensors',
    'ternary',
    'thresholds',
    'trees',
  },
}

# Who alone may import what.
_RESERVED = {
  'absl.flags': {'main'},
  'absl.app': {'main'},
  'orbax': {'checkpoint'},
  'torch': {'pretrained'},
  'tensorflow': set(),
}

_NOT_ON_A_LAPTOP = {'jax', 'jaxlib', 'flax', 'optax', 'chex', 'absl', 'numpy'}

# What may be imported nowhere within.
_FORBIDDEN = {
  'artifact': {'jax', 'jaxlib', 'flax', 'optax', 'chex'},
  'files': {'jax', 'jaxlib', 'flax', 'optax', 'chex', 'numpy'},
  'inspect': {'jax', 'jaxlib', 'flax', 'optax', 'chex', 'absl'},
  'prepare': {'jax', 'jaxlib', 'flax', 'optax', 'chex', 'absl'},
  'tensors': {'jax', 'jaxlib', 'flax', 'optax', 'chex', 'numpy'},
  'models': {'optax'},
  'launch': _NOT_ON_A_LAPTOP,
  'launching': _NOT_ON_A_LAPTOP,
}


def _imports(source):
  """The full name of everything a module imports, in functions too."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      # No relative import: its name would pass every check below.
      assert node.level == 0, ast.unparse(node)
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def _is_within(name, package):
  return name == package or name.startswith(f'{package}.')


def _unit(path):
  """The name in the table that a file belongs to."""
  return path.relative_to(_PACKAGE).with_suffix('').parts[0]


def _needs(imports, unit):
  """The other units of the package among the imports."""
  names = {name.split('.')[1] for name in imports if _is_within(name, 'hq_jax')}
  return names - {unit}


def _violations(unit, source):
  """Every rule that a file of this unit breaks, in words."""
  imports = set(_imports(source))
  if unit not in _LEVELS and unit != '__init__':
    yield f'{unit} is in no layer'
  for other in _needs(imports, unit):
    if _LEVELS.get(other, 99) > _LEVELS.get(unit, -1):
      yield f'{unit} imports {other}, of a higher layer'
    if unit in _ALLOWED and other not in _ALLOWED[unit]:
      yield f'{unit} imports {other}, which is not its concern'
  for name in imports:
    for package, owners in _RESERVED.items():
      if _is_within(name, package) and unit not in owners:
        yield f'{unit} imports {package}'
    for package in _FORBIDDEN.get(unit, ()):
      if _is_within(name, package):
        yield f'{unit} imports {package}'


def _calls_at_import(source):
  """The lines that only do something: nothing runs on import."""
  for node in ast.parse(source).body:
    is_text = isinstance(node, ast.Expr) and isinstance(
      node.value, ast.Constant
    )
    acts = isinstance(node, ast.Expr | ast.For | ast.While | ast.With)
    if acts and not is_text:
      yield ast.unparse(node)


_FILES = sorted(_PACKAGE.rglob('*.py'))


@pytest.mark.parametrize(
  'path', _FILES, ids=lambda path: str(path.relative_to(_PACKAGE))
)
def test_file_keeps_the_order(path):
  source = path.read_text(encoding='utf-8')
  assert list(_violations(_unit(path), source)) == []
  assert list(_calls_at_import(source)) == []


def test_units_do_not_import_one_another_in_circles():
  graph = {}
  for path in _FILES:
    imports = _imports(path.read_text(encoding='utf-8'))
    graph.setdefault(_unit(path), set()).update(_needs(imports, _unit(path)))
  assert {'trees', 'ternary', 'transforms'} <= set(graph)
  graphlib.TopologicalSorter(graph).prepare()


def test_no_name_is_in_two_layers():
  assert sum(map(len, _LAYERS)) == len(_LEVELS)


@pytest.mark.parametrize(
  ('unit', 'source', 'message'),
  [
    ('trees', 'from hq_jax import ternary', 'of a higher layer'),
    ('trees', 'import hq_jax.train', 'of a higher layer'),
    ('ternary', 'from hq_jax.transforms import _prune', 'of a higher layer'),
    ('sphere', 'def f():\n  from hq_jax import main', 'of a higher layer'),
    ('train', 'from hq_jax import unheard_of', 'of a higher layer'),
    ('unheard_of', 'import jax', 'in no layer'),
    ('data', 'from hq_jax import models', 'not its concern'),
    ('models', 'from hq_jax import quantizers', 'not its concern'),
    ('train', 'import orbax.checkpoint as ocp', 'imports orbax'),
    ('train', 'from absl import flags', 'imports absl.flags'),
    ('artifact', 'import jax.numpy as jnp', 'imports jax'),
    ('inspect', 'from hq_jax import report', 'not its concern'),
    ('inspect', 'from absl import logging', 'imports absl'),
    ('artifact', 'if True:\n  from jax import numpy', 'imports jax'),
  ],
)
def test_violations_are_found(unit, source, message):
  (violation,) = set(_violations(unit, source))
  assert message in violation


def test_what_is_allowed_is_no_violation():
  allowed = (
    ('main', 'from absl import app, flags\nfrom hq_jax import train'),
    ('checkpoint', 'import orbax.checkpoint\nfrom hq_jax import train_state'),
    ('artifact', 'from hq_jax import tensors\nimport jaxtyping_like_name'),
    ('quantizers', 'from hq_jax import ternary\nfrom absl import logging'),
  )
  for unit, source in allowed:
    assert list(_violations(unit, source)) == []


def test_calls_at_import_are_found():
  source = '"""Text."""\nX = f()\nprint(X)\nfor x in X:\n  pass\n'
  assert len(list(_calls_at_import(source))) == 2
