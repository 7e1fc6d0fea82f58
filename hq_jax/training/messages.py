"""Lines that a run prints: what it is going to do, its epochs, and its end."""

from collections.abc import Mapping, Sequence
import os
import shlex
import shutil
import statistics
import sys
from typing import Any

import numpy as np

from hq_jax import config as config_lib
from hq_jax import report as report_lib
from hq_jax.compression import planner
from hq_jax.data.sets import datasets
from hq_jax.data.sets import folder_layouts
from hq_jax.data.sets import image_files
from hq_jax.runtime import terminal
from hq_jax.runtime import workdir as workdir_lib
from hq_jax.training import setup as setup_lib

_NUM_NAMES = 5  # of classes that are named
_MUCH_MORE = 3  # times as many images of one class as of another
_MANY_ZEROS = 0.99
_MOST_FOLDS = 20  # parts that a set may be divided into
_LAST_EPOCHS = 5  # whose time tells that of the next


def describe_setup(setup: setup_lib.Setup) -> str:
  """Says what a run is going to do, in a few lines."""
  config, dataset, plan = setup.config, setup.dataset, setup.plan
  shape = 'x'.join(map(str, dataset.image_shape))
  begin = f' from {config.pretrained}' if config.pretrained else ''
  lines = [
    f'network: {config.model.name}{begin}, {plan.dense_bytes // 4:,} parameters'
    f' and statistics, for images of {shape}',
    *_describe_small_images(setup),
    *([f'weights: {setup.pretrained.note}'] if setup.pretrained.note else []),
    f'classes: {len(dataset.class_names)}: {_list(dataset.class_names)}',
    f'images: {_describe_splits(dataset)}',
    *describe_ignored(dataset),
    *_describe_folds(dataset),
    *_describe_classes(setup),
    f'epochs: {config.dense.epochs} dense, {config.prune.epochs} prune,'
    f' {config.ternary.epochs} ternary; {_describe_batches(setup)}',
    f'plan: {planner.describe(plan)}',
    *_describe_thin(plan),
    *_describe_decay(setup),
  ]
  return '\n'.join(map(terminal.escape, lines))


def _describe_small_images(setup: setup_lib.Setup) -> list[str]:
  least = getattr(setup.model, 'least_side', 1)
  height, width, _ = setup.dataset.image_shape
  if min(height, width) >= least:
    return []
  return [
    f'images of {height}x{width} are smaller than the {least}x{least} pixels'
    f' that become one feature of {setup.config.model.name}: its last layers'
    ' see little but their own borders'
  ]


def _describe_thin(plan: planner.Plan) -> list[str]:
  """At most one line: kernels of which nearly nothing is left."""
  zeros = planner.sparsities(plan)
  thin = [path for path, share in zeros.items() if share > _MANY_ZEROS]
  if not thin:
    return []
  return [
    f'more than {_MANY_ZEROS:.0%} zeros in {len(thin)} of {len(zeros)} ternary'
    f' kernels: {_list(thin)}; a narrower network may serve better at this size'
  ]


def _describe_decay(setup: setup_lib.Setup) -> list[str]:
  decay = setup.config.optimizer.weight_decay
  on_sphere = setup.method.on_sphere(setup.plan)
  if not decay or not any(on_sphere(path, None) for path in setup.plan.layers):
    return []
  if setup.config.dense.epochs:
    where = 'kernels that become ternary in the dense phase alone'
  else:
    where = 'no kernel that becomes ternary'
  return [
    f'weight decay {decay:g} acts on {where}: on the sphere it changes no'
    ' direction; the learning rate sets the angle of a step'
  ]


def _describe_splits(dataset: datasets.Dataset) -> str:
  found = [f'{len(dataset.train):,} to train on']
  if dataset.validation is not None:
    found.append(f'{len(dataset.validation):,} to look at after each epoch')
  found.append(f'{len(dataset.test):,} to test on')
  if dataset.validation is not None:
    found[-1] += ' at the end'
  if dataset.is_held_out:
    found[-1] += ', held out of each class'
  return ', '.join(found)


def describe_evaluated(dataset: datasets.Dataset) -> list[str]:
  """At most two lines: what of a folder a file is not evaluated on."""
  lines = describe_ignored(dataset)
  if dataset.is_held_out:
    lines.append(
      'test images: those that training holds out of such a folder;'
      f' --config.data.test_split={folder_layouts.ALL} takes all of it'
    )
  return lines


def describe_ignored(dataset: datasets.Dataset) -> list[str]:
  """At most one line: which files beside the images are left out."""
  if not dataset.ignored:
    return []
  return [
    f'ignored: {sum(dataset.ignored.values()):,} other files beside the images:'
    f' {image_files.describe_ignored(dataset.ignored)}'
  ]


def _describe_folds(dataset: datasets.Dataset) -> list[str]:
  """A line where the classes are perhaps one folder deeper."""
  names, paths = dataset.class_names, getattr(dataset.train, 'paths', ())
  inner: dict[str, set[str]] = {name: set() for name in names}
  for path in paths if len(names) <= _MOST_FOLDS else ():
    parts = path.split('/')
    place = next((i for i, part in enumerate(parts) if part in inner), None)
    if place is None or place + 2 >= len(parts):
      return []  # An image right in the folder of a class.
    inner[parts[place]].add(parts[place + 1])
  found = next(iter(inner.values()))
  if len(found) < 2 or any(folders != found for folders in inner.values()):
    return []
  return [
    f'each class has the folders {_list(sorted(found))}: if these are the'
    ' classes, data_dir holds parts of a set, wanted one of them'
  ]


def _describe_classes(setup: setup_lib.Setup) -> list[str]:
  """Classes without images, and those that have many more than others."""
  lines, counts = [], {}
  for name in ('train', 'validation', 'test'):
    source = getattr(setup.dataset, name)
    labels = getattr(source, 'labels', None)
    if labels is None or not len(labels):
      continue
    names = setup.dataset.class_names
    counts[name] = np.bincount(labels, minlength=len(names))
    if missing := [names[i] for i in np.flatnonzero(counts[name] == 0)]:
      lines.append(
        f'no {name}{"ing" * (name == "train")} images of {len(missing)} of'
        f' {len(names)} classes: {_list(missing)}'
      )
  if 'train' not in counts:
    return lines
  least, most = counts['train'].min(), counts['train'].max()
  if setup.config.optimizer.class_weights:
    lines.append(
      f'class weights: all classes count alike in the loss, those of {least:,}'
      f' training images as those of {most:,}'
    )
  elif most >= _MUCH_MORE * max(least, 1):
    lines.append(
      f'classes have {least:,} to {most:,} training images, and count as many:'
      " optimizer.class_weights='balanced' lets all count alike"
    )
  return lines


def _describe_batches(setup: setup_lib.Setup) -> str:
  num_steps, batch_size = setup.steps_per_epoch, setup.config.batch_size
  num_images, num_seen = len(setup.dataset.train), num_steps * batch_size
  text = f'each {num_steps:,} batches of {batch_size}'
  if num_seen < num_images:
    text += f', {num_images - num_seen:,} images left for the next'
  elif num_seen > num_images:
    text += f', {num_seen - num_images:,} images twice'
  return text


def _list(names: Sequence[str]) -> str:
  """The first few of some names, each cut where it is long."""
  shown = [x if len(x) <= 24 else f'{x[:21]}...' for x in names[:_NUM_NAMES]]
  if len(names) > len(shown):
    shown.append(f'and {len(names) - len(shown):,} more')
  return ', '.join(shown)


def count_epochs(config: config_lib.Config) -> int:
  """The epochs of a whole run."""
  phases = config.dense, config.prune, config.ternary
  return sum(phase.epochs for phase in phases)


def estimate_seconds(
  rows: Sequence[Mapping[str, Any]], num_epochs: int
) -> float:
  """How long the epochs after those of some rows will take."""
  # The first epoch of a stage compiles: it says too much.
  last = [row['seconds'] for row in rows[-_LAST_EPOCHS:]]
  return statistics.median_low(last) * (num_epochs - rows[-1]['epoch'])


def describe_epoch(
  row: Mapping[str, Any], num_epochs: int, seconds_left: float
) -> str:
  """The line of an epoch, from its row in the metrics."""
  epoch = f'{row["epoch"]:{len(str(num_epochs))}} of {num_epochs}'
  split = report_lib.get_split(row)
  left = f', {format_seconds(seconds_left)} left' if seconds_left else ''
  return (
    f'{row["phase"]:7} epoch {epoch}  train loss {row["train_loss"]:.4f}'
    f'  {split} accuracy {row[f"{split}_accuracy"]:7.2%}'
    f'  {format_seconds(row["seconds"])}{left}'
  )


def format_seconds(seconds: float) -> str:
  """A duration in the unit that suits it.

  >>> [format_seconds(x) for x in (0.25, 42, 600, 9000)]
  ['0.2 s', '42 s', '10 min', '2.5 h']
  """
  if seconds < 100:
    return f'{seconds:.1f} s' if 0 < seconds < 10 else f'{seconds:.0f} s'
  if seconds < 6000:
    return f'{seconds / 60:.0f} min'
  return f'{seconds / 3600:.1f} h'


def describe_end(workdir: str, report: Mapping[str, Any]) -> str:
  """The table of a run, where its files are, and what to do with them."""
  place = lambda name: os.path.join(workdir, name)
  names = 'report.html', 'report.md', workdir_lib.CHECKPOINTS
  found = [place(name) for name in names if os.path.exists(place(name))]
  said = report_lib.describe_target(report), report_lib.describe_epochs(report)
  lines = [text for text in said if text]
  if unreadable := report['unreadable_images']:
    lines.append(f'Skipped: {len(unreadable):,} images that cannot be read.')
  path = place(workdir_lib.MODEL)
  lines += [
    f'model: {path}',
    f'more: {", ".join(found)}',
    f'to use it: {_get_program()} predict {shlex.quote(path)} IMAGE',
  ]
  table = report_lib.format_table(report)
  return '\n'.join([table, *map(terminal.escape, lines)])


def _get_program() -> str:
  """The command as one could type it here."""
  if shutil.which('hq-jax'):
    return 'hq-jax'
  return f'{shlex.quote(sys.executable)} -m hq_jax'
