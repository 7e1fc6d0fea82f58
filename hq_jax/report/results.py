"""The numbers of a report: plain values, ready for JSON."""

from collections.abc import Mapping, Sequence
import math
import os
import re
from typing import Any

import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.report import answers as answers_lib
from hq_jax.report import run_record

# The file holds collections, training the collection 'params' alone.
PREFIX = 'params/'


def make(
  inputs: run_record.Inputs, data: bytes, artifact: artifact_lib.Artifact
) -> dict[str, Any]:
  """Computes everything that `report.json` holds.

  `ratio = dense_bytes / file_bytes`, and `bits_per_weight = 8 file_bytes /
  num_weights`. `sum(parts) = file_bytes`, and so is `sum(bytes of layers) +
  container_bytes`. `cosine_distance_start` is that of the last dense epoch,
  `cosine_distance_end` that of the last epoch; None where there is none.
  """
  dense = [row for row in inputs.history if row['phase'] == 'dense']
  start, end = (
    rows[-1]['cosine_distance'] if rows else {}
    for rows in (dense, inputs.history)
  )
  layers: list[dict[str, Any]] = [
    {
      'path': row.path,
      'shape': row.shape,
      'encoding': row.encoding,
      'zeros': row.zeros,
      'entropy_bits': row.entropy_bits,
      'bytes': row.num_bytes,
      'bits_per_weight': row.bits,
      'cosine_distance_start': start.get(row.path.removeprefix(PREFIX)),
      'cosine_distance_end': end.get(row.path.removeprefix(PREFIX)),
      'is_kernel': row.path.removeprefix(PREFIX) in inputs.dense_kernels,
    }
    for row in artifact_lib.layers(data)
  ]
  report: dict[str, Any] = {
    'model': artifact.model,
    'file': os.path.basename(inputs.file_path),
    'step': inputs.history[-1]['step'] if inputs.history else 0,
    'seed': inputs.seed,
    'commit': inputs.commit,
    'command': inputs.command,
    'finished': inputs.finished,
    'seconds': sum(row['seconds'] or 0.0 for row in inputs.history),
    'dense_bytes': inputs.dense_bytes,
    'predicted_bytes': inputs.predicted_bytes,
    'target_bytes': inputs.target_bytes,
    'file_bytes': len(data),
    'ratio': inputs.dense_bytes / len(data),
    'num_weights': inputs.num_weights,
    'bits_per_weight': 8 * len(data) / inputs.num_weights,
    'resident_bytes': count_resident_bytes(artifact),
    'num_examples': inputs.file['num_examples'],
    'unreadable_images': list(inputs.unreadable),
    'ignored_files': dict(inputs.ignored),
  }
  for field in run_record.EVALUATIONS:
    report[f'{field}_accuracy'] = getattr(inputs, field)['accuracy']
    report[f'{field}_loss'] = getattr(inputs, field)['loss']
  report['balanced_accuracy'] = answers_lib.find_balanced(inputs.answers)
  report |= answers_lib.summarize(inputs.answers, artifact.class_names)
  report |= {
    'parts': artifact_lib.sizes(data),
    'container_bytes': len(data) - sum(layer['bytes'] for layer in layers),
    'layers': layers,
    'cosine_distance': end,
    'history': [_summarize(row) for row in inputs.history],
    'config': inputs.config,
    'hardware': inputs.hardware,
  }
  return {key: to_plain(key, value) for key, value in report.items()}


def count_resident_bytes(artifact: artifact_lib.Artifact) -> int:
  """Bytes of the arrays that a reader of the file holds.

  An int8 per ternary or int8 code, a uint8 per index, and the codewords, scales
  and other tensors in their types.
  """
  total = 0
  for tensor in artifact.tensors.values():
    parts = (tensor,) if isinstance(tensor, np.ndarray) else tensor
    total += sum(part.nbytes for part in parts if part is not None)
  return total


def sort_kernels(shapes: Mapping[str, Sequence[int]]) -> list[str]:
  """Paths in the order of the network, as far as names and shapes tell it.

  What is called a stem comes first, convolutions come before dense kernels,
  and otherwise names are in natural order (2 before 10).
  """

  def rank(path):
    # Odd places hold the digits: ints are compared with ints alone.
    parts = re.split(r'(\d+)', path)
    natural = [int(p) if i % 2 else p for i, p in enumerate(parts)]
    return len(shapes[path]) <= 2, 'stem' not in path, natural

  return sorted(shapes, key=rank)


def to_float(value: Any) -> float:
  """A number of the history; NaN where it is missing."""
  return math.nan if value is None else float(value)


def get_distances(
  history: Sequence[Mapping[str, Any]], paths: Sequence[str]
) -> np.ma.MaskedArray:
  """The cosine distances of all epochs."""
  rows = [
    [to_float(row['cosine_distance'][path]) for path in paths]
    for row in history
  ]
  shape = len(history), len(paths)
  return np.ma.masked_invalid(np.array(rows, np.float64).reshape(shape))


def to_plain(field: str, value: Any) -> Any:
  """Returns a copy that JSON can hold; NaN and infinities become None."""
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, Mapping):
    return {
      str(key): to_plain(f'{field}.{key}', item) for key, item in value.items()
    }
  if isinstance(value, list | tuple):
    return [to_plain(f'{field}[{i}]', item) for i, item in enumerate(value)]
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  if value is None or isinstance(value, bool | int | str):
    return value
  raise ValueError(f'{field} is {value!r:.60}, wanted a plain value')


def _summarize(row: Mapping[str, Any]) -> dict[str, Any]:
  """A row of the history, means over kernels in the place of tables."""
  summary = {k: v for k, v in row.items() if not isinstance(v, Mapping)}
  for name in ('cosine_distance', 'sparsity'):
    values = [to_float(x) for x in row[name].values() if x is not None]
    summary[f'mean_{name}'] = float(np.mean(values)) if values else None
  return summary
