"""Writing a report: every file whole or not at all."""

import json
import os
from typing import Any

import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.report import drawing
from hq_jax.report import figures
from hq_jax.report import results
from hq_jax.report import run_record as inputs_lib
from hq_jax.report import summary
from hq_jax.report import tables
from hq_jax.report import weights
from hq_jax.report import wording
from hq_jax.runtime import atomic_write

JSON = 'report.json'
MARKDOWN = 'report.md'


def write(workdir: str, inputs: inputs_lib.Inputs) -> dict[str, Any]:
  """Writes `report.json`, `report.md` and pictures.

  Each file takes the place of an older one in one step; `report.json` is the
  last, so that where it is, all are.
  """
  inputs_lib.validate(inputs)
  quantizer = wording.get_quantizer(inputs.config)
  inputs = inputs._replace(
    history=wording.clean_history(inputs.history, quantizer)
  )
  with open(inputs.file_path, 'rb') as file:
    data = file.read()
  artifact = artifact_lib.loads(data, os.fspath(inputs.file_path))
  report = results.make(inputs, data, artifact)
  paths = list(inputs.dense_kernels)
  kernels = {p: artifact.tensors[f'{results.PREFIX}{p}'] for p in paths}
  shapes = {path: np.shape(inputs.dense_kernels[path]) for path in paths}
  with drawing.style():
    pictures = {
      'cosine_distance.png': figures.draw_cosine_distance(
        inputs.history, shapes, quantizer
      ),
      'training.png': figures.draw_training(
        inputs.history,
        inputs.dense['accuracy'],
        inputs.file['accuracy'],
        quantizer,
      ),
      'sizes.png': figures.draw_sizes(report),
      'weights.png': weights.draw(
        inputs.dense_kernels, inputs.latent_kernels, kernels, quantizer
      ),
      'summary.png': summary.draw(report, inputs.history),
    }
    contents = {name: drawing.to_png(f) for name, f in pictures.items()}
  contents[MARKDOWN] = tables.format_markdown(report).encode()
  text = json.dumps(report, indent=2, allow_nan=False) + '\n'
  contents[JSON] = text.encode()
  for name, content in contents.items():
    atomic_write.write_bytes(os.path.join(workdir, name), content)
  return report
