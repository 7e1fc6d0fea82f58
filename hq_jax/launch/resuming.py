"""Brings a run on Cloud TPU VMs back, again after each preemption."""

from collections.abc import Sequence
import subprocess
import sys
import time

from hq_jax.launch import commands
from hq_jax.launch import tpu_runs
from hq_jax.launch import tpu_vm

# States out of which a slice comes by itself, and those out of which it never
# does.
_PASSING = (
  *('CREATING', 'STARTING', 'RESTARTING', 'REPAIRING', 'REIMAGING'),
  *('STOPPING', 'DELETING'),
)
_LOST = ('PREEMPTED', 'TERMINATED')


def plan(
  pod: tpu_vm.Pod, state: str, root: str, run: Sequence[commands.Command]
) -> list[commands.Command]:
  """What brings a run back."""
  if state == 'READY':
    return list(run)
  return [*_make(pod, state), *_fill(pod, root), *run]


def _make(pod: tpu_vm.Pod, state: str) -> list[commands.Command]:
  if state and state not in _LOST:
    raise ValueError(
      f'{pod.name} is {state}, wanted READY, {", ".join(_LOST)} or no slice of'
      ' that name: start or delete it'
    )
  return [*(tpu_vm.delete(pod) if state else []), *tpu_vm.create(pod)]


def _fill(pod: tpu_vm.Pod, root: str) -> list[commands.Command]:
  return [*tpu_vm.copy(pod, root), *tpu_vm.install(pod)]


def resume(
  pod: tpu_vm.Pod,
  root: str,
  run: Sequence[commands.Command],
  max_restarts: int,
  watch_seconds: float | None = None,
) -> int:
  """Brings a run back, and keeps it there if it is to be watched."""
  restarts = 0
  is_reached = is_empty = False
  pause = 30.0 if watch_seconds is None else watch_seconds
  while True:
    state = _read(tpu_runs.find_state(pod))
    if state is None and not is_reached:
      return 1  # gcloud has said why.
    is_reached = True
    if state is None or state in _PASSING:
      time.sleep(pause)
      continue
    if state != 'READY':
      status = commands.run_all(_make(pod, state))
      if status != 0 and watch_seconds is None:
        return status
      if status != 0:
        # There may be none to be had for hours, which is no fault of the run.
        _say(f'{pod.name} could not be made: trying again')
        time.sleep(pause)
        continue
      is_empty = True
    status = commands.run_all([*(_fill(pod, root) if is_empty else []), *run])
    is_empty = is_empty and status != 0
    if watch_seconds is None or (status == 0 and _watch(pod, watch_seconds)):
      return status
    if restarts >= max_restarts:
      _say(f'that was restart {restarts} of {max_restarts}: giving up')
      return status or 1
    restarts += 1
    _say(f'making {pod.name} again: restart {restarts} of {max_restarts}')
    time.sleep(pause)


def _watch(pod: tpu_vm.Pod, seconds: float) -> bool:
  """Waits until the run has ended (True) or its slice is gone (False)."""
  while True:
    time.sleep(seconds)
    state = _read(tpu_runs.find_state(pod))
    if state is None or state in _PASSING:
      continue  # The network, or Google, is busy; the run may well go on.
    if state != 'READY':
      _say(f'{pod.name} is {state or "gone"}')
      return False
    activity = _read(tpu_runs.find_activity(pod))
    if activity in ('inactive', 'failed', 'unknown'):
      _say(f'the run on {pod.name} has ended; `logs` shows how')
      return True


def _read(command: commands.Command) -> str | None:
  """What a command prints, or None where it fails."""
  done = subprocess.run(command.words, stdout=subprocess.PIPE, text=True)
  return done.stdout.strip() if done.returncode == 0 else None


def _say(text: str) -> None:
  print(f'hq_jax: {text}', file=sys.stderr, flush=True)
