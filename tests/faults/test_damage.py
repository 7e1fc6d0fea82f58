"""Damaged checkpoints of a run that was stopped: an older one takes over."""

import os
import shutil
import signal

import pytest

from tests import runs
from tests.faults import moments

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def stopped(data_dir, tmp_path_factory):
  """The folder of a run that was stopped in its second stage."""
  workdir = tmp_path_factory.mktemp('stopped') / 'w'
  with runs.start_quick(data_dir, workdir) as running:
    moments.wait(running, workdir, 8)
    running.send(signal.SIGTERM)
    assert running.finish().returncode == 143
  return workdir


@pytest.fixture
def workdir(stopped, tmp_path):
  """A copy to damage."""
  return shutil.copytree(stopped, tmp_path / 'w')


def _steps(workdir):
  """Of the second stage, the oldest first."""
  folder = workdir / 'checkpoints' / 'compress'
  return [folder / str(x) for x in sorted(map(int, os.listdir(folder)))]


def _flip(step):
  # The arrays that are merged at the end of a save.
  path = max((step / 'state' / 'd').iterdir(), key=lambda p: p.stat().st_size)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 16
  path.write_bytes(data)


def _truncate(step):
  path = step / 'meta' / 'metadata'
  path.write_bytes(path.read_bytes()[:-20])


def _delete(step):
  (step / 'state' / 'manifest.ocdbt').unlink()


@pytest.mark.parametrize('damage', [_flip, _truncate, _delete])
def test_the_step_before_takes_over(whole, data_dir, workdir, damage):
  good, newest = _steps(workdir)
  damage(newest)
  line = _finish(whole, data_dir, workdir)
  assert f'] {newest} ' in line
  assert line.endswith(
    f': moved to damaged/{newest.name}, step {good.name} is used'
  )
  assert (newest.parent / 'damaged' / newest.name).is_dir()


def _finish(whole, data_dir, workdir):
  """Runs to the end of an undisturbed run; the one line on stderr."""
  done = runs.run_quick(data_dir, workdir)
  assert done.returncode == 0
  runs.check_same_end(workdir, whole)
  return runs.only_line(done)


def test_an_empty_folder_of_a_later_step_is_passed_over(
  whole, data_dir, workdir
):
  newest = _steps(workdir)[-1]
  (newest.parent / '25').mkdir()
  assert _finish(whole, data_dir, workdir).endswith(
    f'/25 has no state: moved to damaged/25, step {newest.name} is used'
  )


def _files(folder):
  return {
    path: path.read_bytes() if path.is_file() else None
    for path in folder.rglob('*')
  }


def test_without_a_good_step_nothing_is_touched(data_dir, workdir):
  older, newest = _steps(workdir)
  _flip(older)
  _truncate(newest)
  before = _files(workdir)
  done = runs.run_quick(data_dir, workdir)
  assert done.returncode == 2
  line = runs.only_line(done)
  assert line.startswith(
    f'hq_jax: {older.parent} holds no checkpoint that is whole: step'
    f' {newest.name} cannot be read '
  )
  assert f'; step {older.name} ' in line
  assert _files(workdir) == before


def test_what_one_of_two_cannot_read_neither_uses(data_dir, tmp_path):
  workdir = tmp_path / 'w'
  shared = '--config.mesh.fsdp=2'  # Each reads its own part of the arrays.
  with runs.start_two(data_dir, workdir, shared) as both:
    moments.wait(both[0], workdir, 8)
    both[0].send(signal.SIGTERM)
    assert [running.finish().returncode for running in both] == [143, 143]
  _, newest = _steps(workdir)
  parts = (newest / 'state' / 'ocdbt.process_1' / 'd').iterdir()
  path = max(parts, key=lambda p: p.stat().st_size)
  path.write_bytes(path.read_bytes()[:100])
  with runs.start_two(data_dir, workdir, shared) as both:
    ends = [running.finish() for running in both]
  assert [done.returncode for done in ends] == [0, 0]
  line = runs.only_line(ends[0])
  assert f'moved to damaged/{newest.name}' in line
  assert (workdir / 'report.json').exists()
