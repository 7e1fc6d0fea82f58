"""The file at the end of a run: written once, and read back by all."""

from collections.abc import Iterable, Iterator
import os
from typing import Any

import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.data import eval_batches
from hq_jax.data import normalization
from hq_jax.data import sources
from hq_jax.inference import calibration
from hq_jax.runtime import distributed
from hq_jax.runtime import workdir as workdir_lib
from hq_jax.training import setup as setup_lib

# Of the training images, how many the ranges of activations are measured on,
# and how many are read at once.
_NUM_IMAGES = 512
_BATCH_SIZE = 64


def export_model(
  workdir: str,
  exported: artifact_lib.Artifact,
  images: Iterable[np.ndarray] = (),
) -> tuple[str, dict[str, Any]]:
  """The path of `model.hq`, written now or before, and the variables in it.

  Before it is written the ranges of activations, if it has any, are measured
  on the images. Several processes call it together, and have what the first
  measures, writes and reads back.
  """
  path = os.path.join(workdir, workdir_lib.MODEL)
  data = distributed.raise_on_all(
    lambda: _write(path, exported, images) if distributed.is_primary() else None
  )
  data = distributed.broadcast_bytes(data)
  return path, artifact_lib.to_variables(artifact_lib.loads(data, path))


def get_calibration_images(setup: setup_lib.Setup) -> Iterator[np.ndarray]:
  """Training images from all over the set, as in evaluation."""
  batches = eval_batches.EvalBatches(
    sources.SpreadSource(setup.dataset.train, _NUM_IMAGES),
    preprocessing=normalization.preprocessing(setup.dataset),
    batch_size=_BATCH_SIZE,
    unreadable=setup.unreadable,
    num_threads=setup.config.data.num_threads,
  )
  for batch in batches:
    yield from batch['image'][batch['valid']]


def _write(
  path: str, exported: artifact_lib.Artifact, images: Iterable[np.ndarray]
) -> bytes:
  is_there = os.path.exists(path)
  if not is_there:
    if exported.activation_ranges:
      ranges = calibration.measure(exported, images)
      exported = exported._replace(activation_ranges=ranges)
    artifact_lib.write(path, exported)
  with open(path, 'rb') as file:
    data = file.read()
  if is_there:
    _check(path, data, exported)
  return data


def _check(path: str, data: bytes, exported: artifact_lib.Artifact) -> None:
  """Refuses a file that does not hold what is exported, but for its ranges."""
  ranges = artifact_lib.loads(data, path).activation_ranges
  if len(ranges) == len(exported.activation_ranges):
    exported = exported._replace(activation_ranges=ranges)
  if data != artifact_lib.dumps(exported):
    raise ValueError(
      f'{path} is not the model that this run ends with: move it away'
    )
