"""kill -9 at random moments: of a run of one process, and of one of two."""

import pathlib
import signal

import pytest

from tests import runs
from tests.faults import moments

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('seed', range(10))
def test_killed_anywhere_it_ends_with_the_same_bytes(
  whole, data_dir, tmp_path, seed
):
  moment, workdir = moments.draw(seed), tmp_path / 'w'
  with runs.start_quick(data_dir, workdir) as running:
    moments.kill(running, workdir, moment, lambda: running.process.pid)
    assert running.finish().returncode == -signal.SIGKILL
  assert moments.is_saving(workdir) or moment.delay_seconds is not None
  done = runs.run_quick(data_dir, workdir)
  assert (done.returncode, done.stderr) == (0, '')
  runs.check_same_end(workdir, whole)
  assert not moments.is_saving(workdir)


@pytest.mark.skipif(
  not pathlib.Path('/proc/self/stat').exists(), reason='finds them in /proc'
)
@pytest.mark.parametrize('seed', range(10, 20))
def test_the_launcher_starts_both_again_to_the_same_bytes(
  whole_on_two, data_dir, tmp_path, seed
):
  moment, victim = moments.draw(seed), seed // 2 % 2
  workdir = tmp_path / 'w'
  words = runs.launch(*runs.QUICK, f'--workdir={workdir}')
  with runs.start(words, runs.quick_environment(data_dir)) as running:
    launcher = running.process.pid
    find_process = lambda: moments.find_process(launcher, victim)
    moments.kill(running, workdir, moment, find_process)
    done = running.finish()
  assert done.returncode == 0, done.stderr
  said = [x for x in done.stderr.splitlines() if x.startswith('hq_jax: ')]
  assert said[-2:] == [
    f'hq_jax: process {victim} was killed by signal 9',
    'hq_jax: starting again: restart 1 of 3',
  ]
  runs.check_same_end(workdir, whole_on_two)
  assert not moments.is_saving(workdir)
