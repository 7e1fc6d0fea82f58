"""Runs whose images are read by worker processes, stopped and killed."""

import json
import os
import signal

import pytest

from tests import runs
from tests.data import pictures
from tests.faults import moments

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def start(tmp_path_factory, data_dir):
  """Starts a run on 120 pictures, of which three cannot be read."""
  root = pictures.make_damaged_folder(
    tmp_path_factory.mktemp('pictures'),
    num_per_class=40,
    damaged=slice(5, 50, 19),
  )
  arguments = f'data_dir={root},debug,batch_size=8,ratio=8,image_size=16'

  def start(workdir, num_workers):
    words = runs.command(
      f'--config=configs/folder.py:{arguments},model=small_resnet',
      '--config.model.widths=(8,)',
      '--config.model.num_blocks=(1,)',
      '--config.checkpoint.every_steps=3',
      f'--config.data.num_workers={num_workers}',
      f'--workdir={workdir}',
    )
    return runs.start(words, runs.quick_environment(data_dir))

  return start


@pytest.fixture(scope='module')
def alone(start, tmp_path_factory):
  """The folder of a run without workers."""
  workdir = tmp_path_factory.mktemp('alone') / 'w'
  _finish(start, workdir, 0)
  return workdir


def _finish(start, workdir, num_workers):
  """A run to its end; each image that cannot be read was warned of once."""
  with start(workdir, num_workers) as running:
    done = running.finish()
  assert done.returncode == 0, done.stderr
  lines = done.stderr.splitlines()
  assert len(lines) == 3, done.stderr
  for number, line in enumerate(lines, 1):
    assert f' skipped, {number} of at most 10: class' in line


def _check_same_end(workdir, expected):
  """The same, but for the field that may differ."""
  assert runs.deterministic_rows(workdir) == runs.deterministic_rows(expected)
  model = (workdir / 'model.hq').read_bytes()
  assert model == (expected / 'model.hq').read_bytes()
  found, wanted = (
    sorted(
      json.loads((folder / 'report.json').read_text())['unreadable_images']
    )
    for folder in (workdir, expected)
  )
  assert found == wanted and len(found) == 3


# As a terminal and a scheduler send them: to the workers too.
@pytest.mark.parametrize(
  ('how', 'before', 'after'), [(signal.SIGINT, 2, 0), (signal.SIGTERM, 1, 2)]
)
def test_signals_to_all_processes_let_the_run_save(
  start, alone, tmp_path, how, before, after
):
  workdir = tmp_path / 'w'
  with start(workdir, before) as running:
    moments.wait(running, workdir, 2)
    os.killpg(running.process.pid, how)
    done = running.finish()  # Workers would keep its output open.
  assert done.returncode == 128 + how
  said = [x for x in done.stderr.splitlines() if ' skipped, ' not in x]
  assert len(said) == 2, done.stderr
  assert said[1].startswith(f'hq_jax: {how.name}: step ')
  _finish(start, workdir, after)
  _check_same_end(workdir, alone)


def test_workers_do_not_outlive_a_run_that_is_killed(start, alone, tmp_path):
  workdir = tmp_path / 'w'
  with start(workdir, 2) as running:
    moments.wait(running, workdir, 2)
    running.send(signal.SIGKILL)
    # Ends when nothing holds the output open any more.
    assert running.finish(timeout=60).returncode == -signal.SIGKILL
  _finish(start, workdir, 2)
  _check_same_end(workdir, alone)
