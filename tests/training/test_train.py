"""End to end: a debug run, its file, and what it refuses."""

import json
import os

import jax
import numpy as np
import optax
import pytest

from configs import digits
from hq_jax import artifact as artifact_lib
from hq_jax import transforms
from hq_jax.core import qtensors
from hq_jax.core import trees
from hq_jax.data import eval_batches
from hq_jax.runtime import checkpoint
from hq_jax.runtime import sharding
from hq_jax.training import export
from hq_jax.training import loop
from hq_jax.training import metrics
from hq_jax.training import setup as setup_lib
from hq_jax.training import train
from hq_jax.training import train_state


def get_config(data_dir, arguments='debug'):
  config = digits.get_config(arguments)
  config.data.data_dir = str(data_dir)
  config.recipe.distribution = 'uniform'  # One sparsity, to compare with.
  return config


@pytest.fixture(scope='module')
def finished(tmp_path_factory, data_dir):
  """A whole debug run: its job, as planned in the end, and its report."""
  workdir = tmp_path_factory.mktemp('run') / 'workdir'
  job = setup_lib.prepare(get_config(data_dir), str(workdir))
  report = train.run(job)
  job.lock.close()
  dense = restore(job, train.make_dense_stage(job))
  return setup_lib.replan(job, dense.variables), report


def restore(job, stage):
  """The state in which a stage ended, from its newest checkpoint."""
  state = train_state.init(
    job.model, stage.tx, jax.random.key(9), job.dataset.image_shape, job.mesh
  )
  like = loop.Snapshot(state, sharding.to_devices(metrics.zeros(), job.mesh))
  checkpoints = checkpoint.Checkpoints(
    os.path.join(job.workdir, 'checkpoints', stage.name), job.identity
  )
  restored = checkpoints.restore(like)
  checkpoints.close()
  return restored.state


@pytest.fixture(scope='module')
def state(finished):
  """The state in which the run ended."""
  job, _ = finished
  return restore(job, train.make_compress_stage(job))


def all_images(job):
  batches = eval_batches.make_eval_batches(
    job.dataset.test, preprocessing=job.header['preprocessing'], batch_size=500
  )
  (batch,) = batches
  assert batch['valid'].all()
  return batch['image'], batch['label']


def test_file_is_as_small_as_was_asked(finished):
  job, report = finished
  path = os.path.join(job.workdir, 'model.hq')
  assert report['file_bytes'] == os.path.getsize(path)
  # 3x3 and 1x1 convolutions of widths 16, 32, 64, and the classifier.
  kernels = 9 * 16 + 2 * 9 * 16**2 + 9 * 16 * 32 + 9 * 32**2 + 16 * 32
  kernels += 9 * 32 * 64 + 9 * 64**2 + 32 * 64 + 64 * 10
  channels = 3 * 16 + 3 * 32 + 3 * 64
  assert report['dense_bytes'] == 4 * (kernels + 4 * channels + 10)
  assert report['ratio'] == report['dense_bytes'] / report['file_bytes']
  assert report['ratio'] >= 30.0
  # The target is filled, not only reached, and the plan said so before.
  assert report['ratio'] <= 30.3
  assert report['file_bytes'] == pytest.approx(
    job.plan.predicted_bytes, rel=0.01
  )


def test_logits_of_the_file_are_those_of_training(finished, state):
  job, _ = finished
  # What the ternary phase evaluates, from the state of training ...
  evaluated = artifact_lib.to_variables(
    export.export_model(job, state, is_last=True)
  )
  # ... and what somebody reads who has the file alone.
  path = os.path.join(job.workdir, 'model.hq')
  read = artifact_lib.to_variables(artifact_lib.read(path))
  images, _ = all_images(job)
  apply = jax.jit(lambda variables, x: job.model.apply(variables, x))
  expected = np.asarray(apply(evaluated, images))
  logits = np.asarray(apply(read, images))
  assert np.abs(expected).max() > 1.0
  np.testing.assert_allclose(
    logits, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
  )
  # The unfolded network, whose statistics are float32, differs from what it is
  # before the file is made to fit by what the norms lose in float16.
  unfolded = np.asarray(apply(state.variables, images))
  exported = artifact_lib.to_variables(export.export_model(job, state))
  np.testing.assert_allclose(
    np.asarray(apply(exported, images)),
    unfolded,
    atol=5e-3 * np.abs(unfolded).max(),
  )


def test_accuracies_are_measured_on_the_file_and_on_the_dense_network(finished):
  job, report = finished
  images, labels = all_images(job)
  read = artifact_lib.read(os.path.join(job.workdir, 'model.hq'))
  logits = job.model.apply(artifact_lib.to_variables(read), images)
  accuracy = np.mean(np.argmax(np.asarray(logits), axis=-1) == labels)
  assert report['file_accuracy'] == pytest.approx(accuracy, abs=1e-9)
  assert report['file_accuracy'] > 0.5  # two epochs of each phase
  assert report['dense_accuracy'] > 0.5


def test_codes_of_the_file_are_the_parameters(finished, state):
  job, _ = finished
  found = artifact_lib.read(os.path.join(job.workdir, 'model.hq')).tensors
  last = export.export_model(job, state, is_last=True).tensors
  before = export.export_model(job, state).tensors
  params = trees.flatten(state.params)
  finalized = jax.jit(transforms.finalize, static_argnums=2)(
    state.opt_state, state.params, job.recipe
  )
  is_tensor = lambda node: isinstance(node, qtensors.TernaryTensor)
  nodes = trees.flatten(finalized, is_leaf=is_tensor)
  assert nodes.keys() == params.keys()
  codes = {path: node for path, node in nodes.items() if is_tensor(node)}
  assert len(codes) == 10
  for path, tensor in codes.items():
    in_file = found[f'params/{path}'].codes
    np.testing.assert_array_equal(in_file, last[f'params/{path}'].codes)
    exported = np.asarray(before[f'params/{path}'].codes)
    # What was steered beyond its target lost its smallest weights, no more.
    assert np.mean(in_file != exported) < 0.01
    np.testing.assert_array_equal(exported, np.asarray(tensor.codes))
    np.testing.assert_array_equal(exported, np.sign(params[path]))
    # The sparsity of the plan, and the factor of the epoch before the last.
    factor = optax.tree.get(state.opt_state, 'density_scale')
    wanted = 1 - (1 - job.recipe.sparsity) * float(factor)
    zeros = np.mean(exported == 0)
    assert zeros >= wanted - 1 / exported.size
    assert zeros <= wanted + 0.5 / exported.size + 1e-6


def test_history_tells_of_every_epoch(finished):
  job, _ = finished
  with open(os.path.join(job.workdir, 'metrics.jsonl')) as file:
    rows = [json.loads(line) for line in file]
  phases = ['dense'] * 2 + ['prune'] * 2 + ['ternary'] * 2
  assert [row['phase'] for row in rows] == phases
  assert [row['epoch'] for row in rows] == [1, 2, 3, 4, 5, 6]
  assert [row['step'] for row in rows] == [20, 40, 60, 80, 100, 120]
  # The sparsity is exact after the last step of pruning and of all; the
  # smallest kernel has 144 weights. In between it is steered to fill the file.
  factor = rows[4]['density_scale']
  assert 'density_scale' not in rows[5] and factor > 1
  for row, kept in ((rows[3], 1), (rows[5], factor)):
    wanted = 1 - (1 - job.recipe.sparsity) * kept
    for path, zeros in row['sparsity'].items():
      assert zeros == pytest.approx(wanted, abs=0.5 / 144), path
  assert rows[5]['file_bytes'] == os.path.getsize(
    os.path.join(job.workdir, 'model.hq')
  )
  distances = [np.mean(list(r['cosine_distance'].values())) for r in rows]
  assert distances[0] > 0.2  # dense weights
  assert distances[3] < 0.7 * distances[0]  # ternary, and reinitialized


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(finished, data_dir):
  job, report = finished
  path = os.path.join(job.workdir, 'model.hq')
  before = os.stat(path)
  again = setup_lib.prepare(get_config(data_dir), job.workdir)
  repeated = train.run(again)
  again.lock.close()
  assert os.stat(path).st_mtime_ns == before.st_mtime_ns
  same = ('file_bytes', 'dense_accuracy', 'file_accuracy')
  assert [repeated[k] for k in same] == [report[k] for k in same]
  assert len(repeated['layers']) == len(report['layers'])


def test_a_damaged_file_is_refused_and_left_alone(finished, data_dir):
  job, _ = finished
  path = os.path.join(job.workdir, 'model.hq')
  with open(path, 'rb') as file:
    good = file.read()
  bad = good[:1000] + bytes([good[1000] ^ 1]) + good[1001:]
  try:
    with open(path, 'wb') as file:
      file.write(bad)
    with pytest.raises(ValueError, match=r'model\.hq'):
      setup_lib.prepare(get_config(data_dir), job.workdir)
    with open(path, 'rb') as file:
      assert file.read() == bad
  finally:
    with open(path, 'wb') as file:
      file.write(good)


def test_another_config_is_refused(finished, data_dir):
  job, _ = finished
  config = get_config(data_dir, 'debug,seed=7')
  with pytest.raises(ValueError, match=r'config\.seed is 0 there and 7 here'):
    setup_lib.prepare(config, job.workdir)


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('recipe.sparsity', 1.0, r'config\.recipe\.sparsity is 1\.0, wanted'),
    ('recipe.sparsity', -0.1, r'config\.recipe\.sparsity is -0\.1, wanted'),
    ('recipe.reinit_strength', 2.0, r'config\.recipe\.reinit_strength is 2\.0'),
    ('recipe.num_stages', 1000, r'config\.recipe\.num_stages is 1000'),
    ('recipe.ramp', 'square', r"config\.recipe\.ramp is 'square', wanted one"),
    ('recipe.distribution', 'even', r"config\.recipe\.distribution.* 'even'"),
    ('max_error', 0.0, r'config\.max_error is 0\.0, wanted a positive'),
    ('recipe.scope', '2:5', r'config\.recipe\.sparsity is .* scope 2:5'),
    ('target_ratio', 500.0, r'config\.target_ratio is 500, .* bytes'),
    ('batch_size', 12, r'config\.batch_size is 12, .* the 8 devices'),
    ('batch_size', 4000, r'config\.batch_size is 4000, .* 1297'),
    ('data.max_shift', 8, r'config\.data\.max_shift is 8, wanted 0 to 7'),
    ('model.name', 'vgg', r"model\.name is 'vgg', wanted one of"),
    ('model.widths', (8, 8), r'model\.widths is \(8, 8\)'),
    ('optimizer.name', 'adam9', r"config\.optimizer\.name is 'adam9'"),
    ('data.name', 'mnist', r"'mnist'"),
    ('seed', -1, r'config\.seed is -1'),
  ],
)
def test_nonsense_is_refused_before_anything_is_made(
  tmp_path, data_dir, field, value, message
):
  config = get_config(data_dir)
  config.update_from_flattened_dict({field: value})
  workdir = tmp_path / 'workdir'
  with pytest.raises(ValueError, match=message):
    setup_lib.prepare(config, str(workdir))
  assert not workdir.exists()


def test_groups_that_do_not_fit_the_network_are_refused(tmp_path, data_dir):
  config = get_config(data_dir)
  config.recipe.scope, config.recipe.sparsity = '2:4', 0.5
  with pytest.raises(
    ValueError, match=r"config\.recipe\.scope is '2:4', but conv_stem/kernel"
  ):
    setup_lib.prepare(config, str(tmp_path / 'workdir'))
  assert not (tmp_path / 'workdir').exists()


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path, data_dir):
  config = get_config(data_dir)
  config.model.widths = (8,)
  config.model.num_blocks = (1,)
  config.target_ratio = 10.0
  config.dense.learning_rate = 1e30
  config.optimizer.name = 'sgd'
  job = setup_lib.prepare(config, str(tmp_path))
  with pytest.raises(FloatingPointError, match=r'lower config\.dense'):
    train.run(job)
  job.lock.close()
  assert not (tmp_path / 'model.hq').exists()


@pytest.mark.slow
def test_kernels_that_are_dear_become_int8(tmp_path, data_dir):
  config = get_config(data_dir)
  config.recipe.distribution = 'cosine_distance'
  config.target_ratio = 20.0
  job = setup_lib.prepare(config, str(tmp_path))
  report = train.run(job)
  job.lock.close()
  rows = {row['path']: row for row in report['layers']}
  assert rows['params/conv_stem/kernel']['encoding'] == 'q'
  assert rows['params/stage3_block1/conv2/kernel']['encoding'] == 't'
  zeros = {row['zeros'] for row in rows.values() if row['encoding'] == 't'}
  assert len(zeros) > 3
  assert 20.0 <= report['ratio'] <= 20.2
  assert report['file_accuracy'] == report['ternary_accuracy'] > 0.5
  # The same command again finds everything done, to the same bytes.
  again = setup_lib.prepare(config, str(tmp_path))
  assert train.run(again)['file_bytes'] == report['file_bytes']
  again.lock.close()


SWITCHES = ('tangent', 'project', 'prune', 'reinit', 'straight_through')


@pytest.mark.parametrize('switch', SWITCHES)
def test_each_part_can_be_switched_off(tmp_path, data_dir, switch):
  config = get_config(data_dir)
  config.recipe[switch] = False
  job = setup_lib.prepare(config, str(tmp_path))
  job.lock.close()
  assert getattr(job.recipe, switch) is False
  stage = train.make_compress_stage(job)
  shapes = jax.eval_shape(
    job.model.init, jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32)
  )
  state = jax.eval_shape(stage.tx.init, shapes['params'])
  field = {
    'tangent': None,
    'project': 'radii',
    'prune': None,
    'reinit': 'reinit_count',
    'straight_through': 'thresholds',
  }[switch]
  present = {
    name
    for name in ('radii', 'prune_count', 'reinit_count', 'thresholds')
    if optax.tree.get(state, name) is not None
  }
  expected = {'radii', 'reinit_count', 'thresholds'} - {field}
  # What is not ternary meanwhile is pruned by a part of its own.
  if switch == 'straight_through':
    expected.add('prune_count')
  assert present == expected
  is_ramp_ternary = switch not in ('prune', 'straight_through')
  assert job.recipe.is_ramp_ternary == is_ramp_ternary
