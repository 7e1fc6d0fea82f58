"""Plans of a run: from shapes, from weights, and what follows from them."""

import itertools

import jax
import numpy as np
import pytest

from hq_jax import transforms
from hq_jax.compression import planner
from hq_jax.data import sources
from hq_jax.training import setup as setup_lib
from tests import jobs


@pytest.fixture
def prepare(tmp_path, data_dir):
  """Returns a function that makes a job in a folder of its own."""
  with jobs.preparing() as prepare:
    numbers = itertools.count()

    def make(dataset=None, **fields):
      config = jobs.get_config(data_dir, **fields)
      return prepare(config, tmp_path / f'run{next(numbers)}', dataset)

    yield make


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
  found = setup_lib.replan(job, _variables(job, spread=1.0))
  before, after = (planner.sparsities(j.plan) for j in (job, found))
  assert max(abs(after[p] - before[p]) for p in before if p in after) > 0.01
  assert found.recipe.sparsity == after
  assert found.plan.predicted_bytes <= found.plan.dense_bytes / 20


def test_weights_that_are_not_finite_are_refused(prepare):
  job = prepare()
  variables = _variables(job)
  variables['params']['head']['kernel'][3, 2] = np.nan
  with pytest.raises(ValueError, match='head/kernel holds NaN'):
    setup_lib.replan(job, variables)


def test_another_quantizer_has_no_recipe_and_no_target(prepare):
  fields = jobs.PERCEPTRON | {'quantizer.name': 'binary', 'prune.epochs': 0}
  job = prepare(**fields)
  assert job.recipe is None and job.wanted_bytes is None
  assert isinstance(job.quantizer, transforms.Quantizer)
  assert {path: x.encoding for path, x in job.plan.layers.items()} == {
    'dense1/kernel': 'binary',
    'head/kernel': 'binary',
  }
  found = {path for path in ('head/kernel', 'head/bias') if job.select(path, 0)}
  assert found == {'head/kernel'}
  # Planned again from weights, it is another plan of the same kernels.
  again = setup_lib.replan(job, _variables(job))
  assert again.plan.layers.keys() == job.plan.layers.keys()
  assert again.plan != job.plan and again.recipe is None


def test_another_quantizer_does_not_prune(tmp_path, prepare):
  with pytest.raises(
    ValueError, match=r'^config\.prune\.epochs is 2, wanted 0'
  ):
    prepare(**jobs.PERCEPTRON | {'quantizer.name': 'binary'})
  assert list(tmp_path.iterdir()) == []


def test_a_part_of_a_data_set_is_used_where_it_is_given(prepare, data_dir):
  fields = jobs.PERCEPTRON | {'recipe.sparsity': 0.5}
  whole = prepare(**fields).dataset
  part = whole._replace(
    train=sources.MemorySource(*sources.gather(whole.train, np.arange(128)))
  )
  # What the config names is not opened: there is no such folder.
  fields['data.data_dir'] = str(data_dir / 'nowhere')
  job = prepare(part, **fields)
  assert job.dataset is part and job.steps_per_epoch == 2
  assert len(job.dataset.test) == 500
  with pytest.raises(ValueError, match=r'config\.batch_size is 256, .* 128 tr'):
    prepare(part, batch_size=256, **fields)
