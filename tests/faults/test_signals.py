"""SIGTERM and SIGINT: the run saves, leaves, and goes on to the same bytes."""

import os
import re
import signal
import sys
import time

import pytest

from tests import runs
from tests.faults import moments

pytestmark = pytest.mark.slow

_SAVED = (
  r'hq_jax: {name}: step (\d+) of stage (\w+) is saved; the same command goes'
  ' on'
)
_UNCOMPILED = {'JAX_ENABLE_COMPILATION_CACHE': 'false'}


def _asked(name):
  return (
    f'hq_jax: {name}: finishing the step and saving; once more quits at once'
  )


def _check_saved(done, how):
  """That it saved and left as asked; the step and the stage."""
  assert done.returncode == 128 + how
  asked, saved = done.stderr.splitlines()
  assert asked == _asked(how.name)
  return re.fullmatch(_SAVED.format(name=how.name), saved).groups()


def _goes_on(data_dir, workdir, expected, num_devices=1):
  done = runs.run_quick(data_dir, workdir, num_devices=num_devices)
  assert (done.returncode, done.stderr) == (0, '')
  runs.check_same_end(workdir, expected)


@pytest.mark.parametrize(
  ('how', 'stage', 'num_saves', 'delay_seconds'),
  [
    (signal.SIGTERM, 'dense', 1, 0.0),
    (signal.SIGINT, 'compress', 5, 0.02),
  ],
)
def test_one_process_saves_and_goes_on(
  whole, data_dir, tmp_path, how, stage, num_saves, delay_seconds
):
  workdir = tmp_path / 'w'
  with runs.start_quick(data_dir, workdir) as running:
    moments.wait(running, workdir, num_saves)
    time.sleep(delay_seconds)
    running.send(how)
    done = running.finish()
  step, of_stage = _check_saved(done, how)
  assert of_stage == stage
  assert moments.find_saves(workdir)[f'checkpoints/{stage}/{step}']
  assert not moments.is_saving(workdir)
  _goes_on(data_dir, workdir, whole)


def test_while_an_epoch_is_evaluated_it_saves_and_goes_on(
  whole, data_dir, tmp_path
):
  workdir = tmp_path / 'w'
  # Nothing is compiled yet: so the evaluation takes a while.
  with runs.start_quick(data_dir, workdir, **_UNCOMPILED) as running:
    # Of step 9; the epoch has one step more.
    moments.wait(running, workdir, 3)
    time.sleep(0.05)
    running.send(signal.SIGINT)
    done = running.finish()
  assert _check_saved(done, signal.SIGINT) == ('10', 'dense')
  assert runs.num_rows(workdir) == 0  # The epoch was trained, not evaluated.
  _goes_on(data_dir, workdir, whole)


def test_a_second_signal_quits_at_once(whole, data_dir, tmp_path):
  workdir = tmp_path / 'w'
  with runs.start_quick(data_dir, workdir, **_UNCOMPILED) as running:
    # What comes next is compiled, for seconds.
    running.wait_until((workdir / 'checkpoints' / 'dense').exists)
    running.send(signal.SIGTERM)
    # Read by the run's own thread, beside the compiler.
    assert running.process.stderr.readline() == f'{_asked("SIGTERM")}\n'
    running.send(signal.SIGINT)
    done = running.finish()
  assert done.returncode == 130
  assert done.stderr == (
    'hq_jax: SIGINT: interrupted; the same command goes on\n'
  )
  assert moments.find_saves(workdir) == {}
  _goes_on(data_dir, workdir, whole)


def test_two_processes_save_the_same_step(whole_on_two, data_dir, tmp_path):
  workdir = tmp_path / 'w'
  with runs.start_two(data_dir, workdir) as both:
    moments.wait(both[0], workdir, 6)
    both[1].send(signal.SIGTERM)
    ends = [running.finish() for running in both]
  assert [done.returncode for done in ends] == [143, 143]
  said = [
    [line for line in done.stderr.splitlines() if line.startswith('hq_jax:')]
    for done in ends
  ]
  assert said[1][0] == _asked('SIGTERM')
  # The same step, in the words of both.
  assert said[0] == said[1][1:]
  found = re.fullmatch(_SAVED.format(name='SIGTERM'), said[0][0])
  step, stage = found.groups()
  assert stage == 'compress'
  newest = max(int(x) for x in os.listdir(workdir / 'checkpoints' / stage))
  assert newest == int(step)
  with runs.start_two(data_dir, workdir) as both:
    ends = [running.finish() for running in both]
  assert [done.returncode for done in ends] == [0, 0]
  runs.check_same_end(workdir, whole_on_two)


def test_a_launcher_of_one_process_hands_the_signal_on(
  whole, data_dir, tmp_path
):
  workdir = tmp_path / 'w'
  words = [sys.executable, '-m', 'hq_jax.launch', 'local', '--processes=1']
  words += [*runs.QUICK, f'--workdir={workdir}']
  with runs.start(words, runs.quick_environment(data_dir)) as running:
    moments.wait(running, workdir, 2)
    running.send(signal.SIGTERM)
    done = running.finish()
  assert done.returncode == 143
  assert _asked('SIGTERM') in done.stderr.splitlines()
  assert not (workdir / 'report.json').exists()
  _goes_on(data_dir, workdir, whole)
