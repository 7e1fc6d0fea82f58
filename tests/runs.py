"""Runs of the program as a user starts it: in a process of its own."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from hq_jax.launch import local
from tests import compiling

ROOT = pathlib.Path(__file__).resolve().parents[1]
DEBUG = 'configs/digits.py:debug'
# Of one narrow block.
SMALL = (
  f'--config={DEBUG},ratio=10',
  '--config.model.widths=(8,)',
  '--config.model.num_blocks=(1,)',
)
# All phases, 40 steps and 16 saves in the time of a few: a network that learns
# nothing tells as well whether two runs are the same.
QUICK = (
  *SMALL,
  '--config.batch_size=128',
  '--config.dense.epochs=1',
  '--config.prune.epochs=1',
  '--config.checkpoint.every_steps=3',
)


def command(*arguments: str) -> list[str]:
  return [sys.executable, '-m', 'hq_jax.main', *arguments]


def limited(kilobytes: int, words: Sequence[str]) -> list[str]:
  """The words in an address space that is no larger."""
  return ['bash', '-c', f'ulimit -v {kilobytes}; exec "$@"', 'bash', *words]


def launch(*arguments: str) -> list[str]:
  """Of two processes that a launcher watches."""
  words = 'hq_jax.launch', 'local', '--processes=2'
  return [sys.executable, '-m', *words, *arguments]


def environment(data_dir: pathlib.Path) -> dict[str, str]:
  """Of a run; runs with the same parent of `data_dir` compile once."""
  kept = {k: v for k, v in os.environ.items() if not k.startswith('XLA_')}
  return kept | {
    'TFDS_DATA_DIR': str(data_dir),
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': str(data_dir.parent / 'compiled'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
  }


def quick_environment(
  data_dir: pathlib.Path, num_devices: int = 1
) -> dict[str, str]:
  """Of a run that has more to compile than to compute."""
  return environment(data_dir) | {
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    'XLA_FLAGS': compiling.QUICK_FLAGS,
    'JAX_NUM_CPU_DEVICES': str(num_devices),
  }


def run(
  data_dir: pathlib.Path, *arguments: str, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
  with start(command(*arguments), environment(data_dir)) as running:
    return running.finish(timeout)


def start_quick(
  data_dir: pathlib.Path,
  workdir: pathlib.Path,
  *arguments: str,
  num_devices: int = 1,
  **settings: str,
) -> contextlib.AbstractContextManager['Running']:
  """Starts a quick run; settings are of its environment."""
  words = command(*QUICK, f'--workdir={workdir}', *arguments)
  return start(words, quick_environment(data_dir, num_devices) | settings)


def run_quick(
  data_dir: pathlib.Path,
  workdir: pathlib.Path,
  *arguments: str,
  num_devices: int = 1,
) -> subprocess.CompletedProcess[str]:
  """A quick run from where it is to its end."""
  with start_quick(
    data_dir, workdir, *arguments, num_devices=num_devices
  ) as running:
    return running.finish()


def only_line(done: subprocess.CompletedProcess[str]) -> str:
  """The one line on stderr; where there are others, they are shown."""
  lines = done.stderr.splitlines()
  assert len(lines) == 1, done.stderr
  return lines[0]


class Running:
  """A process that was started by `start`.

  Attributes:
    process: it.
  """

  def __init__(self, process: subprocess.Popen[str]):
    self.process = process

  def wait_until(
    self, condition: Callable[[], object], timeout: float = 120
  ) -> None:
    """Looks many times a second; the process must not end before."""
    deadline = time.monotonic() + timeout
    while not condition():
      assert self.process.poll() is None, 'it ended before it came so far'
      assert time.monotonic() < deadline, 'it is stuck'
      time.sleep(0.003)

  def send(self, how: signal.Signals) -> None:
    assert self.process.poll() is None, 'it ended before the signal'
    self.process.send_signal(how)

  def finish(self, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Waits for the end; what it printed."""
    stdout, stderr = self.process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(
      self.process.args, self.process.returncode, stdout, stderr
    )


@contextlib.contextmanager
def start(words: Sequence[str], env: dict[str, str]) -> Iterator[Running]:
  """A process that does not outlive the block, nor do its children."""
  process = subprocess.Popen(
    words,
    cwd=ROOT,
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  with process:  # Closes its pipes.
    try:
      yield Running(process)
    finally:
      if process.poll() is None:
        # The processes of a launcher die with it.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def start_two(
  data_dir: pathlib.Path, workdir: pathlib.Path, *arguments: str
) -> Iterator[tuple[Running, Running]]:
  """Both processes of a quick run, without a launcher."""
  env = quick_environment(data_dir)
  words = command(
    *(*QUICK, f'--workdir={workdir}', *arguments),
    f'--coordinator=127.0.0.1:{local.find_free_port()}',
    '--num_processes=2',
  )
  with (
    start([*words, '--process_id=0'], env) as first,
    start([*words, '--process_id=1'], env) as second,
  ):
    yield first, second


def num_rows(workdir: pathlib.Path) -> int:
  path = workdir / 'metrics.jsonl'
  return path.read_text().count('\n') if path.exists() else 0


def run_and_stop(
  data_dir: pathlib.Path, workdir: pathlib.Path, rows: int, config: str
) -> None:
  """Kills a run as soon as its metrics have so many rows."""
  words = command(config, f'--workdir={workdir}')
  with start(words, environment(data_dir)) as running:
    running.wait_until(lambda: num_rows(workdir) >= rows, timeout=300)
    running.send(signal.SIGKILL)
    running.finish()


def deterministic_rows(workdir: pathlib.Path) -> list[dict[str, object]]:
  """Of the metrics, without what a clock says."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return without_time(map(json.loads, lines))


def without_time(
  rows: Iterable[Mapping[str, object]],
) -> list[dict[str, object]]:
  """The rows of metrics, without what a clock says."""
  of_time = {'seconds', 'digest'}
  return [{k: v for k, v in row.items() if k not in of_time} for row in rows]


def check_same_end(workdir: pathlib.Path, expected: pathlib.Path) -> None:
  for name in ('model.hq', 'config.json'):
    assert (workdir / name).read_bytes() == (expected / name).read_bytes()
  assert deterministic_rows(workdir) == deterministic_rows(expected)
