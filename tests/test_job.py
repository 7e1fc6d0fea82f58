"""Plans of a run: from shapes, from weights, and what follows from them."""

import shutil

import jax
import numpy as np
import pytest

from configs import digits
from configs import folder
from hq_jax import job as job_lib
from hq_jax import planner
from hq_jax import trees
from tests.data import pictures


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp('data')


@pytest.fixture
def prepare(tmp_path, data_dir):
  jobs = []

  def make(**fields):
    config = digits.get_config('debug')
    config.data.data_dir = str(data_dir)
    config.recipe.distribution = 'uniform'
    config.update_from_flattened_dict(fields)
    jobs.append(job_lib.prepare(config, str(tmp_path / f'run{len(jobs)}')))
    return jobs[-1]

  yield make
  for job in jobs:
    job.lock.close()


def _variables(job, spread=0.0, scale=1.0):
  """Random weights; input channels differ by `exp(spread * normal)`."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    values = rng.normal(size=leaf.shape).astype('f4')
    if path[-1].key == 'kernel':
      return values * np.exp(spread * rng.normal(size=(leaf.shape[-2], 1)))
    return scale * np.abs(values)

  shapes = jax.eval_shape(
    job.model.init, jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32)
  )
  return jax.tree_util.tree_map_with_path(draw, shapes)


def test_equal_sparsities_are_one_number(prepare):
  job = prepare()
  (sparsity,) = set(planner.sparsities(job.plan).values())
  assert job.recipe.sparsity == sparsity and job.int8_kernels == ()
  assert job.wanted_bytes < job.plan.dense_bytes / 30
  assert job.wanted_bytes > 0.995 * job.plan.predicted_bytes


@pytest.mark.parametrize(
  'fields', [{'recipe.sparsity': 0.8}, {'fill_target': False}]
)
def test_nothing_is_steered_where_nobody_asked(prepare, fields):
  job = prepare(**fields)
  assert job.wanted_bytes is None
  if 'recipe.sparsity' in fields:
    assert job.recipe.sparsity == 0.8


def test_given_sparsities_are_shared_out(prepare):
  fields = {'recipe.sparsity': 0.8, 'recipe.distribution': 'erdos_renyi_kernel'}
  job = prepare(**fields)
  found = planner.sparsities(job.plan)
  shapes = trees.flatten_selected(_variables(job)['params'])
  sizes = {path: leaf.size for path, leaf in shapes.items()}
  zeros = sum(found[path] * sizes[path] for path in sizes)
  assert zeros / sum(sizes.values()) == pytest.approx(0.8)
  assert job.recipe.sparsity == found and len(set(found.values())) > 3


def test_an_unknown_distribution_is_refused_beside_a_sparsity_too(prepare):
  with pytest.raises(ValueError, match=r"^config\.recipe\.distribution is 'x'"):
    prepare(**{'recipe.sparsity': 0.8, 'recipe.distribution': 'x'})


def test_weights_change_the_plan(prepare):
  job = prepare(
    **{
      'recipe.distribution': 'cosine_distance',
      'target_ratio': 20.0,
    }
  )
  assert 'conv_stem/kernel' in job.int8_kernels
  assert not job.select('conv_stem/kernel', None)
  assert job.select('stage3_block1/conv2/kernel', None)
  found = job_lib.replan(job, _variables(job, spread=1.0))
  before, after = (planner.sparsities(j.plan) for j in (job, found))
  assert max(abs(after[p] - before[p]) for p in before if p in after) > 0.01
  assert found.recipe.sparsity == after
  assert found.plan.predicted_bytes <= found.plan.dense_bytes / 20


def test_weights_that_are_not_finite_are_refused(prepare):
  job = prepare()
  variables = _variables(job)
  variables['params']['head']['kernel'][3, 2] = np.nan
  with pytest.raises(ValueError, match='head/kernel holds NaN'):
    job_lib.replan(job, variables)


def test_a_target_without_ternary_kernels_is_refused(prepare):
  with pytest.raises(ValueError, match=r'^config\.target_ratio is 2, which is'):
    prepare(**{'recipe.distribution': 'cosine_distance', 'target_ratio': 2.0})


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
    job_lib.prepare(config, str(tmp_path / 'run'))
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
  for name in ('cifar10', 'folder', 'glyphs/16'):
    size = None if name.startswith('glyphs') else 32
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
  prepare = lambda: job_lib.prepare(_folder(own, **model), workdir)
  prepare().lock.close()
  prepare().lock.close()
  (image, *_) = own.rglob('*.jpg')
  image.rename(image.with_name('other.jpg'))
  with pytest.raises(ValueError, match='images were added to config'):
    prepare()
