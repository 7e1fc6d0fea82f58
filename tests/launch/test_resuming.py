"""Resuming, with a program on PATH that stands for gcloud."""

import os
import signal
import subprocess
import sys

import pytest

from hq_jax.launch import resuming
from hq_jax.launch import tpu_runs
from hq_jax.launch import tpu_vm
from tests import runs

# Notes what it is asked to do; answers a question with the next line of a file.
_GCLOUD = """#!/usr/bin/env bash
verb=$4
case "$verb $*" in
  list*) verb=state ;;
  *is-active\\ hq_jax\\ *) verb=activity ;;
esac
echo "$verb" >> "$NOTES/asked"
if [[ $verb == "$FAILING" ]]; then exit 7; fi
if [[ -s $NOTES/$verb ]]; then
  answer=$(head -n 1 "$NOTES/$verb")
  sed -i 1d "$NOTES/$verb"
  if [[ $answer == unreachable ]]; then exit 1; fi
  echo "$answer"
fi
"""


@pytest.fixture
def resume(tmp_path, monkeypatch):
  bin_ = tmp_path / 'bin'
  bin_.mkdir()
  (bin_ / 'gcloud').write_text(_GCLOUD)
  (bin_ / 'gcloud').chmod(0o755)
  root = tmp_path / 'checkout'
  root.mkdir()
  monkeypatch.setenv('PATH', f'{bin_}:{os.environ["PATH"]}')
  monkeypatch.setenv('NOTES', str(tmp_path))
  monkeypatch.setenv('TMPDIR', str(tmp_path))

  def resume_(
    states,
    activities=(),
    failing='',
    max_restarts=3,
    watch_seconds=0.0,
    creations=(),
  ):
    monkeypatch.setenv('FAILING', failing)
    for name, lines in (
      *(('state', states), ('activity', activities)),
      ('create', creations),
    ):
      (tmp_path / name).write_text(''.join(f'{line}\n' for line in lines))
    pod = tpu_vm.check(tpu_vm.Pod('pod', 'us-west4-a'))
    run = tpu_runs.run(pod, ['--config=a'], 3)
    status = resuming.resume(pod, str(root), run, max_restarts, watch_seconds)
    return status, (tmp_path / 'asked').read_text().split()

  return resume_


_MAKE = ['create', 'scp', 'ssh', 'ssh', 'ssh']


def test_a_slice_that_is_there_only_gets_the_run(resume):
  assert resume(['READY'], watch_seconds=None) == (0, ['state', 'ssh'])


def test_a_slice_that_is_not_there_is_made(resume):
  assert resume([''], watch_seconds=None) == (0, ['state', *_MAKE])


def test_the_run_comes_back_after_a_preemption_and_ends(resume):
  states = ['READY', 'READY', 'PREEMPTED', 'PREEMPTED', 'REPAIRING', 'READY']
  status, asked = resume(states, ['active', 'inactive'])
  assert status == 0
  assert asked == [
    *('state', 'ssh', 'state', 'activity', 'state'),
    *('state', 'delete', *_MAKE),
    *('state', 'state', 'activity'),
  ]


def test_a_network_that_breaks_is_no_preemption(resume):
  states = ['READY', 'unreachable', 'READY', 'READY']
  status, asked = resume(states, ['unreachable', 'inactive'])
  assert status == 0
  assert asked == [
    *('state', 'ssh', 'state', 'state', 'activity', 'state', 'activity')
  ]


def test_the_limit_holds(resume, capfd):
  status, asked = resume(['PREEMPTED'] * 9, max_restarts=2)
  assert status == 1
  assert asked.count('create') == 3
  assert 'restart 2 of 2: giving up' in capfd.readouterr().err


def test_nothing_is_deleted_where_the_state_is_not_known(resume):
  assert resume(['READY'], failing='state') == (1, ['state'])


def test_a_network_that_breaks_later_is_waited_for(resume):
  states = ['READY', 'PREEMPTED', 'unreachable', 'READY', 'READY']
  status, asked = resume(states, ['inactive'])
  assert status == 0
  assert asked == [
    *('state', 'ssh', 'state', 'state', 'state', 'ssh', 'state', 'activity')
  ]


def test_a_slice_that_is_not_to_be_had_is_asked_for_again(resume):
  states = ['PREEMPTED', '', '', 'READY']
  creations = ['unreachable', 'unreachable', 'made']
  status, asked = resume(
    states, ['inactive'], max_restarts=0, creations=creations
  )
  assert status == 0
  assert asked == [
    *('state', 'delete', 'create', 'state', 'create'),
    *('state', *_MAKE, 'state', 'activity'),
  ]


def test_a_slice_that_cannot_be_made_is_said_where_nobody_watches(resume):
  asked = resume([''], failing='create', watch_seconds=None)
  assert asked == (7, ['state', 'create'])


def test_a_slice_that_was_made_and_not_filled_is_filled(resume):
  states = ['', 'READY', 'READY', 'READY']
  status, asked = resume(states, failing='scp', max_restarts=1)
  assert status == 7
  assert asked == ['state', 'create', 'scp', 'state', 'scp']


@pytest.mark.parametrize('state', ['STOPPED', 'HIDDEN', 'UNKNOWN'])
def test_a_slice_that_somebody_has_stopped_is_left_alone(
  resume, tmp_path, state
):
  with pytest.raises(ValueError, match=f'^pod is {state}, wanted READY, ') as e:
    resume([state])
  assert '\n' not in str(e.value)
  assert (tmp_path / 'asked').read_text().split() == ['state']


def test_an_interrupt_ends_it_quietly(tmp_path):
  gcloud = tmp_path / 'gcloud'
  gcloud.write_text('#!/bin/sh\necho begun\nexec sleep 60\n')
  gcloud.chmod(0o755)
  words = [
    *(sys.executable, '-m', 'hq_jax.launch', 'tpu_pod', 'logs'),
    *('--name=a', '--zone=us-west4-a'),
  ]
  with runs.start(words, {'PATH': f'{tmp_path}:/usr/bin:/bin'}) as running:
    assert running.process.stdout.readline() == 'begun\n'
    running.send(signal.SIGINT)
    done = running.finish(timeout=20)
  assert (done.returncode, done.stderr) == (130, '')


def test_a_missing_gcloud_is_one_line(tmp_path):
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'hq_jax.launch', 'tpu_pod', 'delete'),
      *('--name=a', '--zone=us-west4-a'),
    ],
    env={'PATH': str(tmp_path)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2
  assert done.stderr == 'hq_jax: gcloud: No such file or directory\n'
