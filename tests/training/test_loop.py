"""A stage that is stopped, and goes on; and one whose numbers go wrong."""

import dataclasses
import multiprocessing
import os
import re
import signal

import jax
import numpy as np
import pytest

from hq_jax.data import sources
from hq_jax.data import train_batches
from hq_jax.data.sets import datasets
from hq_jax.runtime import preemption
from hq_jax.runtime import sharding
from hq_jax.runtime import workdir as workdir_lib
from hq_jax.runtime.checkpoint import manager
from hq_jax.training import finite_guard
from hq_jax.training import loop
from hq_jax.training import stages
from hq_jax.training import train
from hq_jax.training import train_state
from tests import runs
from tests import setups

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('compiled')]

# Of an epoch: 1,297 images to train on and 500 to test, in batches of 256.
_NUM_STEPS = 5
_NUM_POLLS = _NUM_STEPS + 2  # After each step, and before each test batch.


@pytest.fixture(scope='module')
def prepare(data_dir):
  """Returns a function that sets up two dense epochs in a folder."""

  def make(folder, dataset=None, **fields):
    fields = {
      'model.widths': (8,),
      'model.num_blocks': (1,),
      'target_ratio': 10.0,
      'batch_size': 256,
      **fields,
    }
    config = setups.get_config(data_dir, **fields)
    setup = setups.prepare(config, folder, dataset)
    assert setup.steps_per_epoch == _NUM_STEPS
    return setup

  return make


def _fit(setup, signal_at=0):
  """The dense stage: the state at its end, and its rows."""
  watch = setups.SignalAt(setup.mesh, signal_at)
  history = workdir_lib.History(setup.workdir)
  with watch.finishing_steps():
    state = train.fit_dense(setup, history, train.make_evaluation(setup), watch)
  return sharding.to_host(state), runs.without_time(history.rows)


def _list_steps(setup):
  folder = os.path.join(setup.workdir, 'checkpoints', 'dense')
  return sorted(int(x) for x in os.listdir(folder) if x.isdigit())


def _assert_identical(found, wanted):
  (state, rows), (wanted_state, wanted_rows) = found, wanted
  assert rows == wanted_rows
  jax.tree.map(np.testing.assert_array_equal, state, wanted_state)


@pytest.fixture(scope='module')
def finished(prepare, tmp_path_factory):
  """A run that nobody stopped."""
  setup = prepare(tmp_path_factory.mktemp('finished'))
  found = _fit(setup)
  assert _list_steps(setup) == [_NUM_STEPS, 2 * _NUM_STEPS]
  return found


def test_a_row_for_each_epoch(finished):
  state, rows = finished
  assert state.step == 2 * _NUM_STEPS
  assert [row['step'] for row in rows] == [_NUM_STEPS, 2 * _NUM_STEPS]
  assert [row['epoch'] for row in rows] == [1, 2]
  assert {row['phase'] for row in rows} == {'dense'}
  assert rows[1]['train_loss'] < rows[0]['train_loss']
  assert 'skipped_steps' not in rows[0]


def _stop(setup, signal_at):
  with pytest.raises(preemption.Stopped) as caught:
    _fit(setup, signal_at)
  assert caught.value.signal_number == signal.SIGTERM
  return str(caught.value)


def test_workers_read_the_same_and_end_with_the_stage(
  tmp_path, prepare, finished, data_dir
):
  on_disk = datasets.load('digits', data_dir, memory_limit_bytes=0)
  setup = prepare(tmp_path, on_disk, **{'data.num_workers': 2})
  with pytest.raises(preemption.Stopped) as caught:
    _fit(setup, 4)
  # Though the error holds all that there was.
  assert caught.value.__traceback__ and multiprocessing.active_children() == []
  _assert_identical(_fit(setup), finished)
  assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
  ('signal_at', 'step', 'num_rows'),
  [
    (4, 4, 0),  # In the middle of an epoch.
    (5, 5, 0),  # After the last step, before the evaluation.
    (6, 5, 0),  # In the evaluation, before the first batch ...
    (7, 5, 0),  # ... and the last.
    (_NUM_POLLS + 3, 8, 1),  # In the second epoch.
    (2 * _NUM_POLLS, 10, 1),
  ],
)
def test_a_run_that_was_stopped_goes_on_to_the_bit(
  tmp_path, prepare, finished, signal_at, step, num_rows
):
  setup = prepare(tmp_path)
  message = f'step {step} of stage dense is saved'
  assert _stop(setup, signal_at) == message
  assert _list_steps(setup)[-1] == step
  rows = runs.without_time(workdir_lib.History(setup.workdir).rows)
  assert rows == finished[1][:num_rows]
  _assert_identical(_fit(prepare(tmp_path)), finished)


def test_a_run_may_be_stopped_again_and_again(tmp_path, prepare, finished):
  for signal_at in (2, 3, 2, 2):
    # In mid-epoch twice, within the evaluation, and in the second epoch.
    _stop(prepare(tmp_path), signal_at)
  _assert_identical(_fit(prepare(tmp_path)), finished)


def test_a_run_that_was_stopped_before_it_began_has_lost_nothing(
  tmp_path, prepare
):
  setup = prepare(tmp_path)
  watch = preemption.Watch(setup.mesh)
  history = workdir_lib.History(setup.workdir)
  with watch.finishing_steps():
    watch.receive(signal.SIGINT)
    with pytest.raises(preemption.Stopped) as caught:
      train.fit_dense(setup, history, lambda *_: {}, watch)
  assert caught.value.signal_number == signal.SIGINT
  assert str(caught.value) == 'stage dense has not begun; nothing is lost'
  assert _list_steps(setup) == [] and history.rows == []


def test_steps_within_an_epoch_are_saved_and_change_nothing(
  tmp_path, prepare, finished
):
  fields = {'checkpoint.every_steps': 2, 'checkpoint.keep': 9}
  setup = prepare(tmp_path, **fields)
  _assert_identical(_fit(setup), finished)
  # The multiples of 2, and the ends of the epochs.
  assert _list_steps(setup) == [2, 4, 5, 6, 8, 10]
  # From one of them, as after a death in step 9 or 10.
  folder = tmp_path / 'checkpoints' / 'dense'
  (folder / '10').rename(tmp_path / '10')
  _assert_identical(_fit(prepare(tmp_path, **fields)), finished)


def _poison(setup, step):
  """The setup with one image of NaN, which is in the batch of that step."""
  train_set = setup.dataset.train
  images = np.stack([train_set[i]['image'] for i in range(len(train_set))])
  labels = np.array([train_set[i]['label'] for i in range(len(train_set))])
  numbered = sources.MemorySource(images, np.arange(len(images)))
  batches = train_batches.make_train_iterator(
    setup.dataset._replace(train=numbered),
    batch_size=setup.config.batch_size,
    seed=stages.make_dense_stage(setup).seed,
  )
  for _ in range(step):
    numbers = next(batches)['label']
  images = images.astype(np.float32)
  images[numbers[0]] = np.nan
  source = sources.MemorySource(images, labels)
  dataset = setup.dataset._replace(train=source)
  return dataclasses.replace(setup, dataset=dataset)


def test_numbers_that_go_wrong_stop_the_run(tmp_path, prepare):
  fields = {'checkpoint.every_steps': 3}
  setup = _poison(prepare(tmp_path, **fields), 4)
  with pytest.raises(FloatingPointError) as caught:
    _fit(setup)
  text = str(caught.value)
  assert re.fullmatch(
    r'stage dense, epoch 1: step 4: not finite: (loss, )?(gradient of \S+, )+'
    r'gradient of \S+ and \d+ more; there is a checkpoint of step 3; skip a'
    r' few such steps with config\.max_skipped_steps, or begin in a new workdir'
    r' with a lower config\.dense\.learning_rate',
    text,
  )
  # What is on the disk is sound.
  assert _list_steps(setup) == [3]
  stage = stages.make_dense_stage(setup)
  like = train_state.make_init(
    setup.model,
    stage.tx,
    jax.random.key(9),
    setup.dataset.image_shape,
    setup.mesh,
  )()
  sums = {name: np.zeros(2, np.float32) for name in ('loss', 'accuracy')}
  like = loop.Snapshot(like, sharding.to_devices(sums, setup.mesh))
  checkpoints = manager.Checkpoints(
    os.path.join(setup.workdir, 'checkpoints', 'dense'),
    workdir_lib.of_dense(setup.identity),
  )
  restored = checkpoints.restore(like)
  checkpoints.close()
  assert restored.state.step == 3
  assert finite_guard.find_broken(restored.state) == []
  assert np.isfinite(restored.sums['loss']).all()
  # With the right images the run goes on.
  state, rows = _fit(prepare(tmp_path, **fields))
  assert state.step == 2 * _NUM_STEPS and len(rows) == 2


def test_a_step_that_goes_wrong_may_be_skipped(tmp_path, prepare, finished):
  setup = _poison(prepare(tmp_path, max_skipped_steps=1), 4)
  state, rows = _fit(setup)
  assert state.step == 2 * _NUM_STEPS
  # The image is in one batch of each epoch.
  assert [row['skipped_steps'] for row in rows] == [1, 1]
  assert finite_guard.find_broken(state) == []
  for row, plain in zip(rows, finished[1], strict=True):
    assert np.isfinite(row['train_loss'])
    assert abs(row['train_loss'] - plain['train_loss']) < 0.3


def test_without_a_checkpoint_that_is_said(tmp_path, prepare):
  # The step that is to be saved is looked at before.
  setup = _poison(prepare(tmp_path, **{'checkpoint.every_steps': 3}), 3)
  with pytest.raises(
    FloatingPointError,
    match=r': step 3: not finite: (loss, )?gradient of .*; there is no check',
  ):
    _fit(setup)
  assert _list_steps(setup) == []
