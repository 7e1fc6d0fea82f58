"""The rooms of the house: each folder imports only folders below it."""

import ast
import pathlib

import pytest

_PACKAGE = pathlib.Path(__file__).parents[1] / 'hq_jax'

# From the lowest to the highest; what lies beside the folders is above all.
_ROOMS = (
  *('launch', 'core', 'config', 'transforms', 'models', 'runtime', 'artifact'),
  *('data', 'compression', 'report', 'baselines', 'inference', 'training'),
)
_LEVELS = {name: level for level, name in enumerate(_ROOMS)}
_TOP = len(_ROOMS)

# What these may import of the package, besides themselves, where it is less
# than everything below.
_ALLOWED = {
  'config': {'core'},
  'core': set(),
  'launch': set(),
  'transforms': {'core'},
  'models': {'core'},
  'runtime': {'core'},
  'artifact': {'core', 'runtime'},
  'data': {'core', 'runtime'},
}

# Who alone may import what: a room, or a folder in one.
_RESERVED = {
  # Grain's workers look at flags, which a notebook has not parsed.
  'absl.flags': {'main', 'data/worker_processes'},
  'absl.app': {'main'},
  'orbax': {'runtime/checkpoint'},
  'prometheus_client': {'inference/server'},
  'starlette': {'inference/server'},
  'uvicorn': {'inference/server'},
  'torch': {'models/pretrained', 'inference/export'},
  'onnx': {'inference/export'},
  'onnxruntime': {'inference/onnx_engine'},
  'tensorboardX': {'runtime/trackers'},
  'tensorflow': set(),
  'wandb': {'runtime/trackers'},
}

_JAX = {'jax', 'jaxlib', 'flax', 'optax', 'chex'}
# Whoever has a file and no JAX has none of these.
_ABSENT = {*_JAX, 'absl', 'ml_collections', 'scipy', 'tabulate'}
# What may be imported nowhere within.
_FORBIDDEN = {
  'artifact': _JAX,
  'core/qtensors': {*_JAX, 'numpy'},
  'data/images/crops': _ABSENT,
  'data/images/decode': _ABSENT,
  'data/normalization': _ABSENT,
  'data/prepare': {*_JAX, 'absl'},
  'data/preprocessing': _ABSENT,
  'inference/architectures': _ABSENT,
  'inference/classifier': _ABSENT,
  'inference/network': _ABSENT,
  'inference/onnx_engine': _ABSENT,
  'inference/onnx_model': _ABSENT,
  'inference/predict': _ABSENT,
  'launch': {*_JAX, 'absl', 'numpy'},
  'models': {'optax'},
  'runtime/atomic_write': {*_JAX, 'numpy'},
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


def _is_within(name, package, separator='.'):
  return name == package or name.startswith(f'{package}{separator}')


def _violations(place, source):
  """Every rule that a file breaks, in words; `place` as 'core/trees'."""
  room = place.split('/')[0]
  is_room = room in _LEVELS
  imports = set(_imports(source))
  if not is_room and '/' in place:
    yield f'{room} is no room'
  for name in imports:
    if _is_within(name, 'hq_jax'):
      other = name.split('.')[1]
      if other != room and _LEVELS.get(other, _TOP) >= _LEVELS.get(room, 99):
        yield f'{place} imports {other}, which is not below it'
      elif other != room and other not in _ALLOWED.get(room, {other}):
        yield f'{place} imports {other}, which is not its concern'
    if _is_within(name, 'benchmarks') or _is_within(name, 'tests'):
      yield f'{place} imports {name}'
    for package, owners in _RESERVED.items():
      if _is_within(name, package) and not any(
        _is_within(place, owner, '/') for owner in owners
      ):
        yield f'{place} imports {package}'
    for owner, packages in _FORBIDDEN.items():
      if _is_within(place, owner, '/'):
        for package in packages:
          if _is_within(name, package):
            yield f'{place} imports {package}'


def _calls_at_import(source):
  """The lines that only do something: nothing runs on import."""
  for node in ast.parse(source).body:
    is_text = isinstance(node, ast.Expr) and isinstance(
      node.value, ast.Constant
    )
    acts = isinstance(node, ast.Expr | ast.For | ast.While | ast.With)
    if acts and not is_text:
      yield ast.unparse(node)


_PLACES = sorted(
  path.relative_to(_PACKAGE).with_suffix('').as_posix()
  for path in _PACKAGE.rglob('*.py')
)


@pytest.mark.parametrize('place', _PLACES)
def test_file_keeps_the_order(place):
  source = (_PACKAGE / f'{place}.py').read_text(encoding='utf-8')
  assert list(_violations(place, source)) == []
  assert list(_calls_at_import(source)) == []


def test_each_room_is_there():
  folders = {place.split('/')[0] for place in _PLACES if '/' in place}
  assert folders == set(_ROOMS)


@pytest.mark.parametrize(
  ('place', 'source', 'message'),
  [
    ('core/trees', 'from hq_jax import transforms', 'not below it'),
    ('core/trees', 'import hq_jax.training.loop', 'not below it'),
    ('core/trees', 'from hq_jax.launch import local', 'not its concern'),
    ('report/tables', 'def f():\n  from hq_jax import main', 'not below it'),
    ('training/loop', 'from hq_jax import unheard_of', 'not below it'),
    ('unheard_of/file', 'import jax', 'is no room'),
    ('data/sources', 'from hq_jax import models', 'not its concern'),
    ('training/train', 'import orbax.checkpoint as ocp', 'imports orbax'),
    ('training/train', 'from absl import flags', 'imports absl.flags'),
    ('training/train', 'from benchmarks import scale', 'imports benchmarks'),
    ('artifact/reader', 'import jax.numpy as jnp', 'imports jax'),
    ('artifact/reader', 'if True:\n  from jax import numpy', 'imports jax'),
  ],
)
def test_violations_are_found(place, source, message):
  (violation,) = set(_violations(place, source))
  assert message in violation


def test_what_is_allowed_is_no_violation():
  allowed = (
    ('main', 'from absl import app, flags\nfrom hq_jax.training import train'),
    ('runtime/checkpoint/orbax_io', 'import orbax.checkpoint'),
    ('artifact/reader', 'from hq_jax.core import qtensors\nimport jaxtyping'),
    ('baselines/_twn', 'from hq_jax.core import ternary\nimport jax'),
  )
  for place, source in allowed:
    assert list(_violations(place, source)) == []


def test_calls_at_import_are_found():
  source = '"""Text."""\nX = f()\nprint(X)\nfor x in X:\n  pass\n'
  assert len(list(_calls_at_import(source))) == 2
