"""Runs that begin with the weights of another run, or of a file."""

import shutil

import jax
import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.runtime import preemption
from hq_jax.runtime import workdir
from hq_jax.training import messages
from hq_jax.training import setup as setup_lib
from hq_jax.training import stages
from hq_jax.training import train
from hq_jax.training import train_state
from tests import huge_files
from tests import setups

_MODELS = {
  'mlp': setups.PERCEPTRON | {'target_ratio': 4.0},
  'small_resnet': {
    'model.widths': (8,),
    'model.num_blocks': (1,),
    'target_ratio': 5.0,
  },
}
_SHORT = {'dense.epochs': 1, 'prune.epochs': 1, 'ternary.epochs': 1}


@pytest.fixture(scope='module', params=_MODELS)
def trained(request, data_dir, tmp_path_factory):
  """The config of a run that has ended, and its folder."""
  folder = tmp_path_factory.mktemp('trained') / 'run'
  fields = _MODELS[request.param] | _SHORT
  config = setups.get_config(data_dir, **fields, seed=3)
  setup = setups.prepare(config, folder)
  train.run(setup)
  return config, folder


def _prepare(config, tmp_path, **fields):
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict({'seed': 4} | fields)
  return setup_lib.prepare(config, tmp_path / 'other')


def _init(setup):
  """The first state of a run."""
  return train_state.make_init(
    setup.model,
    stages.make_dense_stage(setup).tx,
    jax.random.key(setup.config.seed),
    setup.dataset.image_shape,
    setup.mesh,
    setup.pretrained.variables,
  )()


def _assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def _find_step(folder, stage):
  return str(max((folder / 'checkpoints' / stage).iterdir()))


@pytest.mark.parametrize('inside', ['', 'checkpoints', 'checkpoints/dense'])
def test_a_run_begins_where_another_ended(trained, tmp_path, inside):
  config, folder = trained
  setup = _prepare(
    config, tmp_path, pretrained=str(folder / inside), **{'dense.epochs': 0}
  )
  dense = train.fit_dense(
    setups.prepare(config, folder), *_nothing_to_do(setup, folder)
  )
  got = _init(setup).variables
  _assert_equal(got, jax.device_get(dense.variables))
  lines = messages.describe_setup(setup).splitlines()
  assert f'weights: those of {_find_step(folder, "dense")}' in lines


def _nothing_to_do(setup, folder):
  """What the dense stage of a run that has ended still wants."""
  return workdir.History(str(folder)), None, preemption.Watch(setup.mesh)


def test_the_networks_of_the_compression(trained, tmp_path):
  config, folder = trained
  in_file = artifact.to_variables(artifact.read(folder / 'model.hq'))
  fields = {'dense.epochs': 0}
  for place in (
    folder / 'model.hq',
    shutil.copy(folder / 'model.hq', tmp_path),
  ):
    setup = _prepare(config, tmp_path, pretrained=str(place), **fields)
    _assert_equal(_init(setup).variables, in_file)
  step = _find_step(folder, 'compress')
  setup = _prepare(config, tmp_path, pretrained=step, **fields)
  kernels = jax.tree.map(np.sign, _init(setup).params)
  _assert_equal(
    kernels['head'], jax.tree.map(np.sign, in_file['params']['head'])
  )
  assert setup.pretrained.note == f'those of {step}'


def test_a_new_head(trained, tmp_path):
  config, folder = trained
  setup = _prepare(
    config, tmp_path, pretrained=str(folder), pretrained_head=False
  )
  assert 'head' not in setup.pretrained.variables['params']
  assert setup.pretrained.note.endswith('; left out: the head (2 tensors)')


def _refuse(config, tmp_path, **fields):
  with pytest.raises(ValueError) as caught:
    _prepare(config, tmp_path, **fields)
  message = str(caught.value)
  assert message.startswith('config.pretrained') and message.isprintable()
  return message


def test_weights_of_another_network(trained, tmp_path):
  config, folder = trained
  for place in (folder, folder / 'model.hq'):
    fields = {'model.widths': (5,), 'pretrained': str(place)}
    assert f'the weights do not fit {config.model.name} (' in _refuse(
      config, tmp_path, **fields
    )


def test_tensors_of_no_network_are_refused_unread(trained, tmp_path):
  config, folder = trained
  found = artifact.read(folder / 'model.hq')
  path = huge_files.write(tmp_path / 'huge.hq', found)
  with huge_files.costing_little():
    message = _refuse(config, tmp_path, pretrained=path)
  assert f'{path}: the head of the weights is not that of the model' in message


def test_kernels_that_are_no_floats(trained, tmp_path):
  config, folder = trained
  found = artifact.read(folder / 'model.hq')
  path = 'params/head/kernel'
  kernel = np.full(artifact.shape_of(found.tensors[path]), 2**40)
  changed = str(tmp_path / 'changed.hq')
  artifact.write(
    changed, found._replace(tensors={**found.tensors, path: kernel})
  )
  message = _refuse(config, tmp_path, pretrained=changed)
  assert message.endswith(f'{path} is int64, wanted floating point')


def test_folders_and_files_that_are_something_else(trained, tmp_path):
  config, folder = trained
  message = _refuse(config, tmp_path, pretrained=str(tmp_path))
  assert 'a folder without a checkpoint, wanted that of a run' in message
  # What is left where the checkpoints were deleted.
  shutil.copy(folder / 'model.hq', tmp_path)
  setup = _prepare(config, tmp_path, pretrained=str(tmp_path))
  assert setup.pretrained.note == f'those of {tmp_path}/model.hq'
  model = tmp_path / 'model.hq'
  model.write_bytes(model.read_bytes()[:-1])
  assert 'model.hq: ' in _refuse(config, tmp_path, pretrained=str(model))


def test_a_damaged_checkpoint(trained, tmp_path):
  config, folder = trained
  copy = shutil.copytree(folder, tmp_path / 'copy')
  step = _find_step(copy, 'dense')
  files = [p for p in copy.rglob('dense/*/state/d/*') if p.is_file()]
  path = max(files, key=lambda p: p.stat().st_size)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  message = _refuse(config, tmp_path, pretrained=str(copy))
  assert message.startswith(f'config.pretrained: {step} ')


def test_a_run_goes_on_with_the_same_weights_alone(trained, tmp_path):
  config, folder = trained
  copy = shutil.copytree(folder, tmp_path / 'copy')
  fields = {'pretrained': str(copy)}
  setup_lib.claim(_prepare(config, tmp_path, **fields)).close()
  moved = copy.rename(tmp_path / 'moved')
  fields = {'pretrained': str(moved)}
  setup_lib.claim(_prepare(config, tmp_path, **fields)).close()
  shutil.rmtree(_find_step(moved, 'dense'))
  with pytest.raises(ValueError, match='holds other weights than that run'):
    setup_lib.claim(_prepare(config, tmp_path, **fields))
