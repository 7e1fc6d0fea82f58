"""The public names: one page lists them all, and they are imported lazily."""

import importlib
import pathlib
import re
import subprocess
import sys

import pytest

import hq_jax

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_PAGE = (_ROOT / 'docs' / 'api.md').read_text(encoding='utf-8')
# Heading by heading: a module, and all until the next.
_SECTIONS = dict(
  re.findall(r'^## `([\w.]+)`\n(.*?)(?=^## |\Z)', _PAGE, re.M | re.S)
)


def test_the_page_has_every_public_module():
  assert 'hq_jax' in _SECTIONS
  modules = {'config', 'core', 'models', 'models.pretrained', 'transforms'}
  modules |= {'artifact', 'baselines', 'export', 'planner'}
  assert set(_SECTIONS) == {'hq_jax', *(f'hq_jax.{name}' for name in modules)}


@pytest.mark.parametrize('name', _SECTIONS)
def test_the_page_lists_what_the_module_does(name):
  module = hq_jax
  for part in name.split('.')[1:]:
    module = getattr(module, part, None) or importlib.import_module(
      f'{module.__name__}.{part}'
    )
  listed = re.findall(r'^\| `(\w+)` \| \S.*\. \|$', _SECTIONS[name], re.M)
  assert sorted(listed) == sorted(module.__all__)
  for public in module.__all__:
    assert getattr(module, public) is not None
  assert set(module.__all__) <= set(dir(module))


def _run(source):
  done = subprocess.run(
    [sys.executable, '-c', source], cwd=_ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return done.stdout.strip()


def test_import_is_light_and_the_reader_needs_no_jax():
  # The names of modules whose import takes long, in the order of the lines.
  source = """
import sys
import hq_jax
print(sorted({'jax', 'numpy', 'absl'} & set(sys.modules)))
hq_jax.artifact.read
print(sorted({'jax', 'flax', 'absl', 'ml_collections'} & set(sys.modules)))
from hq_jax import planner
hq_jax.compress, hq_jax.transforms.hq
print(sorted({'flax', 'ml_collections', 'matplotlib'} & set(sys.modules)))
"""
  assert _run(source).splitlines() == ['[]'] * 3


def test_a_missing_package_is_named_with_its_extra():
  source = """
import sys
sys.modules['flax'] = None  # As if it were not installed.
import hq_jax
try:
  hq_jax.models
except ImportError as error:
  print(error)
"""
  assert _run(source) == (
    'hq_jax.models needs flax, which is not installed: pip install'
    " 'hq_jax[train]'"
  )


def test_other_names_are_not_there():
  with pytest.raises(AttributeError, match="'hq_jax' has no attribute 'nope'"):
    _ = hq_jax.nope
