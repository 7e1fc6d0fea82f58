"""Jobs of digits in this process: how they are made, and stopped."""

from collections.abc import Callable, Iterator
import contextlib
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


@contextlib.contextmanager
def preparing() -> Iterator[Callable[..., setup_lib.Job]]:
  """Gives `setup.prepare`, and frees the folders."""
  locks = []

  def prepare(
    config: config_dict.ConfigDict,
    folder: str | os.PathLike[str],
    dataset: datasets.Dataset | None = None,
  ) -> setup_lib.Job:
    for lock in locks:
      lock.close()  # Of the run that was stopped in the same folder.
    job = setup_lib.prepare(config, str(folder), dataset)
    locks.append(job.lock)
    return job

  try:
    yield prepare
  finally:
    for lock in locks:
      lock.close()


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
