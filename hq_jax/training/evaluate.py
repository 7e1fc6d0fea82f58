"""Exact evaluation: every image once."""

from collections.abc import Callable, Iterable, Mapping
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax import config as config_lib
from hq_jax import models
from hq_jax import report
from hq_jax.data import eval_batches
from hq_jax.data import normalization
from hq_jax.data.images import threaded_reader
from hq_jax.data.sets import datasets
from hq_jax.inference import network
from hq_jax.runtime import distributed
from hq_jax.runtime import sharding
from hq_jax.runtime import terminal
from hq_jax.training import messages
from hq_jax.training import metrics
from hq_jax.training import setup as setup_lib

Answers = dict[str, jax.Array]
EvalStep = Callable[[Any, dict[str, jax.Array]], tuple[metrics.Sums, Answers]]


def make_eval_step(model: nn.Module, mesh: jax.sharding.Mesh) -> EvalStep:
  """Makes the compiled function from variables and batch to sums, answers."""
  axes = sharding.get_axes(mesh)
  dtype = getattr(model, 'dtype', jnp.float32)

  def answer(variables, batch, specs):
    variables = sharding.gather(variables, specs, dtype)
    logits: Any = model.apply(variables, batch['image'], train=False)
    labels = batch['label']
    sums = metrics.classification_sums(logits, labels, batch['valid'])
    return jax.lax.psum(sums, axes), metrics.describe_answers(logits, labels)

  def eval_step(variables, batch):
    specs = sharding.state_specs(variables, mesh)
    get_answers = sharding.on_each_device(
      functools.partial(answer, specs=specs),
      mesh,
      (specs, sharding.batch_spec(mesh)),
      (sharding.ON_ALL, sharding.batch_spec(mesh)),
    )
    return get_answers(variables, batch)

  return sharding.jit(eval_step, mesh)


def evaluate(
  eval_step: EvalStep,
  variables: Any,
  batches: Iterable[dict[str, np.ndarray]],
  mesh: jax.sharding.Mesh,
  before_batch: Callable[[], None] = lambda: None,
  keep: Callable[[Answers], None] = lambda answers: None,
) -> dict[str, Any]:
  """Evaluates a model on a split; `keep` is given the answers of a batch."""
  variables = sharding.to_devices(variables, mesh)
  sums = None
  for batch in batches:
    before_batch()
    arrays = sharding.to_global(batch, mesh)
    found, answers = sharding.wait_on_cpu(eval_step(variables, arrays))
    keep({**arrays, **answers})
    sums = found if sums is None else metrics.add(sums, found)
  if sums is None:
    raise ValueError('batches is empty, wanted at least one batch')
  num_examples = int(np.asarray(sums['accuracy'])[1])
  if not num_examples:
    raise ValueError('not one of the test images can be read')
  return metrics.means(sums) | {'num_examples': num_examples}


def make_evaluation(
  config: config_lib.Config,
  model: nn.Module,
  dataset: datasets.Dataset,
  mesh: jax.sharding.Mesh,
  *,
  preprocessing: Mapping[str, Any] | None = None,
  unreadable: threaded_reader.Unreadable | None = None,
) -> Callable[..., dict[str, Any]]:
  """Makes the evaluation of variables on all images of a split, by its name.

  That is `test` if none is named. Images are preprocessed as in training,
  unless a file says otherwise.
  """
  eval_step = make_eval_step(model, mesh)
  options: dict[str, Any] = {
    'preprocessing': preprocessing or normalization.preprocessing(dataset),
    'batch_size': config.batch_size,
    'unreadable': unreadable,
    'num_threads': config.data.num_threads,
    'process_index': jax.process_index(),
    'process_count': jax.process_count(),
  }

  def evaluation(variables, *args, split='test', **kwargs):
    batches = eval_batches.EvalBatches(getattr(dataset, split), **options)
    return evaluate(eval_step, variables, batches, mesh, *args, **kwargs)

  return evaluation


def evaluate_answers(
  evaluation: Callable[..., dict[str, Any]], variables: Any
) -> tuple[dict[str, Any], report.Answers]:
  """What an evaluation finds, and the answers for all test images.

  Several processes call it together, and have the answers for all.
  """
  names = ('valid', *report.Answers._fields)
  kept: list[dict[str, np.ndarray]] = []
  found = evaluation(
    variables,
    keep=lambda answers: kept.append(
      sharding.to_host({name: answers[name] for name in names})
    ),
  )
  joined = {name: np.concatenate([x[name] for x in kept]) for name in names}
  rows = np.flatnonzero(joined.pop('valid'))
  # Devices need not be in the order of the processes.
  rows = rows[np.argsort(joined['position'][rows])]
  return found, report.Answers(**{k: x[rows] for k, x in joined.items()})


def evaluate_file(path: str, config: Mapping[str, Any]) -> dict[str, Any]:
  """Evaluates a model that is read from its file."""
  checked = config_lib.validate(config)
  found = network.read(path)
  model = models.build(
    found.model,
    num_classes=network.count_classes(found),
    arguments=found.model_args,
  )
  mesh = setup_lib.make_mesh(checked)
  dataset = distributed.first_then_others(
    lambda: setup_lib.load_dataset(checked.data, evaluated_as=found.class_names)
  )
  if distributed.is_primary():
    for line in messages.describe_evaluated(dataset):
      terminal.show(terminal.escape(line))
  for name, theirs, ours in (
    ('input_shape', found.input_shape, dataset.image_shape),
    ('class_names', found.class_names, dataset.class_names),
  ):
    if theirs != ours:
      raise ValueError(
        f'{path}: {name} is {theirs!s:.200}, but {dataset.name} has'
        f' {ours!s:.200}'
      )
  crop = normalization.get_crop(found.preprocessing)
  if (crop is None) != (dataset.resize is None):
    raise ValueError(
      f'{path}: its images are {"not " if crop is None else ""}cropped, but'
      f' config.data.image_size is {checked.data.image_size}'
    )
  evaluation = make_evaluation(
    checked,
    model,
    dataset,
    mesh,
    preprocessing=found.preprocessing,
    unreadable=threaded_reader.Unreadable(checked.data.max_unreadable),
  )
  return evaluation(artifact_lib.to_variables(found))
