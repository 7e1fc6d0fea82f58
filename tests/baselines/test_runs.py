"""Whole runs of other quantizers: their files, and going on after a stop."""

import os

import jax
import numpy as np
import pytest

from hq_jax import artifact as artifact_lib
from hq_jax.artifact import layout
from hq_jax.data import eval_batches
from hq_jax.runtime import preemption
from hq_jax.runtime import workdir as workdir_lib
from hq_jax.training import train
from tests import runs
from tests import setups

_NUM_STEPS = 10  # Of an epoch: 1,297 images, in batches of 128.
_NUM_POLLS = _NUM_STEPS + 4  # After each step, and before each test batch.

# By default the one that compiles fastest.
ENCODINGS = {
  'binary': layout.TERNARY,
  'vector': layout.CODEBOOK,
  'twn': layout.TERNARY,
  'uniform': layout.CODEBOOK,
}
every_baseline = pytest.mark.parametrize('name', ENCODINGS)
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('quick', 'compiled')]


@pytest.fixture
def prepare(data_dir):
  """Returns a function that sets up three epochs in a folder."""

  def make(folder, name, **fields):
    fields = {
      **setups.PERCEPTRON,
      'model.widths': (24,),
      'batch_size': 128,
      'dense.epochs': 1,
      'dense.learning_rate': 0.03,
      'prune.epochs': 0,
      'quantizer.name': name,
      **fields,
    }
    setup = setups.prepare(setups.get_config(data_dir, **fields), folder)
    assert setup.steps_per_epoch == _NUM_STEPS
    return setup

  return make


def _measure(setup):
  """The accuracy of the file, by somebody who has that alone."""
  artifact = artifact_lib.read(os.path.join(setup.workdir, 'model.hq'))
  (batch,) = eval_batches.EvalBatches(
    setup.dataset.test, preprocessing=artifact.preprocessing, batch_size=500
  )
  apply = jax.jit(setup.model.apply)
  logits = apply(artifact_lib.to_variables(artifact), batch['image'])
  return np.mean(np.argmax(np.asarray(logits), axis=-1) == batch['label'])


@every_baseline
def test_a_run_ends_in_a_file_that_is_the_network(tmp_path, prepare, name):
  setup = prepare(tmp_path, name)
  report = train.run(setup)
  path = tmp_path / 'model.hq'
  assert report['file_bytes'] == path.stat().st_size
  assert report['file_bytes'] == pytest.approx(
    setup.plan.predicted_bytes, rel=0.1
  )
  assert report['dense_bytes'] == 4 * (64 * 24 + 4 * 24 + 24 * 10 + 10)
  assert report['file_accuracy'] == report['ternary_accuracy']
  assert report['file_accuracy'] == pytest.approx(_measure(setup), abs=1e-9)
  assert report['file_accuracy'] > 0.4  # Chance is 0.1.
  kernels = [row for row in report['layers'] if row['is_kernel']]
  assert {row['path'] for row in kernels} == {
    'params/dense1/kernel',
    'params/head/kernel',
  }
  assert all(row['encoding'] in ENCODINGS[name] for row in kernels)
  rows = workdir_lib.History(setup.workdir).rows
  assert [row['phase'] for row in rows] == ['dense', 'ternary', 'ternary']
  for row in rows[1:]:
    assert row['test_accuracy'] > 0.2 and 'density_scale' not in row
    assert min(row['cosine_distance'].values()) > 1e-3
  assert all('ste_bias' not in row for row in rows)
  assert rows[2]['file_bytes'] == report['file_bytes']
  assert f'| {name} in memory ' in (tmp_path / 'report.md').read_text()


def _read(folder):
  """The file, and the metrics without what a clock says."""
  rows = workdir_lib.History(str(folder)).rows
  return (folder / 'model.hq').read_bytes(), runs.without_time(rows)


@pytest.mark.parametrize('name', ['vector', 'uniform'])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(
  tmp_path, prepare, name
):
  whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
  train.run(prepare(whole, name, measure_bias=True))
  # Amid the second epoch with quantized weights, between two assignments.
  setup = prepare(stopped, name, measure_bias=True)
  with pytest.raises(preemption.Stopped, match='step 15 of stage compress is'):
    train.run(setup, setups.SignalAt(setup.mesh, 2 * _NUM_POLLS + 5))
  assert not (stopped / 'model.hq').exists()
  train.run(prepare(stopped, name, measure_bias=True))
  assert _read(stopped) == _read(whole)
  bias = [list(row['ste_bias'].values()) for row in _read(whole)[1]]
  assert np.shape(bias) == (3, 2)
  assert np.max(np.abs(bias[0])) < 1e-6 and np.min(bias[1:]) > 1e-3
