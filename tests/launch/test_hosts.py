"""Processes behind terminals, as those of `ssh -tt` are."""

import shutil
import signal
import subprocess
import sys
import time

import pytest

# Runs the line for the remote shell on a terminal of its own.
_SSH = """#!/usr/bin/env bash
exec script --quiet --return --command "${@: -1}" /dev/null
"""
_PROGRAM = """#!{python} -S
import pathlib, signal, sys, time
me = sys.argv[-1][-1]
def stop(number, frame):
  time.sleep(0.2)  # It saves.
  pathlib.Path('got' + me).write_text(str(number))
  sys.exit(128 + number)
signal.signal(signal.SIGINT, stop)
pathlib.Path('begun' + me).touch()
time.sleep(60)
"""


@pytest.mark.skipif(shutil.which('script') is None, reason='needs script(1)')
def test_remote_processes_are_interrupted_and_may_save(tmp_path):
  folder = tmp_path / 'a checkout'
  folder.mkdir()
  for path, text in (
    (tmp_path / 'ssh', _SSH),
    (folder / 'program', _PROGRAM.format(python=sys.executable)),
  ):
    path.write_text(text)
    path.chmod(0o755)
  launcher = subprocess.Popen(
    [
      *(sys.executable, '-m', 'hq_jax.launch', 'hosts', '--hosts=a,b'),
      *('--python=./program', f'--folder={folder}'),
      *('--config=c', '--workdir=w'),
    ],
    env={'PATH': f'{tmp_path}:/usr/bin:/bin', 'SHELL': '/bin/sh'},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  end = time.monotonic() + 20
  while len(list(folder.glob('begun*'))) < 2:
    assert launcher.poll() is None
    assert time.monotonic() < end
    time.sleep(0.05)
  launcher.send_signal(signal.SIGTERM)
  launcher.communicate(timeout=20)
  # Its own signal, whatever the processes were told.
  assert launcher.returncode == 143
  assert [path.read_text() for path in folder.glob('got*')] == ['2', '2']


@pytest.mark.slow
def test_what_is_left_of_a_start_has_time_to_go(tmp_path):
  ssh = tmp_path / 'ssh'
  ssh.write_text('#!/bin/sh\nexit 1\n')
  ssh.chmod(0o755)
  launcher = subprocess.Popen(
    [
      *(sys.executable, '-m', 'hq_jax.launch', 'hosts', '--hosts=a'),
      *('--config=c', '--workdir=w'),
    ],
    env={'PATH': f'{tmp_path}:/usr/bin:/bin'},
    stderr=subprocess.PIPE,
    text=True,
  )
  assert launcher.stderr.readline().endswith('left with status 1\n')
  assert launcher.stderr.readline().endswith('restart 1 of 3\n')
  time.sleep(2)
  launcher.terminate()
  _, errors = launcher.communicate(timeout=20)
  assert (launcher.returncode, errors) == (143, '')
