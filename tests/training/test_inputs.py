"""Images and weights that do not fit are refused before anything compiles."""

import shutil

import pytest

from configs import folder
from hq_jax.training import setup as setup_lib
from tests.data import pictures


@pytest.fixture(scope='module')
def pictures_dir(tmp_path_factory):
  return pictures.make_folder(
    tmp_path_factory.mktemp('pictures'), num_classes=2, num_per_class=10
  )


def _folder(pictures_dir, **fields):
  config = folder.get_config(f'data_dir={pictures_dir},debug,batch_size=8')
  config.update_from_flattened_dict(fields)
  return config


def _refuse(config, tmp_path):
  with pytest.raises(ValueError) as caught:
    setup_lib.prepare(config, str(tmp_path / 'run'))
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
      ' wanted one of: resnet18, resnet34, resnet50, resnet101, mobilenet_v2',
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
      "config.data.name: got 'cifar 10', wanted a TFDS name such as cifar10,"
      ' imagenet_resized/16x16 or cifar10:3.0.2',
    ),
    (
      {'recipe.num_stages': 4},
      'config.recipe.num_stages is 4, wanted at most prune_steps = 2, which is'
      ' config.prune.epochs times 2 batches',
    ),
  ],
)
def test_what_does_not_fit_is_refused_by_field(
  pictures_dir, tmp_path, fields, message
):
  assert _refuse(_folder(pictures_dir, **fields), tmp_path) == message


def test_a_data_dir_that_is_a_file(pictures_dir, tmp_path):
  file = tmp_path / 'file'
  file.touch()
  for name in ('cifar10', 'folder', 'digits'):
    size = None if name == 'digits' else 32
    fields = {
      'data.name': name,
      'data.data_dir': str(file),
      'data.image_size': size,
    }
    said = _refuse(_folder(pictures_dir, **fields), tmp_path)
    assert said.startswith(f"config.data.data_dir: '{file}' is "), said


def test_a_run_does_not_go_on_with_other_inputs(pictures_dir, tmp_path):
  own = tmp_path / 'pictures'
  shutil.copytree(pictures_dir, own)
  model = {'model.name': 'small_resnet'}
  workdir = str(tmp_path / 'run')
  prepare = lambda: setup_lib.prepare(_folder(own, **model), workdir)
  prepare().lock.close()
  prepare().lock.close()
  (image, *_) = own.rglob('*.jpg')
  image.rename(image.with_name('other.jpg'))
  with pytest.raises(ValueError, match='images were added to config'):
    prepare()
