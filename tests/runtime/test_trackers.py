"""Trackers: what they are told of, when a run goes on too."""

import json
import os
import sys

import pytest

from hq_jax.runtime import trackers
from hq_jax.runtime import workdir
from tests import events

_TABLES = {'cosine_distance': {'head/kernel': 0.25, 'stem/kernel': None}}


def _make_row(epoch):
  numbers = {'epoch': epoch, 'step': 20 * epoch, 'train_loss': 1 / epoch}
  return numbers | {'phase': 'dense'} | _TABLES


def _open(folder, names=('jsonl', 'tensorboard', 'tensorboard')):
  found = trackers.open_all(names, str(folder), {'seed': 3})
  return workdir.History(str(folder), trackers=found)


def test_tensorboard_has_every_number_once(tmp_path):
  history = _open(tmp_path)
  for epoch in (1, 2):
    history.append(_make_row(epoch))
  history.close()
  wanted = [
    (tag, step, pytest.approx(value))
    for step, loss, epoch in ((20, 1.0, 1), (40, 0.5, 2))
    for tag, value in (
      *(('epoch', epoch), ('step', step), ('train_loss', loss)),
      ('cosine_distance/head/kernel', 0.25),
    )
  ]
  assert events.read(tmp_path / 'tensorboard') == wanted
  # Files are named by the second in which they begin.
  (path,) = tmp_path.glob('tensorboard/events.out.tfevents.*')
  path.rename(path.with_name('events.out.tfevents.1.host'))
  # Killed before the checkpoint of the second epoch, which is run again.
  history = _open(tmp_path)
  history.truncate(20)
  for epoch in (2, 3):
    history.append(_make_row(epoch))
  history.close()
  found = events.read(tmp_path / 'tensorboard')
  losses = {step: loss for tag, step, loss in found if tag == 'train_loss'}
  assert losses == pytest.approx({20: 1.0, 40: 0.5, 60: 1 / 3})
  assert len(found) == 12
  # What has ended is looked at, and left as it is.
  _open(tmp_path).close()
  assert events.read(tmp_path / 'tensorboard') == found
  assert len((tmp_path / 'metrics.jsonl').read_text().splitlines()) == 3


def test_history_is_written_whatever_the_trackers_are(tmp_path):
  _open(tmp_path, ()).append(_make_row(1))
  row = json.loads((tmp_path / 'metrics.jsonl').read_text())
  del row['digest']
  assert row == _make_row(1)
  assert os.listdir(tmp_path) == ['metrics.jsonl']


def test_what_cannot_track_is_refused(monkeypatch):
  trackers.check(('jsonl',))
  for package in ('tensorboardX', 'wandb'):
    monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(ValueError) as caught:
    trackers.check(('jsonl', 'tensorboard'))
  assert str(caught.value) == (
    'config.trackers: tensorboard needs tensorboardX, which is not installed:'
    " pip install 'hq_jax[tensorboard]'"
  )


def test_wandb_takes_the_rows_of_a_run_that_goes_on(tmp_path, monkeypatch):
  pytest.importorskip('wandb')
  monkeypatch.setenv('WANDB_MODE', 'offline')
  for epoch in (1, 2):
    history = _open(tmp_path, ('wandb',))
    history.append(_make_row(epoch))
    history.close()
  run_id = (tmp_path / 'wandb_id').read_text()
  files = sorted(tmp_path.glob('wandb/offline-run-*/run-*.wandb'))
  assert [path.name for path in files] == [f'run-{run_id}.wandb'] * 2
