"""The run: dense stage, compression stage, file, report; and the one loop."""

from collections.abc import Callable, Mapping
import os
import time
from typing import Any, IO, NamedTuple

from flax import linen as nn
import jax
import numpy as np
import optax
import tqdm

from hq_jax import artifact as artifact_lib
from hq_jax import checkpoint
from hq_jax import config as config_lib
from hq_jax import deploy
from hq_jax import diagnostics
from hq_jax import evaluate
from hq_jax import metrics
from hq_jax import models
from hq_jax import optimizers
from hq_jax import planner
from hq_jax import provenance
from hq_jax import report
from hq_jax import sharding
from hq_jax import ternary
from hq_jax import train_state
from hq_jax import train_step
from hq_jax import transforms
from hq_jax import trees
from hq_jax import workdir as workdir_lib
from hq_jax.data import datasets
from hq_jax.data import normalization
from hq_jax.data import pipeline


class Job(NamedTuple):
  """A run that was checked and can begin.

  Attributes:
    config: validated.
    workdir: this run's own folder.
    lock: held while the run lasts.
    dataset: opened.
    model: the Flax module.
    mesh: all devices.
    recipe: in steps, with the sparsity that was planned.
    header: what `deploy` writes into the file's header.
    dense_bytes: float32 bytes of all parameters and statistics.
    predicted_bytes: of the file, an upper bound.
    steps_per_epoch: the number of batches nearest to the training set's size.
  """

  config: config_lib.Config
  workdir: str
  lock: IO[str]
  dataset: datasets.Dataset
  model: nn.Module
  mesh: jax.sharding.Mesh
  recipe: transforms.Recipe
  header: dict[str, Any]
  dense_bytes: int
  predicted_bytes: int
  steps_per_epoch: int


class Stage(NamedTuple):
  """A part of the run with its own optimizer and checkpoints.

  Attributes:
    name: of its folder of checkpoints.
    tx: the optimizer.
    schedule: its learning rate.
    first_epoch: epochs of the stages before.
    phases: name and epochs of each phase.
    seed: of the order of the images.
  """

  name: str
  tx: optax.GradientTransformation
  schedule: optax.Schedule
  first_epoch: int
  phases: tuple[tuple[str, int], ...]
  seed: int

  @property
  def num_epochs(self) -> int:
    """The epochs of all phases."""
    return sum(epochs for _, epochs in self.phases)

  def get_phase(self, epoch: int) -> str:
    """The phase that an epoch of this stage (from 1) belongs to."""
    for name, epochs in self.phases:
      if epoch <= epochs:
        return name
      epoch -= epochs
    return self.phases[-1][0]


def prepare(config: Mapping[str, Any], workdir: str) -> Job:
  """Does all that can be refused, before anything compiles.

  Args:
    config: a `ConfigDict` or nested dictionaries.
    workdir: the run's folder.

  Returns:
    A job for `run`.

  Raises:
    ValueError: with the field and its value.
  """
  if not workdir:
    raise ValueError("workdir is '', wanted a folder: --workdir=DIR")
  checked = config_lib.validate(config)
  mesh = sharding.make_mesh()
  sharding.check_batch_size(checked.batch_size, mesh)
  optimizers.make_optimizer(checked.optimizer, lambda step: 0.0)
  dataset = datasets.load(checked.data.name, checked.data.data_dir)
  if checked.batch_size > len(dataset.train):
    raise ValueError(
      f'config.batch_size is {checked.batch_size}, wanted at most the'
      f' {len(dataset.train)} training images'
    )
  steps_per_epoch = round(len(dataset.train) / checked.batch_size)
  arguments = config_lib.to_dict(checked)['model']
  name = arguments.pop('name')
  model = models.build(
    name, num_classes=len(dataset.class_names), arguments=arguments
  )
  header = {
    'model': name,
    'model_arguments': arguments,
    'input_shape': dataset.image_shape,
    'preprocessing': normalization.preprocessing(dataset),
    'class_names': dataset.class_names,
  }
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), np.zeros((1, *dataset.image_shape))
  )
  plan = make_plan(checked, shapes, header)
  recipe = make_recipe(checked, plan.sparsity, steps_per_epoch)
  model_path = os.path.join(workdir, workdir_lib.MODEL)
  if os.path.exists(model_path):
    artifact_lib.read(model_path)  # Refuses a damaged one.
  lock = workdir_lib.claim(workdir, config_lib.to_dict(checked))
  return Job(
    config=checked,
    workdir=workdir,
    lock=lock,
    dataset=dataset,
    model=model,
    mesh=mesh,
    recipe=recipe,
    header=header,
    dense_bytes=plan.dense_bytes,
    predicted_bytes=plan.predicted_bytes,
    steps_per_epoch=steps_per_epoch,
  )


def make_plan(
  config: config_lib.Config, shapes: Any, header: Mapping[str, Any]
) -> planner.Plan:
  """Finds the sparsity: the config's own, or what its target ratio takes.

  Args:
    config: validated.
    shapes: the model's variables, as shapes and types.
    header: of the file.

  Returns:
    A plan.

  Raises:
    ValueError: where the ratio cannot be reached.
  """
  dense_bytes = 4 * sum(leaf.size for leaf in jax.tree.leaves(shapes))
  selected = trees.select(shapes['params'], trees.kernels)
  kernels = trees.flatten(trees.mask(shapes['params'], selected))
  sizes = {path: leaf.size for path, leaf in kernels.items()}
  # A file of this very layout with random codes, half of them zero. Its other
  # values differ more in size than those of a trained network, so that they
  # compress less and the file that results is no larger.
  rng = np.random.default_rng(0)
  draw = lambda leaf: np.exp2(2 * rng.standard_normal(leaf.shape)).astype('f4')
  variables = jax.tree.map(draw, shapes)
  codes = {}
  for path, leaf in kernels.items():
    values = np.resize(np.array([0, 1, 0, -1], np.int8), leaf.size)
    values = rng.permutation(values).reshape(leaf.shape)
    scale = np.ones(leaf.shape[-1:], np.float32)
    codes[path] = ternary.TernaryTensor(values, scale)
  probe = artifact_lib.dumps(deploy.make_artifact(variables, codes, **header))
  fixed_bytes = len(probe) - int(
    sum(
      planner.entropy_bytes(t.codes.size, int(np.count_nonzero(t.codes)))
      for t in codes.values()
    )
  )
  sparsity = config.recipe.sparsity
  if sparsity is not None:
    predicted = planner.predict_bytes(sizes, fixed_bytes, min(sparsity, 1.0))
    return planner.Plan(sparsity, predicted, dense_bytes)
  assert config.target_ratio is not None  # `validate` saw to it.
  try:
    return planner.plan_uniform(
      sizes,
      fixed_bytes=fixed_bytes,
      dense_bytes=dense_bytes,
      target_ratio=config.target_ratio,
    )
  except ValueError as error:
    raise ValueError(f'config.{error}') from None


def make_recipe(
  config: config_lib.Config, sparsity: float, steps_per_epoch: int
) -> transforms.Recipe:
  """The recipe of a config, in steps.

  Args:
    config: validated.
    sparsity: of every kernel at the end.
    steps_per_epoch: batches in an epoch.

  Returns:
    A recipe.

  Raises:
    ValueError: with the field's full name.
  """
  fields = config_lib.to_dict(config)['recipe'] | {
    'sparsity': sparsity,
    'prune_steps': config.prune.epochs * steps_per_epoch,
    'end_step': (config.prune.epochs + config.ternary.epochs) * steps_per_epoch,
  }
  try:
    return transforms.Recipe(**fields)
  except ValueError as error:
    raise ValueError(f'config.recipe.{error}') from None


def run(job: Job) -> dict[str, Any]:
  """Trains, compresses, writes the file, reads it back, and reports.

  A run that was interrupted goes on from its newest checkpoint and ends with
  the same bytes.

  Args:
    job: of `prepare`.

  Returns:
    The report, as in `report.json`.

  Raises:
    FloatingPointError: where the loss is no longer a number.
    ValueError: where `model.hq` is there already and is another model.
  """
  history = workdir_lib.History(job.workdir)
  eval_step = evaluate.make_eval_step(job.model)
  batches = pipeline.make_eval_batches(
    job.dataset.test,
    preprocessing=job.header['preprocessing'],
    batch_size=job.config.batch_size,
  )

  def evaluate_on_test(variables):
    return evaluate.evaluate(eval_step, variables, batches, job.mesh)

  dense_stage, compress_stage = make_stages(job)
  dense = fit(
    job,
    dense_stage,
    lambda: train_state.init(
      job.model,
      dense_stage.tx,
      jax.random.key(job.config.seed),
      job.dataset.image_shape,
      job.mesh,
    ),
    history,
    evaluate_on_test,
  )
  state = fit(
    job,
    compress_stage,
    lambda: train_state.restart(dense, compress_stage.tx, job.mesh),
    history,
    evaluate_on_test,
  )
  shipped = deploy.artifact_of_state(state, job.recipe, **job.header)
  path = write_model(job.workdir, shipped)
  latents = transforms.latents(state.opt_state, state.params)
  return report.write(
    job.workdir,
    report.Inputs(
      dense_kernels=_host_kernels(dense.params),
      latent_kernels=_host_kernels(latents),
      file_path=path,
      dense_bytes=job.dense_bytes,
      num_weights=job.dense_bytes // 4,
      dense=evaluate_on_test(dense.variables),
      ternary=evaluate_on_test(artifact_lib.to_variables(shipped)),
      file=evaluate_on_test(artifact_lib.to_variables(artifact_lib.read(path))),
      history=history.rows,
      config=config_lib.to_dict(job.config),
      seed=job.config.seed,
      commit=provenance.get_commit(),
      hardware=provenance.get_hardware(),
    ),
  )


def make_stages(job: Job) -> tuple[Stage, Stage]:
  """The dense stage and the compression stage of a job.

  Args:
    job: of `prepare`.

  Returns:
    Two stages, in their order.
  """
  config = job.config
  schedule = optimizers.make_schedule([config.dense], job.steps_per_epoch)
  dense = Stage(
    name='dense',
    tx=optimizers.make_optimizer(config.optimizer, schedule),
    schedule=schedule,
    first_epoch=0,
    phases=(('dense', config.dense.epochs),),
    seed=2 * config.seed,
  )
  schedule = optimizers.make_schedule(
    [config.prune, config.ternary], job.steps_per_epoch
  )
  compress = Stage(
    name='compress',
    tx=transforms.hq(
      optimizers.make_optimizer(config.optimizer, schedule), job.recipe
    ),
    schedule=schedule,
    first_epoch=config.dense.epochs,
    phases=(('prune', config.prune.epochs), ('ternary', config.ternary.epochs)),
    seed=2 * config.seed + 1,
  )
  return dense, compress


def fit(
  job: Job,
  stage: Stage,
  begin: Callable[[], train_state.TrainState],
  history: workdir_lib.History,
  evaluate_on_test: Callable[[Any], dict[str, Any]],
) -> train_state.TrainState:
  """The training loop: goes on from the newest checkpoint to the stage's end.

  Args:
    job: of `prepare`.
    stage: which optimizer, how long.
    begin: makes the stage's first state.
    history: gets a row for each epoch.
    evaluate_on_test: from variables to metrics.

  Returns:
    The state at the end.

  Raises:
    FloatingPointError: where the loss is no longer a number.
  """
  per_epoch = job.steps_per_epoch
  offset = stage.first_epoch * per_epoch
  iterator = pipeline.make_train_iterator(
    job.dataset,
    batch_size=job.config.batch_size,
    seed=stage.seed,
    max_shift=job.config.data.max_shift,
  )
  checkpoints = checkpoint.Checkpoints(
    os.path.join(job.workdir, workdir_lib.CHECKPOINTS, stage.name)
  )
  state = begin()
  first_step = checkpoints.latest_step() or 0
  if first_step:
    state = checkpoints.restore(state, iterator)
  if first_step < stage.num_epochs * per_epoch:
    history.truncate(offset + first_step)
  step_fn = train_step.make_train_step(
    job.model, stage.tx, label_smoothing=job.config.optimizer.label_smoothing
  )
  watch = jax.jit(lambda state: _watch(state, job.recipe), out_shardings=None)
  sums, started = None, time.monotonic()
  bar = tqdm.tqdm(
    total=stage.num_epochs * per_epoch,
    initial=first_step,
    desc=stage.name,
    unit='step',
    disable=None,
  )
  for step in range(first_step + 1, stage.num_epochs * per_epoch + 1):
    batch = sharding.to_global(next(iterator), job.mesh)
    state, batch_sums = step_fn(state, batch)
    sums = metrics.add(sums, batch_sums)
    bar.update()
    if step % per_epoch:
      continue
    epoch = step // per_epoch
    phase = stage.get_phase(epoch)
    train = metrics.means(sums)
    if not np.isfinite(train['loss']):
      raise FloatingPointError(
        f'the training loss is {train["loss"]} in epoch'
        f' {stage.first_epoch + epoch} ({phase}), wanted a finite one: lower'
        f' config.{phase}.learning_rate'
      )
    variables = state.variables
    if phase == 'ternary':
      variables = artifact_lib.to_variables(
        deploy.artifact_of_state(state, job.recipe, **job.header)
      )
    test = evaluate_on_test(variables)
    row = {
      'phase': phase,
      'step': offset + step,
      'epoch': stage.first_epoch + epoch,
      'train_loss': train['loss'],
      'train_accuracy': train['accuracy'],
      'test_loss': test['loss'],
      'test_accuracy': test['accuracy'],
      'learning_rate': float(stage.schedule(step - 1)),
    } | jax.tree.map(float, watch(state))
    row['seconds'] = time.monotonic() - started
    history.append(row)
    _show(bar, row)
    sums, started = None, time.monotonic()
    every = job.config.checkpoint_every_epochs
    if epoch % every == 0 or epoch == stage.num_epochs:
      checkpoints.save(step, state, iterator)
  bar.close()
  checkpoints.close()
  return state


def write_model(workdir: str, shipped: artifact_lib.Artifact) -> str:
  """Writes `model.hq`, or finds it written already.

  Args:
    workdir: the run's folder.
    shipped: the model.

  Returns:
    The path of the file.

  Raises:
    ValueError: where another model is there.
  """
  path = os.path.join(workdir, workdir_lib.MODEL)
  if os.path.exists(path):
    with open(path, 'rb') as file:
      if file.read() != artifact_lib.dumps(shipped):
        raise ValueError(
          f'{path} is not the model that this run ends with: move it away'
        )
    return path
  artifact_lib.write(path, shipped)
  return path


def _watch(
  state: train_state.TrainState, recipe: transforms.Recipe
) -> dict[str, dict[str, jax.Array]]:
  latents = state.params
  if optax.tree.get(state.opt_state, 'latents') is not None:
    latents = transforms.latents(state.opt_state, state.params)
  return diagnostics.kernel_diagnostics(
    state.params,
    latents,
    sparsity=recipe.sparsity,
    unit_norm=recipe.project,
  )


def _show(bar: tqdm.tqdm, row: Mapping[str, Any]) -> None:
  text = (
    f'{row["phase"]:7} epoch {row["epoch"]:3d}'
    f'  train loss {row["train_loss"]:.4f}'
    f'  test accuracy {row["test_accuracy"]:7.2%}'
    f'  cosine distance {np.mean(list(row["cosine_distance"].values())):.3f}'
  )
  if bar.disable:
    print(text, flush=True)
  else:
    bar.set_postfix_str(text)


def _host_kernels(params: Any) -> dict[str, np.ndarray]:
  selected = trees.select(params, trees.kernels)
  return {
    path: np.asarray(leaf)
    for path, leaf in trees.flatten(trees.mask(params, selected)).items()
  }
