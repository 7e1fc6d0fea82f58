"""Where quick runs find what is compiled, and how they end undisturbed."""

import fcntl
import os

import pytest

from tests import runs


@pytest.fixture(scope='session')
def shared(tmp_path_factory):
  """A folder that all workers of pytest share."""
  folder = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    folder = folder.parent
  found = folder / 'faults'
  found.mkdir(exist_ok=True)
  return found


@pytest.fixture(scope='session')
def data_dir(shared):
  """One for all workers, so that they compile once."""
  found = shared / 'data'
  found.mkdir(exist_ok=True)
  return found


def _run_once(shared, data_dir, name, num_devices):
  """The folder of a quick run; the first worker that needs it makes it."""
  workdir = shared / name
  with open(shared / f'{name}.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not (workdir / 'report.json').exists():
      done = runs.run_quick(data_dir, workdir, num_devices=num_devices)
      assert (done.returncode, done.stderr) == (0, '')
  return workdir


@pytest.fixture(scope='session')
def whole(shared, data_dir):
  """The folder of a quick run that nothing stopped, on one device."""
  return _run_once(shared, data_dir, 'whole', 1)


@pytest.fixture(scope='session')
def whole_on_two(shared, data_dir):
  """The same of one process with two devices.

  Two processes with one each compute the same: see test_processes.py.
  """
  return _run_once(shared, data_dir, 'whole_on_two', 2)
