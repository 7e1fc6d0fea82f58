"""What a report is made from, and the checks that it is whole."""

from collections.abc import Mapping
import itertools
import numbers
from typing import Any, NamedTuple

import numpy as np

PHASES = ('dense', 'prune', 'ternary')
EVALUATIONS = ('dense', 'ternary', 'file')

_NUMBERS_PER_EPOCH = (
  'train_loss',
  'train_accuracy',
  'test_loss',
  'test_accuracy',
  'learning_rate',
  'seconds',
)
_NUMBERS_PER_KERNEL = ('sparsity', 'cosine_distance')


class Inputs(NamedTuple):
  """What a run hands over at its end.

  Invariants: `validate` states them.

  Attributes:
    dense_kernels: path, as 'stage1_block1/conv1/kernel', -> the float32
      kernel, output channel last, at the end of the dense phase.
    latent_kernels: the latent weights at the end of training; the same paths
      and shapes.
    file_path: of the `.hq` file; it holds a tensor 'params/<path>' for each of
      those kernels.
    dense_bytes: float32 bytes of all parameters and statistics of the dense
      network.
    num_weights: the number of these parameters and statistics.
    dense: the evaluation of the dense network: `accuracy`, a fraction in
      [0, 1]; `loss`, in nats; `num_examples`, an int, the same in all three.
    ternary: the evaluation of the ternary network as training holds it.
    file: the evaluation of the model that was read back from the file.
    history: a row per epoch, in order, as in `metrics.jsonl`: `phase` (dense,
      prune or ternary), `step` and `epoch` (counted over the whole run),
      `train_loss`, `train_accuracy`, `test_loss`, `test_accuracy`,
      `learning_rate`, `seconds`; and, by the path of a kernel, `sparsity` (a
      fraction) and `cosine_distance` (mean over channels of 1 - cos between
      the latent kernel and its ternary projection at the final sparsity; with
      another quantizer, and the kernel that the network computes with).
      It may be empty, and numbers in it may be NaN or None.
    config: of the run: nested dicts of plain values.
    seed: of the run.
    commit: of the source.
    hardware: what it ran on, and versions: names to strings.
    predicted_bytes: of the file, by the plan; None where there was none.
    unreadable: names of the images that were skipped.
  """

  dense_kernels: dict[str, np.ndarray]
  latent_kernels: dict[str, np.ndarray]
  file_path: str
  dense_bytes: int
  num_weights: int
  dense: dict[str, Any]
  ternary: dict[str, Any]
  file: dict[str, Any]
  history: list[dict[str, Any]]
  config: dict[str, Any]
  seed: int
  commit: str
  hardware: dict[str, str]
  predicted_bytes: int | None = None
  unreadable: tuple[str, ...] = ()


def validate(inputs: Inputs) -> None:
  """Checks every field but the file, whose reader checks it."""
  for field in ('dense_bytes', 'num_weights'):
    _check_positive(field, getattr(inputs, field))
  if inputs.predicted_bytes is not None:
    _check_positive('predicted_bytes', inputs.predicted_bytes)
  _check_kernels(inputs.dense_kernels, inputs.latent_kernels)
  for field in EVALUATIONS:
    _check_evaluation(field, getattr(inputs, field))
  counts = [getattr(inputs, field)['num_examples'] for field in EVALUATIONS]
  if len(set(counts)) > 1:
    raise ValueError(
      f'num_examples: got {counts} for {", ".join(EVALUATIONS)}, wanted the '
      'same test set for all'
    )
  for index, row in enumerate(inputs.history):
    _check_row(f'history[{index}]', row, inputs.dense_kernels)
  for one, other in itertools.pairwise(inputs.history):
    if not (one['step'] < other['step'] and one['epoch'] < other['epoch']):
      raise ValueError(
        f'history: epoch {other["epoch"]}, step {other["step"]} comes after '
        f'epoch {one["epoch"]}, step {one["step"]}, wanted both to rise'
      )


def _check_positive(field: str, value: Any) -> None:
  if not isinstance(value, numbers.Integral) or value < 1:
    raise ValueError(f'{field}: got {value!r:.60}, wanted an int of at least 1')


def _check_kernels(
  dense: Mapping[str, np.ndarray], latent: Mapping[str, np.ndarray]
) -> None:
  if not dense:
    raise ValueError('dense_kernels: got none, wanted at least one kernel')
  if dense.keys() != latent.keys():
    odd = sorted(dense.keys() ^ latent.keys())
    raise ValueError(
      f'latent_kernels: {odd[0]!r} is only in one of dense_kernels and '
      'latent_kernels, wanted the same paths'
    )
  for path, kernel in dense.items():
    shapes = np.shape(kernel), np.shape(latent[path])
    if shapes[0] != shapes[1] or not shapes[0]:
      raise ValueError(
        f'latent_kernels[{path!r}]: got shape {shapes[1]}, in dense_kernels '
        f'{shapes[0]}, wanted the same, of one axis or more'
      )
  for field, kernels in (('dense_kernels', dense), ('latent_kernels', latent)):
    for path, kernel in kernels.items():
      if not np.all(np.isfinite(kernel)):
        raise ValueError(f'{field}[{path!r}]: got NaN or infinity, wanted none')


def _check_evaluation(field: str, evaluation: Mapping[str, Any]) -> None:
  for name in ('accuracy', 'loss', 'num_examples'):
    if name not in evaluation:
      raise ValueError(f'{field}: got no {name!r}, wanted one')
  _check_number(f'{field}.loss', evaluation['loss'])
  accuracy = evaluation['accuracy']
  _check_number(f'{field}.accuracy', accuracy)
  if accuracy is None or not 0 <= accuracy <= 1:
    raise ValueError(
      f'{field}.accuracy: got {accuracy}, wanted a fraction in [0, 1]'
    )
  _check_positive(f'{field}.num_examples', evaluation['num_examples'])


def _check_row(
  field: str, row: Mapping[str, Any], kernels: Mapping[str, np.ndarray]
) -> None:
  wanted = ('phase', 'step', 'epoch', *_NUMBERS_PER_EPOCH, *_NUMBERS_PER_KERNEL)
  for name in wanted:
    if name not in row:
      raise ValueError(f'{field}: got no {name!r}, wanted one')
  if row['phase'] not in PHASES:
    raise ValueError(
      f'{field}.phase: got {row["phase"]!r}, wanted one of {", ".join(PHASES)}'
    )
  for name in ('step', 'epoch'):
    _check_positive(f'{field}.{name}', row[name])
  for name in _NUMBERS_PER_EPOCH:
    _check_number(f'{field}.{name}', row[name])
  for name in _NUMBERS_PER_KERNEL:
    if row[name].keys() != kernels.keys():
      odd = sorted(row[name].keys() ^ kernels.keys())
      raise ValueError(
        f'{field}.{name}: {odd[0]!r} is only in one of it and dense_kernels, '
        'wanted the same paths'
      )
    for path, value in row[name].items():
      _check_number(f'{field}.{name}[{path!r}]', value)


def _check_number(field: str, value: Any) -> None:
  if value is not None and not isinstance(value, numbers.Real):
    raise ValueError(f'{field}: got {value!r:.60}, wanted a number')
