"""kill -9 at random moments of a run of one process."""

import signal

import pytest

from tests import runs
from tests.faults import moments

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('seed', range(10))
def test_killed_anywhere_it_ends_with_the_same_bytes(
  whole, data_dir, tmp_path, seed
):
  moment = moments.draw(seed)
  workdir = tmp_path / 'w'
  with runs.start_quick(data_dir, workdir) as running:
    find_process = lambda: running.process.pid
    moments.kill(running, workdir, moment, find_process)
    assert running.finish().returncode == -signal.SIGKILL
  assert moments.is_saving(workdir) or moment.delay_seconds is not None
  done = runs.run_quick(data_dir, workdir)
  assert done.returncode == 0, done.stderr
  assert done.stderr == ''
  runs.check_same_end(workdir, whole)
  assert not moments.is_saving(workdir)
