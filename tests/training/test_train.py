"""A run from end to end: its file, its report, and a second call."""

import contextlib
import io
import json
import os

import jax
import numpy as np
import optax
import pytest

from configs import vit
from hq_jax import artifact as artifact_lib
from hq_jax.core import qtensors
from hq_jax.core import trees
from hq_jax.data import eval_batches
from hq_jax.data import normalization
from hq_jax.inference import classifier
from hq_jax.runtime import checkpoint
from hq_jax.runtime import sharding
from hq_jax.runtime import workdir as workdir_lib
from hq_jax.training import loop
from hq_jax.training import metrics
from hq_jax.training import setup as setup_lib
from hq_jax.training import stages
from hq_jax.training import train
from hq_jax.training import train_state
from tests import events
from tests import setups

pytestmark = pytest.mark.usefixtures('quick', 'compiled')


def get_config(data_dir, **fields):
  network = setups.PERCEPTRON | {'model.widths': (64,)}
  rate = {'target_ratio': 20.0, 'dense.learning_rate': 0.01}
  return setups.get_config(data_dir, **network | rate | fields)


@pytest.fixture(scope='module')
def finished(tmp_path_factory, data_dir):
  """A whole run: its folder, and its report."""
  workdir = tmp_path_factory.mktemp('run') / 'workdir'
  return workdir, train.train(get_config(data_dir), workdir)


@pytest.fixture(scope='module')
def setup(finished, data_dir):
  """What it was set up with."""
  return setup_lib.prepare(get_config(data_dir), finished[0])


@pytest.fixture(scope='module')
def end(setup):
  """The plan for its dense weights, and the state in which it ended."""
  dense = restore(setup, stages.make_dense_stage(setup))
  plan = setup.method.plan(sharding.to_host(dense.variables))
  return plan, restore(setup, stages.make_compress_stage(setup, plan))


def restore(setup, stage):
  """The state in which a stage ended, from its newest checkpoint."""
  state = train_state.make_init(
    setup.model, stage.tx, jax.random.key(9), (8, 8, 1), setup.mesh
  )()
  like = loop.Snapshot(state, sharding.to_devices(metrics.zeros(), setup.mesh))
  checkpoints = checkpoint.Checkpoints(
    os.path.join(setup.workdir, 'checkpoints', stage.name),
    workdir_lib.of_dense(setup.identity),
  )
  restored = checkpoints.restore(like)
  checkpoints.close()
  return restored.state


def read_model(workdir):
  return artifact_lib.read(os.path.join(workdir, 'model.hq'))


def all_images(setup):
  (batch,) = eval_batches.EvalBatches(
    setup.dataset.test,
    preprocessing=read_model(setup.workdir).preprocessing,
    batch_size=500,
  )
  assert batch['valid'].all()
  return batch['image'], batch['label']


def test_the_file_is_as_small_as_was_asked(finished, end):
  workdir, report = finished
  assert report['file_bytes'] == os.path.getsize(workdir / 'model.hq')
  # Two kernels, a norm, and a bias.
  assert report['dense_bytes'] == 4 * (64 * 64 + 4 * 64 + 64 * 10 + 10)
  assert report['ratio'] == report['dense_bytes'] / report['file_bytes']
  # The target is filled, not only reached, and the plan said so before.
  assert 20.0 <= report['ratio'] <= 20.6
  assert report['file_bytes'] == pytest.approx(end[0].predicted_bytes, rel=0.03)


def test_logits_of_the_file_are_those_of_training(finished, setup, end):
  workdir, report = finished
  plan, state = end
  variables = sharding.to_host(state.variables)
  # What the ternary phase evaluates, from the state of training ...
  exported = setup.method.export(plan, state)
  # ... and what somebody reads who has the file alone.
  read = artifact_lib.to_variables(read_model(workdir))
  images, labels = all_images(setup)
  apply = jax.jit(setup.model.apply)
  expected = np.asarray(apply(artifact_lib.to_variables(exported), images))
  logits = np.asarray(apply(read, images))
  assert np.abs(expected).max() > 1.0
  np.testing.assert_allclose(
    logits, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
  )
  accuracy = np.mean(np.argmax(logits, axis=-1) == labels)
  assert report['file_accuracy'] == pytest.approx(accuracy, abs=1e-9)
  rights = [
    round(row['accuracy'] * row['num_examples']) for row in report['classes']
  ]
  right = labels[np.argmax(logits, axis=-1) == labels]
  assert rights == np.bincount(right, minlength=10).tolist()
  assert report['file_accuracy'] > 0.5  # two epochs of each phase
  assert report['dense_accuracy'] > 0.5
  # The unfolded network, whose statistics are float32, differs from what it is
  # before the file is made to fit by what the norms lose in float16.
  unfolded = np.asarray(apply(variables, images))
  before = setup.method.encode(plan, state)
  np.testing.assert_allclose(
    np.asarray(apply(artifact_lib.to_variables(before), images)),
    unfolded,
    atol=5e-3 * np.abs(unfolded).max(),
  )


def test_ranges_are_those_of_training_images(finished, setup):
  read = read_model(finished[0])
  variables = artifact_lib.to_variables(read)['params']
  train_set = setup.dataset.train
  indices = np.arange(512) * len(train_set) // 512
  images = normalization.normalize(
    train_set.images[indices], read.preprocessing
  )
  # Folded, a norm is a scale and a bias; its rectifier's output is quantized.
  hidden = images.reshape(512, 64) @ variables['dense1']['kernel']
  norm = variables['norm1']
  largest = (hidden * norm['scale'] + norm['bias']).max()
  assert read.activation_ranges == (pytest.approx(largest, rel=2**-11),)


def test_the_file_answers_alike_in_8_bits(finished, setup):
  images, labels = all_images(setup)
  logits, rounded = (
    classifier.load(
      finished[0] / 'model.hq', engine='onnxruntime', activations=activations
    ).apply(images)
    for activations in ('float32', 'int8')
  )
  assert 0 < np.abs(rounded - logits).max() < 0.05 * np.abs(logits).max()
  answers, others = logits.argmax(-1), rounded.argmax(-1)
  assert np.mean(answers == others) >= 0.99
  right = [np.mean(x == labels) for x in (answers, others)]
  assert right[0] == pytest.approx(right[1], abs=0.003)


def test_codes_of_the_file_are_the_parameters(finished, setup, end):
  plan, state = end
  found = read_model(finished[0]).tensors
  method = setup.method
  before = method.encode(plan, state).tensors
  last = method.export(plan, state).tensors
  # The sparsity of the plan, and the factor of the epoch before the last.
  factor = float(optax.tree.get(state.opt_state, 'density_scale'))
  wanted = 1 - (1 - method.make_recipe(plan).sparsity) * factor
  for path in plan.layers:
    codes = found[f'params/{path}'].codes
    np.testing.assert_array_equal(codes, last[f'params/{path}'].codes)
    exported = np.asarray(before[f'params/{path}'].codes)
    # What was filled beyond its target lost its smallest weights, no more.
    assert np.mean(codes != exported) < 0.02
    np.testing.assert_array_equal(
      exported, np.sign(trees.flatten(state.params)[path])
    )
    zeros = np.mean(exported == 0)
    assert zeros >= wanted - 1 / exported.size
    assert zeros <= wanted + 0.5 / exported.size + 1e-6


def test_history_tells_of_every_epoch(finished, setup, end):
  workdir, _ = finished
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  phases = ['dense'] * 2 + ['prune'] * 2 + ['ternary'] * 2
  assert [row['phase'] for row in rows] == phases
  assert [row['epoch'] for row in rows] == [1, 2, 3, 4, 5, 6]
  assert [row['step'] for row in rows] == [20, 40, 60, 80, 100, 120]
  # The sparsity is exact after the last step of pruning and of all; the
  # smaller kernel has 640 weights. In between it is set to fill the file.
  factor = rows[4]['density_scale']
  assert 'density_scale' not in rows[5] and factor > 1
  for row, kept in ((rows[3], 1), (rows[5], factor)):
    wanted = 1 - (1 - setup.method.make_recipe(end[0]).sparsity) * kept
    for path, zeros in row['sparsity'].items():
      assert zeros == pytest.approx(wanted, abs=0.5 / 640 + 1e-6), path
  assert rows[5]['file_bytes'] == os.path.getsize(workdir / 'model.hq')
  distances = [np.mean(list(r['cosine_distance'].values())) for r in rows]
  assert distances[0] > 0.2  # dense weights
  # Ternary, and reinitialized at the beginning of the epoch.
  assert distances[4] < 0.7 * distances[0]


def test_a_finished_run_is_not_run_again(finished, data_dir, capsys):
  workdir, report = finished
  path = workdir / 'model.hq'
  before = path.stat().st_mtime_ns
  with pytest.raises(ValueError, match=r'config\.seed is 0 there and 7 here'):
    train.train(get_config(data_dir, seed=7), workdir)
  repeated = train.train(get_config(data_dir), workdir)
  assert path.stat().st_mtime_ns == before
  same = ('file_bytes', 'dense_accuracy', 'file_accuracy')
  assert [repeated[k] for k in same] == [report[k] for k in same]
  assert len(repeated['layers']) == len(report['layers'])
  said = capsys.readouterr().out
  assert '\nplan: ' in said and f'model: {path}' in said


class _Interrupting(io.StringIO):
  """Where an epoch's line meets Ctrl-C, as in a notebook."""

  def write(self, text):
    if text.startswith('prune'):
      raise KeyboardInterrupt
    return super().write(text)


def test_a_run_that_was_interrupted_goes_on_in_the_same_process(
  tmp_path, data_dir, finished
):
  config = get_config(data_dir, trackers=('jsonl', 'tensorboard'))
  with (
    contextlib.redirect_stdout(_Interrupting()),
    pytest.raises(KeyboardInterrupt),
  ):
    train.train(config, tmp_path)
  assert not (tmp_path / 'model.hq').exists()
  assert train.train(config, tmp_path)['seed'] == 0
  wanted = (finished[0] / 'model.hq').read_bytes()
  assert (tmp_path / 'model.hq').read_bytes() == wanted
  scalars = events.read(tmp_path / 'tensorboard')
  rates = [step for tag, step, _ in scalars if tag == 'learning_rate']
  assert rates == [20, 40, 60, 80, 100, 120]


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path, data_dir):
  fields = {'dense.learning_rate': 1e30, 'optimizer.name': 'sgd'}
  for _ in range(2):  # The first gives the folder back.
    with pytest.raises(FloatingPointError, match=r'lower config\.dense'):
      train.train(get_config(data_dir, **fields), tmp_path)
  assert not (tmp_path / 'model.hq').exists()


@pytest.mark.slow
def test_kernels_that_are_dear_become_int8(tmp_path, data_dir):
  config = setups.get_config(
    data_dir,
    **{'recipe.distribution': 'cosine_distance', 'target_ratio': 20.0},
  )
  report = train.train(config, tmp_path)
  rows = {row['path']: row for row in report['layers']}
  assert rows['params/conv_stem/kernel']['encoding'] == 'q'
  assert rows['params/stage3_block1/conv2/kernel']['encoding'] == 't'
  zeros = {row['zeros'] for row in rows.values() if row['encoding'] == 't'}
  assert len(zeros) > 3
  assert 20.0 <= report['ratio'] <= 20.2
  assert report['file_accuracy'] == report['ternary_accuracy'] > 0.5
  # The same command again finds everything done, to the same bytes.
  assert train.train(config, tmp_path)['file_bytes'] == report['file_bytes']


@pytest.mark.slow
def test_the_layers_of_a_transformer_are_compressed_one_by_one(
  data_dir, tmp_path
):
  config = vit.get_config('debug,ratio=15')
  config.data.data_dir = str(data_dir)
  config.model.width, config.model.depth = 32, 3
  for phase in (config.dense, config.prune, config.ternary):
    phase.epochs = 2
  report = train.train(config, tmp_path)
  assert 15.0 <= report['ratio'] <= 15.3
  assert report['file_bytes'] == pytest.approx(
    report['predicted_bytes'], rel=0.01
  )
  assert report['file_accuracy'] == report['ternary_accuracy']
  found = {
    path: tensor
    for path, tensor in read_model(tmp_path).tensors.items()
    if '/blocks/' in path and isinstance(tensor, qtensors.TernaryTensor)
  }
  assert len(found) == 6
  for path, (codes, scale) in found.items():
    # A threshold in common would leave each layer another number.
    kept = np.count_nonzero(codes.reshape(3, -1), axis=1)
    assert len(set(kept.tolist())) == 1, path
    assert scale.shape[0] == 3
