"""Runs on the digits in this process: how they are set up, and stopped."""

import os
import pathlib
import signal
from typing import Any

import jax
from ml_collections import config_dict

from configs import digits
from hq_jax.data.sets import datasets
from hq_jax.runtime import preemption
from hq_jax.training import setup as setup_lib

# A perceptron has the least to compile.
PERCEPTRON = {
  'model.name': 'mlp',
  'model.widths': (8,),
  'model.num_blocks': None,
}


def get_config(data_dir: pathlib.Path, **fields: Any) -> config_dict.ConfigDict:
  """Of a debug run with one sparsity, and some fields by their full name."""
  config = digits.get_config('debug')
  config.data.data_dir = str(data_dir)
  config.recipe.distribution = 'uniform'
  config.update_from_flattened_dict(fields)
  return config


def prepare(
  config: config_dict.ConfigDict,
  folder: str | os.PathLike[str],
  dataset: datasets.Dataset | None = None,
) -> setup_lib.Setup:
  """The setup of a run, whose folder is there and is locked by nobody."""
  setup = setup_lib.prepare(config, folder, dataset)
  setup_lib.claim(setup).close()
  return setup


class SignalAt(preemption.Watch):
  """A watch that gets SIGTERM just before it is asked the n-th time."""

  def __init__(self, mesh: jax.sharding.Mesh, count: int):
    super().__init__(mesh)
    self._left = count

  def poll(self):
    self._left -= 1
    if self._left == 0:
      assert self.receive(signal.SIGTERM)
    return super().poll()
