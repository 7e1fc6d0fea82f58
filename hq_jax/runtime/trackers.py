"""Trackers: where the numbers of a run go besides `metrics.jsonl`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import util
import json
import os
import re
import secrets
from typing import Any, Protocol

from hq_jax.core import extras
from hq_jax.runtime import atomic_write

_FOLDER = 'tensorboard'
_WANDB_ID = 'wandb_id'

Row = Mapping[str, Any]


class Tracker(Protocol):
  """Is told of each epoch."""

  def log(self, rows: Sequence[Row]) -> None:
    """Takes the rows of the history that are new: the first time, all."""

  def close(self) -> None:
    """Ends, when there are no more."""


class _TensorBoard:
  """Event files of the whole history, in a folder of the workdir."""

  def __init__(self, workdir: str, config: Mapping[str, Any]):
    self._folder = os.path.join(workdir, _FOLDER)
    self._config = json.dumps(config, indent=2, sort_keys=True)
    self._writer: Any = None

  def log(self, rows: Sequence[Row]) -> None:
    if self._writer is None:
      import tensorboardX

      # An interrupted run does some epochs again: they would be there twice.
      _remove_events(self._folder)
      self._writer = tensorboardX.SummaryWriter(self._folder, purge_step=0)
      self._writer.add_text('config', f'```json\n{self._config}\n```')
    for row in rows:
      for name, value in _flatten(row):
        self._writer.add_scalar(name, value, row['step'])
    self._writer.flush()

  def close(self) -> None:
    if self._writer is not None:
      self._writer.close()


class _Wandb:
  """A run of Weights & Biases, which goes on when this one does."""

  def __init__(self, workdir: str, config: Mapping[str, Any]):
    import wandb

    path = os.path.join(workdir, _WANDB_ID)
    self._is_new = not os.path.exists(path)
    if self._is_new:
      atomic_write.write_bytes(path, secrets.token_hex(8).encode())
    with open(path, encoding='ascii') as file:
      run_id = file.read()
    parent, name = os.path.split(os.path.abspath(workdir))
    project = re.sub(r'[/\\#?%:]', '_', os.path.basename(parent)) or 'hq_jax'
    try:
      self._run = wandb.init(
        dir=workdir,
        project=os.environ.get('WANDB_PROJECT', project),
        name=name,
        id=run_id,
        resume='allow',
        config=dict(config),
      )
    except wandb.errors.Error as error:
      if self._is_new:
        os.unlink(path)
      reason = (str(error).splitlines() or [type(error).__name__])[0]
      raise ValueError(f'config.trackers: wandb: {reason}') from error

  def log(self, rows: Sequence[Row]) -> None:
    # It has the others, and would not take a step twice.
    for row in rows if self._is_new else rows[-1:]:
      self._run.log(dict(_flatten(row)), step=row['step'])
    self._is_new = False

  def close(self) -> None:
    self._run.finish()


# `jsonl` is the history itself.
_TRACKERS: dict[str, Callable[[str, Mapping[str, Any]], Tracker]] = {
  'tensorboard': _TensorBoard,
  'wandb': _Wandb,
}
_PACKAGES = {'tensorboard': 'tensorboardX', 'wandb': 'wandb'}


def check(names: Sequence[str]) -> None:
  """Refuses trackers whose package is not installed."""
  for name in names:
    package = _PACKAGES.get(name)
    if package and util.find_spec(package) is None:
      missing = ModuleNotFoundError(name=package)
      raise ValueError(f'config.trackers: {extras.explain(missing, name)}')


def open_all(
  names: Sequence[str], workdir: str, config: Mapping[str, Any]
) -> list[Tracker]:
  """Opens trackers by their names, each once."""
  return [
    _TRACKERS[name](workdir, config)
    for name in dict.fromkeys(names)
    if name in _TRACKERS
  ]


def _remove_events(folder: str) -> None:
  if os.path.isdir(folder):
    for name in os.listdir(folder):
      if name.startswith('events.out.tfevents.'):
        os.unlink(os.path.join(folder, name))


def _flatten(row: Row) -> Iterator[tuple[str, float]]:
  """The numbers of a row, those of tables as `cosine_distance/head/kernel`."""
  for name, value in row.items():
    table = value if isinstance(value, Mapping) else {'': value}
    for path, number in table.items():
      if isinstance(number, int | float):
        yield (f'{name}/{path}' if path else name), float(number)
