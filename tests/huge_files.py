"""Small files that declare more than any network has, and what they cost."""

from collections.abc import Iterator
import contextlib
import pathlib
import tracemalloc

import numpy as np

from hq_jax import artifact
from hq_jax.core import qtensors

SHAPE = 4096, 16384  # 64 MiB of codes


def write(path: pathlib.Path, exported: artifact.Artifact) -> str:
  """The file of an artifact, with a head of zeros that is that large."""
  zeros = np.broadcast_to(np.int8(0), SHAPE)
  scale = np.ones((1, SHAPE[1]), np.float16)
  head = {'params/head/kernel': qtensors.TernaryTensor(zeros, scale)}
  artifact.write(path, exported._replace(tensors={**exported.tensors, **head}))
  return str(path)


@contextlib.contextmanager
def costing_little() -> Iterator[None]:
  """Within the block, less is allocated than half of the codes take."""
  tracemalloc.start()
  try:
    yield
    assert tracemalloc.get_traced_memory()[1] < 1 << 25
  finally:
    tracemalloc.stop()
