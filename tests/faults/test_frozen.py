"""Processes that are frozen, as those of a host that is gone seem to be."""

import os
import pathlib
import signal
import time

import pytest

from tests import runs
from tests.faults import moments

pytestmark = pytest.mark.slow


@pytest.mark.skipif(
  not pathlib.Path('/proc/self/stat').exists(), reason='finds them in /proc'
)
@pytest.mark.parametrize('victim', [0, 1])
def test_the_launcher_kills_it_and_the_run_goes_on(
  whole_on_two, data_dir, tmp_path, victim
):
  workdir = tmp_path / 'w'
  words = runs.launch(*runs.QUICK, f'--workdir={workdir}')
  with runs.start(words, runs.quick_environment(data_dir)) as running:
    running.wait_until(lambda: runs.num_rows(workdir) >= 1)
    pid = moments.find_process(running.process.pid, victim)
    os.kill(pid, signal.SIGSTOP)
    begin = time.monotonic()
    running.wait_until(lambda: not pathlib.Path(f'/proc/{pid}').exists())
    assert 29 < time.monotonic() - begin < 50
    done = running.finish()
  assert done.returncode == 0, done.stderr
  said = [x for x in done.stderr.splitlines() if x.startswith('hq_jax: ')]
  # Between them, the other may say that it lost its partner.
  assert said[0] == (
    f'hq_jax: process {victim} has been frozen for 30 seconds, killing it'
  )
  assert said[-2:] == [
    f'hq_jax: process {victim} was killed by signal 9',
    'hq_jax: starting again: restart 1 of 3',
  ]
  runs.check_same_end(workdir, whole_on_two)


@pytest.mark.parametrize('victim', [0, 1])
def test_the_others_leave_where_no_launcher_sees_it(data_dir, tmp_path, victim):
  workdir = tmp_path / 'w'
  with runs.start_two(data_dir, workdir) as both:
    both[0].wait_until(lambda: runs.num_rows(workdir) >= 1)
    both[victim].send(signal.SIGSTOP)
    done = both[1 - victim].finish(timeout=110)
  assert done.returncode == -signal.SIGABRT
  # The same command would go on.
  assert not (workdir / 'report.json').exists()
