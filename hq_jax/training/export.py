"""The file at the end of a run: written once, and read back by all."""

import os
from typing import Any

from hq_jax import artifact as artifact_lib
from hq_jax.runtime import distributed
from hq_jax.runtime import workdir as workdir_lib


def export_model(
  workdir: str, exported: artifact_lib.Artifact
) -> tuple[str, dict[str, Any]]:
  """The path of `model.hq`, written now or before, and the variables in it.

  Several processes call it together, and have what the first reads back.
  """
  path = os.path.join(workdir, workdir_lib.MODEL)
  data = distributed.raise_on_all(
    lambda: _write(path, exported) if distributed.is_primary() else None
  )
  data = distributed.broadcast_bytes(data)
  return path, artifact_lib.to_variables(artifact_lib.loads(data, path))


def _write(path: str, exported: artifact_lib.Artifact) -> bytes:
  is_there = os.path.exists(path)
  if not is_there:
    artifact_lib.write(path, exported)
  with open(path, 'rb') as file:
    data = file.read()
  if is_there and data != artifact_lib.dumps(exported):
    raise ValueError(
      f'{path} is not the model that this run ends with: move it away'
    )
  return data
