"""What went wrong in TFDS is said in one line."""

import pytest

from hq_jax.data.tfds import errors as tfds_errors


@pytest.mark.parametrize(
  ('error', 'said'),
  [
    (OSError('\n  the disk\nis full'), 'x fails (OSError: the disk)'),
    (KeyError(), 'x fails (KeyError: )'),
    (ModuleNotFoundError('no', name='cv2'), "x needs the Python package 'cv2'"),
  ],
)
def test_the_first_cause_is_named(error, said):
  second, third = RuntimeError('in other words'), ValueError('and again')
  second.__cause__, third.__cause__ = error, second
  assert str(tfds_errors.explain('x', 'fails', third)) == said


def test_missing_tensorflow_has_a_remedy():
  error = ModuleNotFoundError('no', name='tensorflow')
  said = str(tfds_errors.explain('x', 'fails', error))
  assert said.startswith('x needs TensorFlow to be prepared: pip install "hq_')
  assert said == str(tfds_errors.no_tensorflow('x'))
