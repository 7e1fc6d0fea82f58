"""Where compiled programs are kept, and what is said where they cannot be."""

import os
import subprocess
import sys

import pytest

from hq_jax.runtime import compile_cache

_COMPILES = """
import sys
import jax
from hq_jax.runtime import compile_cache

counts = {}
def count(event, **unused):
  counts[event] = counts.get(event, 0) + 1
jax.monitoring.register_event_listener(count)
print(compile_cache.keep(*sys.argv[1:] or [None]))
jax.jit(lambda x: x + 1)(1)
print(counts.get('/jax/compilation_cache/cache_hits', 0))
"""


def _compile(home, *arguments, **settings):
  """What is said, and how many programs were found."""
  env = {k: v for k, v in os.environ.items() if 'CACHE' not in k}
  done = subprocess.run(
    [sys.executable, '-c', _COMPILES, *arguments],
    env=env | {'HOME': str(home)} | settings,
    capture_output=True,
    text=True,
  )
  assert (done.returncode, done.stderr) == (0, '')
  said, count = done.stdout.splitlines()
  return said, int(count)


def test_the_next_start_finds_small_programs_too(tmp_path):
  assert _compile(tmp_path) == ('None', 0)
  kept = os.listdir(tmp_path / '.cache' / 'hq_jax')
  assert kept
  said, count = _compile(tmp_path)
  assert said == 'None' and count > 0
  assert os.listdir(tmp_path / '.cache' / 'hq_jax') == kept


@pytest.mark.parametrize(
  ('arguments', 'settings'),
  [([''], {}), ([], {'JAX_COMPILATION_CACHE_DIR': 'given'})],
)
def test_asked_otherwise_nothing_is_kept_at_home(tmp_path, arguments, settings):
  settings = {k: str(tmp_path / v) for k, v in settings.items()}
  assert _compile(tmp_path, *arguments, **settings) == ('None', 0)
  assert not (tmp_path / '.cache').exists()


def test_where_nothing_can_be_written_that_is_said(tmp_path, monkeypatch):
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
  file = tmp_path / 'file'
  file.touch()
  said, count = _compile(tmp_path, XDG_CACHE_HOME=str(file))
  assert said.startswith('what is compiled is not kept: ')
  assert str(file) in said and count == 0
  with pytest.raises(ValueError) as caught:
    compile_cache.keep(str(file / 'a'))
  wanted = f"compile_cache is '{file}/a', wanted a folder to write to ("
  assert str(caught.value).startswith(wanted)
