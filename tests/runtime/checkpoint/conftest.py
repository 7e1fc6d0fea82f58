"""Checkpoints that are opened again and again."""

import pytest

from hq_jax.runtime import checkpoint


@pytest.fixture
def open_checkpoints(tmp_path):
  """Opens the folder, again and again; everything is closed at the end."""
  opened = []

  def open_again():
    for found in opened:
      found.wait()
    opened.append(checkpoint.Checkpoints(str(tmp_path / 'steps')))
    return opened[-1]

  yield open_again
  for found in opened:
    found.close()
