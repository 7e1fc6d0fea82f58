"""Classifiers from files: all that a file and its model may disagree in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax import artifact
from hq_jax import models
from hq_jax.compression import to_artifact
from hq_jax.core import trees
from hq_jax.inference import classifier

_ARGUMENTS = {'widths': [4], 'num_blocks': [1], 'dtype': 'float32'}


@pytest.fixture(scope='module')
def exported():
  """The artifact of a small network, dense."""
  model = models.build('small_resnet', num_classes=3, arguments=_ARGUMENTS)
  variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  return to_artifact.make_artifact(
    variables,
    {},
    model='small_resnet',
    model_arguments=_ARGUMENTS,
    input_shape=(8, 8, 1),
    preprocessing={},
    class_names=('a', 'b', 'c'),
  )


def test_what_a_file_holds(tmp_path, exported):
  path = str(tmp_path / 'model.hq')
  artifact.write(path, exported)
  found = classifier.load(path)
  assert found.artifact.class_names == ('a', 'b', 'c')
  wanted = trees.flatten(artifact.to_variables(exported))
  for name, value in trees.flatten(found.variables).items():
    np.testing.assert_array_equal(value, wanted[name])
  logits = found.model.apply(found.variables, np.zeros((2, 8, 8, 1)))
  assert logits.shape == (2, 3)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'model_args': _ARGUMENTS | {'widths': [6]}},
      'batch_stats/norm_stem/mean has shape (4,), wanted (6,)',
    ),
    (
      {'model_args': {'widths': [4, 4], 'num_blocks': [1, 1]}},
      'batch_stats/stage2_block1/norm1/mean has shape None, wanted (4,)',
    ),
    (
      {'input_shape': (8, 8, 3)},
      'params/conv_stem/kernel has shape (3, 3, 1, 4), wanted (3, 3, 3, 4)',
    ),
    (
      {'tensors': {'params/other': np.zeros(2, np.float32)}},
      'params/other has shape (2,), wanted None',
    ),
  ],
)
def test_a_file_that_contradicts_itself_is_refused(
  tmp_path, exported, changes, message
):
  path = str(tmp_path / 'model.hq')
  if 'tensors' in changes:
    changes = {'tensors': exported.tensors | changes['tensors']}
  artifact.write(path, exported._replace(**changes))
  with pytest.raises(ValueError) as caught:
    classifier.load(path)
  assert str(caught.value) == f'{path}: {message}'
