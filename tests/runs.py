"""Runs of the program as a user starts it: in a process of its own."""

import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
DEBUG = 'configs/digits.py:debug'


def command(*arguments: str) -> list[str]:
  return [sys.executable, '-m', 'hq_jax.main', *arguments]


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


def run(
  data_dir: pathlib.Path, *arguments: str, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    command(*arguments),
    cwd=ROOT,
    env=environment(data_dir),
    capture_output=True,
    text=True,
    timeout=timeout,
    check=False,
  )


def num_rows(workdir: pathlib.Path) -> int:
  path = workdir / 'metrics.jsonl'
  return path.read_text().count('\n') if path.exists() else 0


def run_and_stop(
  data_dir: pathlib.Path,
  workdir: pathlib.Path,
  rows: int,
  delay_seconds: float = 0.0,
  how: signal.Signals = signal.SIGKILL,
  config: str = f'--config={DEBUG}',
) -> subprocess.CompletedProcess[str]:
  """Stops a debug run so long after its metrics have so many rows."""
  arguments = command(config, f'--workdir={workdir}')
  # A shell that runs the tests in the background has it ignored, and what is
  # ignored here is ignored by the process that is started.
  if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
  process = subprocess.Popen(
    arguments,
    cwd=ROOT,
    env=environment(data_dir),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    deadline = time.monotonic() + 300
    while num_rows(workdir) < rows:
      assert process.poll() is None, 'the run ended before it could be stopped'
      assert time.monotonic() < deadline, 'the run is stuck'
      time.sleep(0.02)
    time.sleep(delay_seconds)
    process.send_signal(how)
    stdout, stderr = process.communicate(timeout=120)
  finally:
    process.kill()
    process.wait()
  return subprocess.CompletedProcess(
    arguments, process.returncode, stdout, stderr
  )
