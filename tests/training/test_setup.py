"""What a run is set up with, and what is refused before anything compiles."""

import shutil

import numpy as np
import pytest

from configs import folder
from hq_jax.data import sources
from hq_jax.training import setup as setup_lib
from tests import setups
from tests.data import pictures


@pytest.fixture(scope='module')
def pictures_dir(tmp_path_factory):
  return pictures.make_folder(
    tmp_path_factory.mktemp('pictures'), num_classes=2, num_per_class=10
  )


def _of_folder(pictures_dir, **fields):
  config = folder.get_config(f'data_dir={pictures_dir},debug,batch_size=8')
  config.update_from_flattened_dict(fields)
  return config


def _refuse(config, tmp_path):
  with pytest.raises(ValueError) as caught:
    setup_lib.prepare(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
  return str(caught.value)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (
      {'dense.epochs': 0},
      'config.dense.epochs is 0, wanted at least 1: the network begins with'
      ' random weights',
    ),
    (
      {'dense.epochs': 0, 'pretrained': 'a.pth'},
      'config.dense.epochs is 0, wanted at least 1: the classifier begins with'
      ' random weights',
    ),
    (
      {'pretrained': '/nowhere/a.safetensors'},
      "config.pretrained is '/nowhere/a.safetensors': No such file or"
      ' directory',
    ),
    (
      {'pretrained': 'a.pth', 'model.name': 'resnet20'},
      "config.pretrained is 'a.pth', but config.model.name is 'resnet20',"
      ' wanted one of: resnet18, resnet34, resnet50, resnet101, mobilenet_v2,'
      ' vit, vit_ti16, vit_s16, vit_b16',
    ),
    (
      {'model.widths': (8, 8)},
      'config.model.widths is [8, 8], but resnet18 takes no such argument;'
      ' wanted one of: dtype',
    ),
    (
      {'data.max_shift': 2},
      'config.data.max_shift is 2, wanted 0 where images are cropped at random',
    ),
    (
      {'batch_size': 24},
      'config.batch_size is 24, wanted at most the 20 training images',
    ),
    (
      {'data.name': 'digits:1.0.0', 'data.image_size': None},
      "config.data.name is 'digits:1.0.0', wanted one of: digits",
    ),
    (
      {'data.name': 'cifar 10'},
      "config.data.name is 'cifar 10', wanted a TFDS name such as cifar10,"
      ' imagenet_resized/16x16 or cifar10:3.0.2',
    ),
    (
      {'recipe.num_stages': 4},
      'config.recipe.num_stages is 4, wanted at most prune_steps = 2, which is'
      ' config.prune.epochs times 2 batches',
    ),
  ],
)
def test_what_does_not_fit_the_images_is_refused(
  pictures_dir, tmp_path, fields, message
):
  assert _refuse(_of_folder(pictures_dir, **fields), tmp_path) == message


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'recipe.sparsity': 1.0}, 'config.recipe.sparsity is 1.0, wanted'),
    ({'recipe.reinit_strength': 2.0}, 'config.recipe.reinit_strength is 2.0'),
    ({'recipe.ramp': 'square'}, "config.recipe.ramp is 'square', wanted one"),
    (
      {'recipe.scope': '2:4', 'recipe.sparsity': 0.6},
      'config.recipe.sparsity is 0.6, wanted 0.5, that of scope 2:4',
    ),
    ({'recipe.scope': '2:5'}, 'config.recipe.sparsity is '),
    (
      {'recipe.scope': '2:4', 'recipe.sparsity': 0.5},
      "config.recipe.scope is '2:4', but conv_stem/kernel",
    ),
    ({'target_ratio': 500.0}, 'config.target_ratio is 500, '),
    ({'batch_size': 12}, 'config.batch_size is 12, '),
    ({'batch_size': 4000}, 'config.batch_size is 4000, '),
    ({'data.max_shift': 8}, 'config.data.max_shift is 8, wanted 0 to 7'),
    (
      {'data.num_workers': 2},
      "config.data.num_workers is 2, wanted 0 for 'digits', whose images are"
      ' held in memory',
    ),
    ({'model.name': 'vgg'}, "config.model.name is 'vgg', wanted one of"),
    ({'model.widths': (8, 8)}, 'config.model.widths is (8, 8)'),
    ({'optimizer.name': 'adam9'}, "config.optimizer.name is 'adam9'"),
    ({'quantizer.name': 'two'}, "config.quantizer.name is 'two', wanted one"),
    (
      {'quantizer.name': 'twn'},
      'config.prune.epochs is 2, wanted 0 with config.quantizer.name twn, which'
      ' does not prune',
    ),
    ({'data.name': 'mnist'}, "'mnist'"),
    ({'seed': -1}, 'config.seed is -1'),
  ],
)
def test_nonsense_is_refused(tmp_path, data_dir, fields, words):
  said = _refuse(setups.get_config(data_dir, **fields), tmp_path)
  assert words in said


def test_a_data_dir_that_is_a_file(pictures_dir, tmp_path):
  file = tmp_path / 'file'
  file.touch()
  for name in ('cifar10', 'folder'):
    fields = {'data.name': name, 'data.data_dir': str(file)}
    said = _refuse(_of_folder(pictures_dir, **fields), tmp_path)
    assert said.startswith(f"config.data.data_dir: '{file}' is "), said


def test_a_folder_has_one_run_at_a_time_and_one_config(pictures_dir, tmp_path):
  own = tmp_path / 'pictures'
  shutil.copytree(pictures_dir, own)

  def prepare(**fields):
    fields = {'model.name': 'small_resnet', **fields}
    config = _of_folder(own, **fields)
    return setup_lib.prepare(config, tmp_path / 'run')

  with (
    setup_lib.claim(prepare()),
    pytest.raises(ValueError, match='another process is running'),
  ):
    setup_lib.claim(prepare())
  setup_lib.claim(prepare()).close()
  with pytest.raises(ValueError, match=r'config\.seed is 0 there and 7 here'):
    setup_lib.claim(prepare(seed=7))
  (image, *_) = own.rglob('*.jpg')
  image.rename(image.with_name('other.jpg'))
  with pytest.raises(ValueError, match='images were added to config'):
    setup_lib.claim(prepare())


def test_a_damaged_model_is_refused_and_left_alone(tmp_path, data_dir):
  setup = setups.prepare(
    setups.get_config(
      data_dir, **setups.PERCEPTRON, **{'recipe.sparsity': 0.5}
    ),
    tmp_path,
  )
  path = tmp_path / 'model.hq'
  path.write_bytes(b'HQ of old')
  for _ in range(2):  # The first gives the folder back.
    with pytest.raises(ValueError, match=r'model\.hq'):
      setup_lib.claim(setup)
  assert path.read_bytes() == b'HQ of old'


def test_a_part_of_a_data_set_is_used_where_it_is_given(tmp_path, data_dir):
  fields = setups.PERCEPTRON | {'recipe.sparsity': 0.5}
  prepare = lambda dataset=None, **more: setup_lib.prepare(
    setups.get_config(data_dir, **fields | more), tmp_path / 'run', dataset
  )
  whole = prepare().dataset
  part = whole._replace(
    train=sources.MemorySource(*sources.gather(whole.train, np.arange(128)))
  )
  # What the config names is not opened: there is no such folder.
  fields['data.data_dir'] = str(data_dir / 'nowhere')
  setup = prepare(part)
  assert setup.dataset is part and setup.steps_per_epoch == 2
  assert len(setup.dataset.test) == 500
  with pytest.raises(ValueError, match=r'config\.batch_size is 256, .* 128 tr'):
    prepare(part, batch_size=256)
