"""One run of the benchmark, through the library's own loop."""

import base64
import functools
import json
import math
import os
import shutil
import time
from typing import Any
import zlib

from absl import logging
from flax import serialization
import numpy as np

from benchmarks.accuracy import tables
from benchmarks.accuracy import tasks
from benchmarks.glyphs import glyphs
from configs import fashion_mnist
from hq_jax import config as config_lib
from hq_jax import report
from hq_jax.core import trees
from hq_jax.data.sets import datasets
from hq_jax.runtime import atomic_write
from hq_jax.runtime import checkpoint
from hq_jax.runtime import preemption
from hq_jax.runtime import provenance
from hq_jax.runtime import sharding
from hq_jax.runtime import workdir as workdir_lib
from hq_jax.training import evaluate
from hq_jax.training import export
from hq_jax.training import setup as setup_lib
from hq_jax.training import train
from hq_jax.training import train_state


def run(task: tasks.Task, budget: tasks.Budget, root: str) -> dict[str, Any]:
  """The result of a run, which is made where it is not there."""
  path = task.get_path(root)
  if os.path.exists(path):
    return _check_epochs(_read(path), budget, path)
  started = time.monotonic()
  logging.set_verbosity(logging.WARNING)
  checkpoint.silence_orbax()
  dataset = _load(task)
  reference_bytes = tasks.count_bytes(task, budget, dataset)
  result = task._asdict() | {
    'reference_bytes': reference_bytes,
    'dense_epochs': budget.dense_epochs,
    'compress_epochs': budget.compress_epochs,
    'commit': provenance.get_commit(),
    'hardware': provenance.get_hardware(),
  }
  if task.method == 'dense':
    result |= _measure_dense(task, budget, root, dataset)
  else:
    result |= _measure_file(task, budget, root, dataset)
    result['file_ratio'] = reference_bytes / result['file_bytes']
  result['seconds'] = round(time.monotonic() - started, 1)
  _write(path, result)
  return result


def fit(task: tasks.Task, budget: tasks.Budget, root: str) -> dict[str, Any]:
  """As `tasks.fit`, found once for all seeds.

  What is not of the search is as much smaller as the files of the search were
  too large.
  """
  kind = 'search' if task.kind == 'search' else 'final'
  name = (
    f'{kind}-{task.set.replace("/", "")}-{task.network}-{task.method}'
    f'-{task.ratio:g}x.json'
  )
  path = os.path.join(root, 'fitted', name)
  if os.path.exists(path):
    return _read(path)
  excess = 1.0 if kind == 'search' else _find_excess(task, root)
  fitted = tasks.fit(task, budget, open_set(task.set), excess)
  _write(path, fitted)
  return fitted


def _find_excess(task: tasks.Task, root: str) -> float:
  """The bytes of the best network of the search over those wanted of it."""
  found = [
    result
    for result in tables.read(root, 'search')
    if tuple(result[name] for name in task._fields[:3]) == task[:3]
  ]
  if not found:
    return 1.0
  distance = lambda result: abs(math.log(result['ratio'] / task.ratio))
  best = min(found, key=lambda result: (distance(result), -result['accuracy']))
  return best['ratio'] / best['file_ratio']


def get_start(
  task: tasks.Task, fitted: dict[str, Any], budget: tasks.Budget, root: str
) -> str:
  """The file of the dense network that a run starts from, or that it is.

  All methods share it that share the network's widths and the seed.
  """
  config = tasks.make_config(task, budget, fitted)
  kind = 'search' if task.kind == 'search' else 'final'
  widths = '-'.join(map(str, config.model.widths))
  name = (
    f'{kind}-{task.set.replace("/", "")}-{tasks.get_family(task.network)}'
    f'-{widths}'
    f'-{config.dense.epochs}epochs-rate{config.dense.learning_rate:g}'
    f'-seed{task.seed}'
  )
  return os.path.join(root, 'dense', f'{name}.msgpack')


def fit_dense(
  task: tasks.Task, budget: tasks.Budget, root: str
) -> dict[str, Any]:
  """Trains the dense network that a run starts from, where it is not there.

  Two processes must not do that for the same network at once.
  """
  fitted = fit(task, budget, root) if task.method != 'dense' else {}
  path = get_start(task, fitted, budget, root)
  if not os.path.exists(path):
    config = tasks.make_config(task, budget, fitted)
    config.quantizer.name = 'ternary'  # The dense stage knows none.
    config.prune.epochs, config.ternary.epochs = 0, 1
    # A size that every network has.
    config.recipe.distribution, config.target_ratio = 'uniform', 2.0
    folder = path.removesuffix('.msgpack')
    dataset = _load(task)
    setup = setup_lib.prepare(config, folder, dataset)
    with setup_lib.claim(setup):
      history = workdir_lib.History(folder, is_kept=True)
      evaluation = train.make_evaluation(setup)
      watch = preemption.Watch(setup.mesh)
      state = train.fit_dense(setup, history, evaluation, watch)
    variables = sharding.to_host(state.variables)
    atomic_write.write_bytes(path, serialization.msgpack_serialize(variables))
    shutil.rmtree(folder)
  with open(path, 'rb') as file:
    return serialization.msgpack_restore(file.read())


def _check_epochs(
  found: dict[str, Any], budget: tasks.Budget, path: str
) -> dict[str, Any]:
  epochs = found['dense_epochs'], found['compress_epochs']
  if epochs != (wanted := budget[:2]):
    raise ValueError(f'{path}: its epochs are {epochs}, wanted {wanted}')
  return found


def _read(path: str) -> dict[str, Any]:
  with open(path, encoding='utf-8') as file:
    return json.load(file)


def _write(path: str, found: dict[str, Any]) -> None:
  os.makedirs(os.path.dirname(path), exist_ok=True)
  text = json.dumps(found, indent=1, sort_keys=True)
  atomic_write.write_bytes(path, text.encode())


def _measure_dense(task, budget, root, dataset) -> dict[str, Any]:
  variables = fit_dense(task, budget, root)
  config = config_lib.validate(tasks.make_config(task, budget, {}))
  model, _ = setup_lib.build_model(config, dataset)
  evaluation = evaluate.make_evaluation(
    config, model, dataset, sharding.make_mesh()
  )
  return _describe(*evaluate.evaluate_answers(evaluation, variables))


def _measure_file(task, budget, root, dataset) -> dict[str, Any]:
  fitted = fit(task, budget, root)
  variables = fit_dense(task, budget, root)
  config = tasks.make_config(task, budget, fitted)
  folder = os.path.join(root, 'runs', task.name)
  setup = setup_lib.prepare(config, folder, dataset)
  with setup_lib.claim(setup):
    history = workdir_lib.History(folder, is_kept=True)
    evaluation = train.make_evaluation(setup)
    watch = preemption.Watch(setup.mesh)
    variables = sharding.to_devices(variables, setup.mesh)
    dense = train_state.TrainState(step=None, opt_state=(), **variables)
    plan, state = train.compress(setup, dense, history, evaluation, watch)
    exported = setup.method.export(plan, state)
    path, in_file = export.export_model(
      folder, exported, export.get_calibration_images(setup)
    )
    file_bytes = os.path.getsize(path)
    found = evaluate.evaluate_answers(evaluation, in_file)
    at_start = evaluation(variables)
    last = history.rows[-1]
  shutil.rmtree(folder)
  traced = {'phase', 'epoch', 'test_accuracy', 'cosine_distance', 'ste_bias'}
  history = [
    {name: value for name, value in row.items() if name in traced}
    for row in history.rows
  ]
  leaves = trees.flatten(variables['params'])
  distances = list(last['cosine_distance'].values())
  sizes = [leaves[path].size for path in last['cosine_distance']]
  return (
    _describe(*found)
    | {
      'file_bytes': file_bytes,
      'start_accuracy': at_start['accuracy'],
      'train_accuracy': last['train_accuracy'],
      'cosine_distance': float(np.mean(distances)),
      'weighted_distance': float(np.average(distances, weights=sizes)),
      'encodings': {path: x.encoding for path, x in plan.layers.items()},
      'fitted': fitted,
    }
    | ({'history': history} if task.kind == 'trace' else {})
  )


def _describe(found: dict[str, Any], answers: report.Answers) -> dict[str, Any]:
  """The accuracy, and which images are wrong, as bits in a text."""
  is_wrong = answers.prediction != answers.label
  packed = zlib.compress(np.packbits(is_wrong).tobytes(), 9)
  return {
    'accuracy': found['accuracy'],
    'num_images': len(is_wrong),
    'wrong': base64.b64encode(packed).decode(),
  }


def _load(task: tasks.Task) -> datasets.Dataset:
  dataset = open_set(task.set)
  if task.kind == 'search':
    return tasks.hold_out(dataset, task.seed)
  return dataset


@functools.cache
def open_set(name: str) -> datasets.Dataset:
  """A set by its name in `tasks.BUDGETS`."""
  if name in glyphs.SPECS:
    return glyphs.load(name)
  if name == 'fashion_mnist':
    config = config_lib.validate(fashion_mnist.get_config())
    return setup_lib.load_dataset(config.data)
  return datasets.load(name)
