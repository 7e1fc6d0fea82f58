"""Inputs of a report: the usual ones, a tiny one, and the oddest."""

import pytest

from tests.report import run_records

# Pictures take seconds each: by default the usual ones and the oddest.
_ODD = (
  *('usual', 'many_kernels'),
  *(
    pytest.param(name, marks=pytest.mark.slow)
    for name in (
      *('one_epoch', 'nan_loss', 'no_prune', 'no_dense', 'short_phases'),
      *('no_epoch', 'one_kernel', 'zero_kernels', 'chance', 'better'),
    )
  ),
)


@pytest.fixture
def tiny(tmp_path):
  return run_records.make_tiny(tmp_path)


@pytest.fixture
def usual(tmp_path):
  return run_records.make_inputs(tmp_path)


@pytest.fixture(params=_ODD)
def odd(tmp_path, request):
  return run_records.make_odd(tmp_path, request.param)


@pytest.fixture
def make(tmp_path):
  """Returns the function that makes inputs in a temporary folder."""
  return lambda **fields: run_records.make_inputs(tmp_path, **fields)
