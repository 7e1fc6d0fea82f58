"""Evaluation that counts every image once, of a state or of a file."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax import artifact
from hq_jax import models
from hq_jax.compression import to_artifact
from hq_jax.data import eval_batches
from hq_jax.data import normalization
from hq_jax.data import sources
from hq_jax.data.sets import datasets
from hq_jax.runtime import sharding
from hq_jax.training import evaluate
from tests import huge_files

_PREPROCESSING = {'mean': [8.0], 'std': [4.0]}


class _Net(nn.Module):
  """Logits from the pixels, by one dense layer and a batch norm."""

  @nn.compact
  def __call__(self, x, train=False):
    x = x.reshape(len(x), -1)
    x = nn.BatchNorm(use_running_average=not train, name='norm')(x)
    return nn.Dense(4, name='dense')(x)


_make_step = functools.cache(functools.partial(evaluate.make_eval_step, _Net()))


def _source(rng, num):
  images = rng.integers(0, 17, (num, 2, 2, 1)).astype(np.uint8)
  return sources.MemorySource(images, rng.integers(0, 4, num).astype(np.int32))


@pytest.fixture
def variables(rng):
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return {
    'params': {
      'norm': {'scale': draw(4), 'bias': draw(4)},
      'dense': {'kernel': draw(4, 4), 'bias': draw(4)},
    },
    'batch_stats': {'norm': {'mean': draw(4), 'var': draw(4) ** 2}},
  }


def _reference(variables, source):
  """Accuracy and loss in float64, with the running statistics."""
  params = jax.tree.map(np.float64, variables['params'])
  stats = jax.tree.map(np.float64, variables['batch_stats']['norm'])
  x = (source.images.reshape(len(source), -1) - 8.0) / 4.0
  x = (x - stats['mean']) / np.sqrt(stats['var'] + 1e-5)
  x = x * params['norm']['scale'] + params['norm']['bias']
  logits = x @ params['dense']['kernel'] + params['dense']['bias']
  shifted = logits - logits.max(-1, keepdims=True)
  log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
  labels = source.labels
  return {
    'accuracy': np.mean(logits.argmax(-1) == labels),
    'loss': -np.mean(log_p[np.arange(len(labels)), labels]),
    'num_examples': len(labels),
  }


def _evaluate(variables, source, batch_size, mesh):
  batches = eval_batches.EvalBatches(
    source, preprocessing=_PREPROCESSING, batch_size=batch_size
  )
  return evaluate.evaluate(_make_step(mesh), variables, batches, mesh)


@pytest.mark.parametrize('num', [1, 15, 16, 37])
def test_every_image_counts_once(rng, variables, num):
  source = _source(rng, num)
  found = _evaluate(variables, source, 16, sharding.make_mesh())
  wanted = _reference(variables, source)
  assert found.keys() == wanted.keys()
  assert found['num_examples'] == num
  assert type(found['num_examples']) is int
  assert type(found['accuracy']) is float
  assert found['accuracy'] == pytest.approx(wanted['accuracy'], rel=1e-12)
  assert found['loss'] == pytest.approx(wanted['loss'], rel=1e-4)


def test_neither_the_batch_size_nor_the_devices_matter(
  rng, variables, make_mesh
):
  source = _source(rng, 37)
  one = make_mesh(1)
  whole = _evaluate(variables, source, 37, one)
  for batch_size, mesh in (
    (1, one),
    (7, one),
    (8, sharding.make_mesh()),
    (64, sharding.make_mesh()),
    (8, sharding.make_mesh(fsdp=4)),
  ):
    found = _evaluate(variables, source, batch_size, mesh)
    assert found['accuracy'] == whole['accuracy']
    assert found['num_examples'] == 37
    assert found['loss'] == pytest.approx(whole['loss'], rel=1e-5)


@pytest.mark.parametrize('batch_size', [8, 40])
def test_each_image_is_answered_once_in_order(rng, variables, batch_size):
  source, mesh = _source(rng, 37), sharding.make_mesh()
  batches = eval_batches.EvalBatches(
    source, preprocessing=_PREPROCESSING, batch_size=batch_size
  )
  evaluation = functools.partial(
    evaluate.evaluate, _make_step(mesh), batches=batches, mesh=mesh
  )
  found, answers = evaluate.evaluate_answers(evaluation, variables)
  assert found == evaluation(variables)
  np.testing.assert_array_equal(answers.position, np.arange(37))
  np.testing.assert_array_equal(answers.label, source.labels)
  right = answers.prediction == answers.label
  assert found['accuracy'] == pytest.approx(np.mean(right), abs=1e-7)
  loss = -np.mean(np.log(answers.label_probability))
  assert found['loss'] == pytest.approx(loss, rel=1e-4)
  same = answers.probability == answers.label_probability
  np.testing.assert_array_equal(same, right)
  assert (answers.probability >= 0.25).all()


def test_no_batch_is_an_error(variables):
  with pytest.raises(ValueError) as caught:
    mesh = sharding.make_mesh()
    evaluate.evaluate(_make_step(mesh), variables, [], mesh)
  assert str(caught.value) == 'batches is empty, wanted at least one batch'


_ARGUMENTS = {'widths': [4], 'num_blocks': [1], 'dtype': 'float32'}
_MODEL = models.build('small_resnet', num_classes=10, arguments=_ARGUMENTS)


@pytest.fixture(scope='module')
def exported(data_dir):
  """The artifact of a small network for the digits, dense."""
  dataset = datasets.load('digits', str(data_dir))
  variables = jax.jit(_MODEL.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  return to_artifact.make_artifact(
    variables,
    {},
    model='small_resnet',
    model_arguments=_ARGUMENTS,
    input_shape=dataset.image_shape,
    preprocessing=normalization.preprocessing(dataset),
    class_names=dataset.class_names,
  )


def _write(folder, exported):
  path = str(folder / 'model.hq')
  artifact.write(path, exported)
  return path


def test_a_file_gives_what_its_model_gives(tmp_path, exported, data_dir):
  path = _write(tmp_path, exported)
  config = {'batch_size': 40, 'data': {'data_dir': str(data_dir)}}
  found = evaluate.evaluate_file(path, config)
  # The whole test set at once, without padding.
  test = datasets.load('digits', str(data_dir)).test
  images = normalization.normalize(test.images, exported.preprocessing)
  logits = np.asarray(
    jax.jit(_MODEL.apply)(artifact.to_variables(exported), images), np.float64
  )
  log_p = np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
  loss = -log_p[np.arange(500), test.labels].mean()
  assert found['num_examples'] == 500
  assert found['accuracy'] == pytest.approx(
    np.mean(logits.argmax(-1) == test.labels), abs=1e-9
  )
  assert found['loss'] == pytest.approx(loss, rel=1e-5)


def test_the_files_own_preprocessing_is_used(tmp_path, exported, data_dir):
  config = {'batch_size': 40, 'data': {'data_dir': str(data_dir)}}
  found = evaluate.evaluate_file(_write(tmp_path, exported), config)
  other = exported._replace(preprocessing={'mean': [0.0], 'std': [100.0]})
  darker = evaluate.evaluate_file(_write(tmp_path, other), config)
  assert darker['loss'] != pytest.approx(found['loss'], rel=1e-3)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'input_shape': (9, 9, 1)},
      'input_shape is (9, 9, 1), but digits has (8, 8, 1)',
    ),
    (
      {'class_names': tuple('9876543210')},
      "class_names is ('9', '8', '7', '6', '5', '4', '3', '2', '1', '0'), but"
      " digits has ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')",
    ),
  ],
)
def test_a_file_that_does_not_fit_is_refused(
  tmp_path, exported, data_dir, changes, message
):
  path = _write(tmp_path, exported._replace(**changes))
  config = {'data': {'data_dir': str(data_dir)}}
  with pytest.raises(ValueError) as caught:
    evaluate.evaluate_file(path, config)
  assert str(caught.value) == f'{path}: {message}'


def test_tensors_of_no_network_are_refused_unread(tmp_path, exported):
  path = huge_files.write(tmp_path / 'huge.hq', exported)
  with huge_files.costing_little(), pytest.raises(ValueError) as caught:
    evaluate.evaluate_file(path, {})
  assert str(caught.value) == (
    f'{path}: params/head/kernel has shape (4096, 16384), wanted (4, 10)'
  )


def test_an_evaluation_of_nothing_is_refused():
  step = lambda variables, batch: (
    {name: np.zeros(2, np.float32) for name in ('accuracy', 'loss')},
    {},
  )
  batches = [{'image': np.zeros((8, 1), np.float32)}]
  mesh = sharding.make_mesh()
  with pytest.raises(ValueError, match='not one of the test images can be'):
    evaluate.evaluate(step, {}, batches, mesh)
