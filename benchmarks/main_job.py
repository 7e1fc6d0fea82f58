"""Where the time of a whole run goes, from the command to its last line.

  python -m benchmarks.main_job [--config=digits] [--workdir=runs/main_job]

Runs `python -m hq_jax.main` in a process of its own, twice in new folders: with
an empty folder for compiled programs, and with what the first has left there.
Time is that of the clock, of the function that is at work; what JAX traces and
compiles within it is counted apart. Prints a Markdown table, and as its last
line a JSON object with the seconds of each part of both.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import tabulate

from hq_jax.runtime import provenance

Span = tuple[str, float, float]
_REST = 'the rest'
_COMPILE = 'compilation'
_START = 'imports and the config'
_TIMED = '--timed'
# Where an attribute is replaced by one that is timed, and the part it is of.
_PARTS = (
  ('hq_jax.training.setup', 'prepare', 'the set, the model, the plan'),
  ('hq_jax.training.loop', '_Run.train', 'training steps'),
  ('hq_jax.training.evaluate', 'evaluate', 'evaluation'),
  ('hq_jax.training.loop', '_Run._make_file', 'files and rate control'),
  ('hq_jax.training.export', 'export_model', 'files and rate control'),
  ('hq_jax.training.loop', '_Run._save', 'checkpoints'),
  ('hq_jax.training.loop', '_Run.close', 'checkpoints'),
  ('hq_jax.report', 'write', 'report'),
)


class Clock:
  """Spans of time, each of the innermost part that is at work.

  Attributes:
    spans: part, begin and end, in the order of their ends.
    compiled: begin and end of each trace, lowering and compilation.
  """

  def __init__(self):
    self.spans: list[Span] = []
    self.compiled: list[tuple[float, float]] = []
    self._parts = [_REST]
    self._since = time.time()

  def turn(self, part: str | None) -> None:
    """Begins a part within the one before, or ends it with None."""
    now = time.time()
    self.spans.append((self._parts[-1], self._since, now))
    if part is None:
      self._parts.pop()
    else:
      self._parts.append(part)
    self._since = now

  @contextlib.contextmanager
  def during(self, part: str) -> Iterator[None]:
    """Times what is done within."""
    self.turn(part)
    try:
      yield
    finally:
      self.turn(None)

  def hear(self, event: str, seconds: float, **unused: Any) -> None:
    """Takes an event of JAX, which comes when it has ended."""
    if event.startswith('/jax/core/compile/'):
      now = time.time()
      self.compiled.append((now - seconds, now))


def attribute(
  spans: Sequence[Span], compiled: Sequence[tuple[float, float]]
) -> dict[str, float]:
  """Seconds by part; what was compiled within a part is not of it.

  >>> attribute([('a', 0.0, 5.0), ('b', 5.0, 6.0)], [(2.0, 3.0), (1.0, 3.0)])
  {'compilation': 2.0, 'a': 3.0, 'b': 1.0}
  """
  merged: list[tuple[float, float]] = []
  for begin, end in sorted(compiled):
    if merged and begin <= merged[-1][1]:
      begin, last = merged.pop()
      end = max(end, last)
    merged.append((begin, end))
  found = {_COMPILE: 0.0}
  for part, begin, end in spans:
    within = sum(
      max(0.0, min(end, last) - max(begin, first)) for first, last in merged
    )
    found[_COMPILE] += within
    found[part] = found.get(part, 0.0) + end - begin - within
  return found


def _time(clock: Clock, fn: Callable[..., Any], part: str) -> Any:
  import jax

  @functools.wraps(fn)
  def timed(*args, **kwargs):
    with clock.during(part):
      result = fn(*args, **kwargs)
      # Steps are not waited for otherwise.
      jax.block_until_ready(getattr(args[0], 'state', None) if args else None)
      return result

  return timed


def _run_timed(started: float, path: str, words: Sequence[str]) -> None:
  """Runs the command in this process, and writes where its time has gone."""
  clock = Clock()
  import jax

  jax.monitoring.register_event_duration_secs_listener(clock.hear)
  for module, name, part in _PARTS:
    __import__(module)
    owner: Any = sys.modules[module]
    *outer, last = name.split('.')
    for attribute_name in outer:
      owner = getattr(owner, attribute_name)
    setattr(owner, last, _time(clock, getattr(owner, last), part))
  from hq_jax import main as program

  clock.spans = [(_START, started, time.time())]
  clock._since = time.time()
  try:
    program.run(['hq_jax', *words])
  finally:
    clock.turn(_REST)
    with open(path, 'w', encoding='utf-8') as file:
      json.dump(attribute(clock.spans, clock.compiled), file)


def measure(config: str, workdir: str) -> dict[str, dict[str, float]]:
  """Runs the command twice, and says where its time has gone."""
  found = {}
  cache = os.path.join(workdir, 'compiled')
  for name in ('first', 'second'):
    with tempfile.TemporaryDirectory() as temporary:
      path = os.path.join(temporary, 'seconds.json')
      words = f'--config={config}', f'--compile_cache={cache}'
      started = time.time()
      again = sys.executable, '-m', 'benchmarks.main_job', _TIMED, str(started)
      folder = os.path.join(workdir, name)
      subprocess.run(
        [*again, path, *words, f'--workdir={folder}'],
        check=True,
        stdout=sys.stderr,
      )
      total = time.time() - started
      with open(path, encoding='utf-8') as file:
        parts = json.load(file)
      found[name] = parts | {'in all': total}
  return found


def make_table(found: dict[str, dict[str, float]]) -> str:
  """A Markdown table of both runs."""
  order = sorted(found['first'], key=lambda part: found['first'][part])
  rows = [
    [part, *(f'{found[name].get(part, 0.0):.1f}' for name in found)]
    for part in reversed(order)
  ]
  heads = ['seconds', 'first run', 'second run']
  return tabulate.tabulate(rows, heads, 'github', disable_numparse=True)


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--config', default='digits')
  parser.add_argument('--workdir', default='runs/main_job')
  arguments = parser.parse_args()
  if os.path.exists(arguments.workdir):
    parser.error(f'workdir: {arguments.workdir} is there, wanted a new folder')
  found = measure(arguments.config, arguments.workdir)
  print(make_table(found))
  print(
    json.dumps(
      {
        'first_seconds': found['first']['in all'],
        'second_seconds': found['second']['in all'],
        'parts': found,
        'commit': provenance.get_commit(),
        'hardware': provenance.get_hardware(),
      },
      sort_keys=True,
    )
  )


if __name__ == '__main__':
  if sys.argv[1:2] == [_TIMED]:
    _run_timed(float(sys.argv[2]), sys.argv[3], sys.argv[4:])
  else:
    main()
