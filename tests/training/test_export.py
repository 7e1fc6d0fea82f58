"""The file at the end of a run."""

import numpy as np
import pytest

from hq_jax import artifact as artifact_lib
from hq_jax.training import export


def _make(value):
  tensors = {'params/bias': np.full(3, value, np.float16)}
  return artifact_lib.Artifact('', {}, (1,), {}, (), tensors, {})


def test_a_file_is_written_once_and_read_back(tmp_path):
  path, variables = export.export_model(str(tmp_path), _make(2.0))
  np.testing.assert_array_equal(variables['params']['bias'], [2.0, 2.0, 2.0])
  before = (tmp_path / 'model.hq').stat().st_mtime_ns
  assert export.export_model(str(tmp_path), _make(2.0))[0] == path
  assert (tmp_path / 'model.hq').stat().st_mtime_ns == before


def test_ranges_that_were_measured_are_kept(tmp_path):
  exported = _make(2.0)._replace(activation_ranges=(3.0, 0.5))
  artifact_lib.write(tmp_path / 'model.hq', exported)
  # A run that goes on elsewhere may measure others, by a rounding error.
  again = exported._replace(activation_ranges=(1.0, 1.0))
  path, _ = export.export_model(str(tmp_path), again)
  assert artifact_lib.read(path).activation_ranges == (3.0, 0.5)
  for ranges in ((), (1.0,)):
    with pytest.raises(ValueError, match='not the model that this run ends'):
      export.export_model(
        str(tmp_path), exported._replace(activation_ranges=ranges)
      )


def test_another_model_is_left_alone(tmp_path):
  path, _ = export.export_model(str(tmp_path), _make(2.0))
  with pytest.raises(ValueError) as caught:
    export.export_model(str(tmp_path), _make(3.0))
  assert str(caught.value) == (
    f'{path} is not the model that this run ends with: move it away'
  )
  assert artifact_lib.read(path).tensors['params/bias'][0] == 2.0
