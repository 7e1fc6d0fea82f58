"""The training loop: the steps of a stage, and what ends its epochs."""

from collections.abc import Callable, Mapping
import functools
import os
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

from hq_jax import artifact as artifact_lib
from hq_jax.compression import method as method_lib
from hq_jax.data import train_batches
from hq_jax.runtime import checkpoint
from hq_jax.runtime import distributed
from hq_jax.runtime import preemption
from hq_jax.runtime import sharding
from hq_jax.runtime import terminal
from hq_jax.runtime import workdir as workdir_lib
from hq_jax.training import diagnostics
from hq_jax.training import finite_guard
from hq_jax.training import messages
from hq_jax.training import metrics
from hq_jax.training import setup as setup_lib
from hq_jax.training import stages
from hq_jax.training import train_state
from hq_jax.training import train_step


class Snapshot(NamedTuple):
  """What a checkpoint holds, besides the place in the data.

  Attributes:
    state: of training.
    sums: of the epoch so far; zeros where none has begun.
  """

  state: train_state.TrainState
  sums: metrics.Sums


def fit(
  setup: setup_lib.Setup,
  stage: stages.Stage,
  begin: functools.partial[train_state.TrainState],
  history: workdir_lib.History,
  evaluate: Callable[..., dict[str, Any]],
  watch: preemption.Watch,
) -> train_state.TrainState:
  """Goes on from the newest checkpoint of a stage to its end."""
  run = _Run(setup, stage, history, evaluate, watch)
  run.begin_or_resume(begin)
  try:
    try:
      preemption.interrupt(watch.poll_now())  # Before anything compiles.
      for epoch in range(run.first_epoch, stage.num_epochs + 1):
        run.train(epoch)
        run.finish(epoch)
    except preemption.Interrupted as asked:
      raise preemption.Stopped(asked.signal_number, run.save_last()) from None
  except FloatingPointError as error:
    raise FloatingPointError(run.explain(error)) from None
  except KeyboardInterrupt:  # In a notebook, which may begin again at once.
    run.close()
    raise
  finally:
    run.stop_reading()
  run.close()
  return run.state


class _Run:
  """What goes on while a stage is trained; see `fit`."""

  def __init__(self, setup, stage, history, evaluate, watch):
    self._config = config = setup.config
    self._mesh: jax.sharding.Mesh = setup.mesh
    self._method: method_lib.Method = setup.method
    self._steps_per_epoch: int = setup.steps_per_epoch
    self._stage: stages.Stage = stage
    self._split: str = setup.dataset.watched_split
    self._history: workdir_lib.History = history
    self._evaluate = evaluate
    self._watch: preemption.Watch = watch
    self._before = stage.first_epoch * setup.steps_per_epoch
    self._iterator = _make_iterator(
      setup,
      stage.seed,
      max_shift=config.data.max_shift,
      max_erased=config.data.max_erased,
      flip=config.data.flip,
      min_area=config.data.min_area,
      num_workers=config.data.num_workers,
    )
    self._checkpoints = _open_checkpoints(setup, stage, history)
    self._train_step = make_step(setup, stage)
    # The same images at every epoch and in every stage.
    first = lambda: next(_make_iterator(setup, config.seed, min_area=1.0))
    self._diagnose = diagnostics.make_diagnose(
      setup.model,
      setup.mesh,
      setup.method.watched(stage.plan),
      first() if config.measure_bias else None,
    )
    self._seconds = 0.0

  def begin_or_resume(
    self, begin: functools.partial[train_state.TrainState]
  ) -> None:
    """Makes the first state, or reads the newest checkpoint."""
    if self._checkpoints.latest_step() is None:
      self.state, self._sums = begin(), self._no_sums()
    else:
      jitted: Any = begin.func
      like = Snapshot(jitted.eval_shape(*begin.args), self._no_sums())
      like = sharding.with_shardings(like, self._mesh)
      self.state, self._sums = self._checkpoints.restore(like, self._iterator)
    self._step = int(self.state.step)
    names = finite_guard.get_names(self.state.params)
    self._guard = finite_guard.Guard(names, self._config.max_skipped_steps)
    # An epoch may have been trained, but not evaluated.
    _, count = np.asarray(self._sums['loss'])
    is_begun = bool(self._step % self._steps_per_epoch == 0 and count > 0)
    self.first_epoch = (self._step - is_begun) // self._steps_per_epoch + 1
    if self.first_epoch <= self._stage.num_epochs:
      # A later stage may have begun before this one's last checkpoint was lost.
      until = self._before + self._stage.num_epochs * self._steps_per_epoch
      self._history.truncate(self._before + self._step - is_begun, until)
    self._bar = tqdm.tqdm(
      total=self._stage.num_epochs * self._steps_per_epoch,
      initial=self._step,
      desc=self._stage.name,
      unit='step',
      disable=None if distributed.is_primary() else True,
    )

  def train(self, epoch: int) -> None:
    """Takes the steps of an epoch that are left."""
    self._bar.set_description(
      f'{self._stage.get_phase(epoch)}, epoch {self._stage.first_epoch + epoch}'
      f' of {messages.count_epochs(self._config)}'
    )
    started = time.monotonic()
    every = self._config.checkpoint.every_steps
    while self._step < epoch * self._steps_per_epoch:
      batch = sharding.to_global(next(self._iterator), self._mesh)
      self.state, sums, finite = self._train_step(
        self.state, batch, self._stage.teacher
      )
      self._sums = metrics.add(self._sums, sums)
      self._step += 1
      self._guard.add(self._step, finite)
      self._bar.update()
      preemption.interrupt(self._watch.poll())
      self._checkpoints.check()
      is_within = self._step % self._steps_per_epoch != 0
      if every and is_within and self._step % every == 0:
        self._save()
    self._seconds = time.monotonic() - started

  def finish(self, epoch: int) -> None:
    """Evaluates, adds the row, and saves where it is time."""
    started = time.monotonic()
    self._guard.finish()
    row = self._make_row(epoch)
    state, variables = self.state, self.state.variables
    if row['phase'] == 'ternary':  # What the file holds is evaluated.
      state, variables, found = self._make_file(epoch)
      row |= found
    before_batch = lambda: preemption.interrupt(self._watch.poll())
    found = self._evaluate(variables, before_batch, split=self._split)
    for name in ('loss', 'accuracy'):
      row[f'{self._split}_{name}'] = found[name]
    row |= jax.tree.map(float, self._diagnose(state))
    if self._guard.num_skipped:
      row['skipped_steps'] = self._guard.num_skipped
      self._guard.num_skipped = 0
    row['seconds'] = self._seconds + time.monotonic() - started
    self.state, self._sums = state, self._no_sums()
    self._history.append(row)
    self._show(row)
    every = self._config.checkpoint.every_epochs
    if epoch % every == 0 or epoch == self._stage.num_epochs:
      self._save()

  def _show(self, row: Mapping[str, Any]) -> None:
    if not distributed.is_primary():
      return
    num_epochs = messages.count_epochs(self._config)
    left = messages.estimate_seconds(self._history.rows, num_epochs)
    if self._bar.disable:
      terminal.show(messages.describe_epoch(row, num_epochs, left))
    else:
      accuracy = row[f'{self._split}_accuracy']
      time_left = messages.format_seconds(left)
      self._bar.set_postfix_str(
        f'{self._split} {accuracy:.2%}, {time_left} left'
      )

  def _make_row(self, epoch: int) -> dict[str, Any]:
    """What training says of an epoch; refuses a loss that is not a number."""
    train = metrics.means(self._sums)
    if not np.isfinite(train['loss']):
      raise FloatingPointError(
        f'the training loss is {train["loss"]}, wanted a finite one'
      )
    return {
      'phase': self._stage.get_phase(epoch),
      'step': self._before + self._step,
      'epoch': self._stage.first_epoch + epoch,
      'train_loss': train['loss'],
      'train_accuracy': train['accuracy'],
      'learning_rate': float(self._stage.schedule(self._step - 1)),
    }

  def _make_file(
    self, epoch: int
  ) -> tuple[train_state.TrainState, dict[str, Any], dict[str, Any]]:
    """The state, nearer to its target; the file's variables; what to log."""
    method, plan, state = self._method, self._stage.plan, self.state
    is_last = epoch == self._stage.num_epochs
    exported = (method.export if is_last else method.encode)(plan, state)
    data = artifact_lib.dumps(exported)
    row: dict[str, Any] = {'file_bytes': len(data)}
    if not is_last:
      state, found = method.adapt(plan, state, exported, data)
      row |= found
    return state, artifact_lib.to_variables(exported), row

  def save_last(self) -> str:
    """Saves before the process ends; what to say of it."""
    self._guard.finish()
    if self._step:
      self._save()
    self.close()
    if not self._step:
      return f'stage {self._stage.name} has not begun; nothing is lost'
    return f'step {self._step} of stage {self._stage.name} is saved'

  def explain(self, error: FloatingPointError) -> str:
    """What went wrong, and what is left."""
    self.close()
    epoch = max(0, self._step - 1) // self._steps_per_epoch + 1
    phase = self._stage.get_phase(epoch)
    last = self._checkpoints.latest_step()
    kept = 'no checkpoint' if last is None else f'a checkpoint of step {last}'
    return (
      f'stage {self._stage.name}, epoch {self._stage.first_epoch + epoch}:'
      f' {error}; there is {kept}; skip a few such steps with'
      ' config.max_skipped_steps, or begin in a new workdir with a lower'
      f' config.{phase}.learning_rate'
    )

  def stop_reading(self) -> None:
    """Ends the threads or processes that read ahead."""
    self._iterator.close()

  def close(self) -> None:
    """Waits for the last checkpoint."""
    self._bar.close()
    self._checkpoints.close()

  def _save(self) -> None:
    if self._step == self._checkpoints.latest_step():
      return  # What comes after it is done again, to the same bits.
    self._guard.finish()
    broken = finite_guard.find_broken(self.state)
    if broken:
      raise FloatingPointError(
        f'step {self._step}: not finite: {", ".join(broken[:3])}'
      )
    snapshot = Snapshot(self.state, self._sums)
    self._checkpoints.save(self._step, snapshot, self._iterator)

  def _no_sums(self) -> metrics.Sums:
    return sharding.to_devices(metrics.zeros(), self._mesh)


def _make_iterator(setup: setup_lib.Setup, seed: int, **options: Any):
  return train_batches.make_train_iterator(
    setup.dataset,
    batch_size=setup.config.batch_size,
    seed=seed,
    unreadable=setup.unreadable,
    num_threads=setup.config.data.num_threads,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    **options,
  )


def _open_checkpoints(
  setup: setup_lib.Setup, stage: stages.Stage, history: workdir_lib.History
) -> checkpoint.Checkpoints:
  config = setup.config.checkpoint
  before = stage.first_epoch * setup.steps_per_epoch
  last_phase = stage.phases[-1][0]

  def get_score(step: int) -> float | None:
    for row in history.rows:
      if row['step'] == before + step and row['phase'] == last_phase:
        return row[f'{setup.dataset.watched_split}_accuracy']
    return None

  every = config.keep_every_epochs
  identity = setup.identity
  if stage.name == 'dense':  # Which another run may take: see `dense_from`.
    identity = workdir_lib.of_dense(identity)
  return checkpoint.Checkpoints(
    os.path.join(setup.workdir, workdir_lib.CHECKPOINTS, stage.name),
    identity,
    keep=config.keep,
    keep_every=None if every is None else every * setup.steps_per_epoch,
    get_score=get_score if config.keep_best else None,
  )


def make_step(
  setup: setup_lib.Setup, stage: stages.Stage
) -> train_step.TrainStep:
  """The training step of a stage."""
  config = setup.config
  return train_step.make_train_step(
    setup.model,
    stage.tx,
    seed=stage.seed,
    label_smoothing=config.optimizer.label_smoothing,
    class_weights=setup_lib.find_class_weights(config, setup.dataset),
    mixup_alpha=config.data.mixup_alpha,
    cutmix_alpha=config.data.cutmix_alpha,
    distill_weight=config.distill.weight,
    temperature=config.distill.temperature,
    skip_non_finite=config.max_skipped_steps > 0,
    mesh=setup.mesh,
  )
