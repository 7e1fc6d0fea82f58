"""The script of a job, run with programs that stand for Slurm's."""

import os
import shlex
import signal
import subprocess
import time

import pytest

from hq_jax.launch import slurm

# Notes its words, runs the task behind its own flags, and gives what that
# leaves with; or, as Slurm does where it had to kill another task, 137.
_SRUN = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$NOTES/srun"
while [[ $1 == --* ]]; do shift; done
if [[ -e $NOTES/full ]]; then ulimit -f 0; fi
"$@" &
wait $! || status=$?
wait
if [[ -e $NOTES/killed ]]; then status=137; fi
exit "${status:-0}"
"""
_NOTE = '#!/usr/bin/env bash\necho "$@" >> "$NOTES/${0##*/}"\n'
_PROGRAM = '#!/usr/bin/env bash\ntouch "$NOTES/begun"\n'


def _write(path, text):
  path.write_text(text)
  path.chmod(0o755)


@pytest.fixture
def start(tmp_path):
  """Starts a script whose program does as `deed` says, in shell."""
  bin_ = tmp_path / 'bin'
  bin_.mkdir()
  for name, text in (('srun', _SRUN), ('scontrol', _NOTE)):
    _write(bin_ / name, text)

  def start_(deed, restarts=None, fast=True):
    if fast:
      _write(bin_ / 'sleep', _NOTE)
    _write(tmp_path / 'a program', f'{_PROGRAM}{deed}\n')
    program = (str(tmp_path / 'a program'), '--config=a', "--config.b=it's c")
    script = slurm.make_script(program, 1, 1, 2, {})
    # sbatch takes it over as it is.
    _write(tmp_path / 'script', script)
    environment = {
      'PATH': f'{bin_}:{os.environ["PATH"]}',
      'NOTES': str(tmp_path),
      'SLURM_JOB_ID': '77',
    }
    if restarts is not None:
      environment['SLURM_RESTART_COUNT'] = str(restarts)
    return subprocess.Popen(
      [tmp_path / 'script'],
      cwd=tmp_path,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  return start_


def _read(path):
  return path.read_text() if path.exists() else ''


def test_a_script_has_one_process_for_each_gpu():
  options = {'cpus-per-task': 6, 'time': '1-00:00:00', 'partition': 'gpu'}
  script = slurm.make_script(('py', '-m', "it's a"), 2, 8, 5, options)
  lines = script.splitlines()
  assert lines[0] == '#!/usr/bin/env bash'
  directives = [line for line in lines if line.startswith('#SBATCH')]
  # Slurm reads them up to the first command.
  assert lines[1 : 1 + len(directives)] == directives
  assert [line.removeprefix('#SBATCH --') for line in directives] == [
    *('nodes=2', 'ntasks-per-node=8', 'gpus-per-node=8', 'cpus-per-task=6'),
    *('time=1-00:00:00', 'partition=gpu'),
    *('signal=TERM@120', 'open-mode=append', 'requeue'),
  ]
  (srun,) = (line for line in lines if line.startswith('srun'))
  assert shlex.split(srun) == [
    *('srun', '--kill-on-bad-exit=1', '--wait=0', '--gpu-bind=none'),
    *('--cpus-per-task=6', 'bash', '-c', '$process', 'hq_jax'),
    *('py', '-m', "it's a", '||', 'status=$?'),
  ]


@pytest.mark.parametrize(
  ('deed', 'restarts', 'status', 'is_requeued'),
  [
    ('exit 0', None, 0, False),
    ('exit 2', None, 2, False),
    ('exit 3', None, 3, False),
    ('exit 130', None, 130, False),
    ('exit 143', None, 0, True),
    ('exit 1', None, 0, True),
    ('kill -9 $$', 1, 0, True),
    ('exit 1', 2, 1, False),
    ('exit 143', 2, 143, False),
  ],
)
def test_what_follows_a_status(
  start, tmp_path, deed, restarts, status, is_requeued
):
  process = start(deed, restarts)
  _, errors = process.communicate(timeout=20)
  assert process.returncode == status, errors
  wanted = 'requeue 77\n' if is_requeued else ''
  assert _read(tmp_path / 'scontrol') == wanted
  words = _read(tmp_path / 'srun').splitlines()
  assert words[-2:] == ['--config=a', "--config.b=it's c"]
  assert not list(tmp_path.glob('.hq_jax*'))
  # Who has saved gives the others the time to.
  waits = deed in ('exit 130', 'exit 143')
  assert _read(tmp_path / 'sleep') == ('15\n' if waits else '')


@pytest.mark.parametrize('is_full', [False, True])
@pytest.mark.parametrize('status', [2, 3])
def test_a_refusal_outweighs_that_others_were_killed(
  start, tmp_path, status, is_full
):
  (tmp_path / 'killed').touch()
  if is_full:  # It is noted where nothing can be written, too.
    (tmp_path / 'full').touch()
  process = start(f'exit {status}')
  process.communicate(timeout=20)
  assert process.returncode == status
  assert not (tmp_path / 'scontrol').exists()


def _wait_until_it_begins(tmp_path):
  end = time.monotonic() + 20
  while not (tmp_path / 'begun').exists():
    assert time.monotonic() < end
    time.sleep(0.02)


def test_a_cancelled_job_does_not_come_again(start, tmp_path):
  process = start('exec sleep 60', fast=False)
  _wait_until_it_begins(tmp_path)
  # As scancel does, but for the process, which dies of something else.
  process.send_signal(signal.SIGTERM)
  (program,) = _children(_find_task(process.pid))
  os.kill(program, signal.SIGKILL)
  _, errors = process.communicate(timeout=20)
  assert process.returncode == 137
  assert errors.splitlines()[-1] == 'hq_jax: cancelled, status 137'
  assert not (tmp_path / 'scontrol').exists()


def _children(pid):
  done = subprocess.run(
    ['pgrep', '-P', str(pid)], capture_output=True, text=True
  )
  return [int(word) for word in done.stdout.split()]


def _find_task(pid):
  """The shell that waits for the program: srun's child."""
  (srun,) = _children(pid)
  (task,) = _children(srun)
  return task


def test_the_process_hears_a_signal_and_its_shell_outlives_it(start, tmp_path):
  deed = 'trap "exit 143" TERM; while :; do read -t 0.05 < <(:); done'
  process = start(deed)
  _wait_until_it_begins(tmp_path)
  time.sleep(0.1)
  task = _find_task(process.pid)
  # Slurm signals each process of the task.
  for pid in (task, *_children(task)):
    os.kill(pid, signal.SIGTERM)
  process.communicate(timeout=20)
  # The shell was there to see that it saved.
  assert _read(tmp_path / 'sleep') == '15\n'
  assert _read(tmp_path / 'scontrol') == 'requeue 77\n'
