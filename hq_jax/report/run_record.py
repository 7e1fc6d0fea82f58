"""The record of a run that a report is made from."""

from collections.abc import Mapping, Sequence
import numbers
import types
from typing import Any, NamedTuple

import numpy as np

from hq_jax.report import answers as answers_lib

EVALUATIONS = ('dense', 'ternary', 'file')

_PHASES = ('dense', 'prune', 'ternary')
_NUMBERS = (
  *('step', 'epoch', 'train_loss', 'train_accuracy'),
  *('learning_rate', 'seconds'),
)
_TABLES = ('sparsity', 'cosine_distance')


class Inputs(NamedTuple):
  """What a run hands over at its end.

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
      `train_loss`, `train_accuracy`, `test_loss` and `test_accuracy` (with a
      validation set, `validation_loss` and `validation_accuracy` in all rows
      instead), `learning_rate`, `seconds`; and, by the path of a kernel,
      `sparsity` (a fraction) and `cosine_distance` (mean over channels of 1 -
      cos between the latent kernel and its ternary projection at the final
      sparsity; with another quantizer, and the kernel that the network computes
      with).
      It may be empty, and numbers in it may be NaN or None.
    config: of the run: nested dicts of plain values.
    seed: of the run.
    commit: of the source.
    hardware: what it ran on, and versions: names to strings.
    predicted_bytes: of the file, by the plan; None where there was none.
    target_bytes: that the file may have; None where there is no target.
    unreadable: names of the images that were skipped.
    ignored: how many other files lay beside the images, by what they are.
    answers: for all test images, of the model that was read back.
    pictures: of test images by their position in the split, uint8 `[h, w, c]`.
    command: that began the process that ended the run.
    finished: when that was.
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
  target_bytes: int | None = None
  unreadable: tuple[str, ...] = ()
  ignored: Mapping[str, int] = types.MappingProxyType({})
  answers: answers_lib.Answers | None = None
  pictures: Mapping[int, np.ndarray] = types.MappingProxyType({})
  command: str = ''
  finished: str = ''


def get_split(row: Mapping[str, Any]) -> str:
  """The name of the split that a row of the history was evaluated on."""
  return 'validation' if 'validation_accuracy' in row else 'test'


def check_history(history: Sequence[Mapping[str, Any]]) -> None:
  """Refuses rows of `metrics.jsonl` that no run has written."""
  for index, row in enumerate(history):
    field = f'history[{index}]'
    split = get_split(history[0])
    numbers_here = *_NUMBERS, f'{split}_loss', f'{split}_accuracy'
    for name in ('phase', *numbers_here, *_TABLES):
      if name not in row:
        raise ValueError(f'{field} has no {name!r}, wanted one')
    if row['phase'] not in _PHASES:
      raise ValueError(
        f'{field}.phase is {row["phase"]!r}, wanted one of {", ".join(_PHASES)}'
      )
    for name in numbers_here:
      if not isinstance(row[name], numbers.Real | None):
        raise ValueError(f'{field}.{name} is {row[name]!r}, wanted a number')
    for name in _TABLES:
      if not isinstance(row[name], Mapping):
        raise ValueError(
          f'{field}.{name} is {row[name]!r}, wanted a number for each kernel'
        )
