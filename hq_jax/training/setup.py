"""The setup of a run: its config, checked before anything compiles."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import os
from typing import Any, IO

from flax import linen as nn
import jax
import numpy as np
import optax

from hq_jax import artifact as artifact_lib
from hq_jax import config as config_lib
from hq_jax import models
from hq_jax.baselines import method as baselines
from hq_jax.compression import method as method_lib
from hq_jax.compression import planner
from hq_jax.compression import to_artifact
from hq_jax.data import normalization
from hq_jax.data import sources
from hq_jax.data.images import threaded_reader
from hq_jax.data.sets import datasets
from hq_jax.inference import calibration
from hq_jax.runtime import distributed
from hq_jax.runtime import home
from hq_jax.runtime import sharding
from hq_jax.runtime import trackers
from hq_jax.runtime import workdir as workdir_lib
from hq_jax.training import dense_from
from hq_jax.training import initial_weights
from hq_jax.training import losses
from hq_jax.training import optimizers

_LOCK_SECONDS = 120.0


@dataclasses.dataclass(frozen=True)
class Setup:
  """A run that was checked and can begin.

  Attributes:
    config: validated.
    workdir: this run's own folder; see `claim`.
    identity: what a run must find again when it goes on.
    dataset: opened.
    unreadable: counts the images that cannot be read.
    model: the Flax module.
    pretrained: the weights that take the place of random ones.
    mesh: all devices.
    steps_per_epoch: the number of batches nearest to the training set's size.
    method: what compresses the network.
    plan: what the method makes of its shapes.
  """

  config: config_lib.Config
  workdir: str
  identity: dict[str, Any]
  dataset: datasets.Dataset
  unreadable: threaded_reader.Unreadable
  model: nn.Module
  pretrained: initial_weights.Weights
  mesh: jax.sharding.Mesh
  steps_per_epoch: int
  method: method_lib.Method
  plan: planner.Plan


def prepare(
  config: Mapping[str, Any],
  workdir: str | os.PathLike[str],
  dataset: datasets.Dataset | None = None,
) -> Setup:
  """Does all that can be refused, in all processes together.

  A dataset is what `config.data` names, opened before, or a part of it.
  """
  workdir = os.fspath(workdir)
  if workdir.startswith('~'):
    workdir = str(home.expand(workdir, 'workdir'))
  workdir_lib.check_name(workdir)
  checked = config_lib.validate(config)
  mesh = make_mesh(checked)
  optimizers.make_optimizer(checked.optimizer, lambda step: 0.0)
  found = dataset or distributed.first_then_others(
    lambda: load_dataset(checked.data)
  )
  return distributed.raise_on_all(lambda: _check(checked, workdir, mesh, found))


def prepare_shapes(config: config_lib.Config, devices: Sequence[Any]) -> Setup:
  """A setup to compile with: of devices that may not be here, without images.

  A set that TFDS knows need not be prepared.
  """
  optimizers.make_optimizer(config.optimizer, lambda step: 0.0)
  dataset = load_dataset(config.data, shapes_are_enough=True)
  return _check(config, '', make_mesh(config, devices), dataset)


def _check(
  config: config_lib.Config,
  workdir: str,
  mesh: jax.sharding.Mesh,
  dataset: datasets.Dataset,
) -> Setup:
  _check_dataset(config, dataset)
  if distributed.is_primary():
    trackers.check(config.trackers)
  num_images = len(dataset.train) or config.batch_size  # 0 of shapes alone
  steps_per_epoch = round(num_images / config.batch_size)
  model, header = build_model(config, dataset)
  shapes = get_shapes(model, dataset.image_shape)
  pretrained = initial_weights.read(config, shapes)
  method = make_method(config, header, steps_per_epoch)
  plan = method.plan(shapes)
  tx = method.transformation(
    plan, optax.identity(), optax.constant_schedule(0.0)
  )
  try:
    jax.eval_shape(tx.init, shapes['params'])
  except ValueError as error:  # What does not fit these kernels.
    raise ValueError(f'config.recipe.{error}') from None
  identity = config_lib.to_dict(config) | _identify(dataset, pretrained)
  if config.dense_from is not None:
    num_steps = config.dense.epochs * steps_per_epoch
    dense_from.check(workdir, identity, num_steps, config.dense_from)
  return Setup(
    config=config,
    workdir=workdir,
    identity=identity,
    dataset=dataset,
    unreadable=threaded_reader.Unreadable(config.data.max_unreadable),
    model=model,
    pretrained=pretrained,
    mesh=mesh,
    steps_per_epoch=steps_per_epoch,
    method=method,
    plan=plan,
  )


def build_model(
  config: config_lib.Config, dataset: datasets.Dataset
) -> tuple[nn.Module, dict[str, Any]]:
  """The network of a config, and what a file says of it."""
  fields = config_lib.to_dict(config)['model']
  arguments = {key: x for key, x in fields.items() if x is not None}
  name = arguments.pop('name')
  try:
    model = models.build(
      name, num_classes=len(dataset.class_names), arguments=arguments
    )
  except ValueError as error:
    raise config_lib.with_field(error, 'config.', config_lib.Config) from error
  header = {
    'model': name,
    'model_arguments': arguments,
    'input_shape': dataset.image_shape,
    'preprocessing': normalization.preprocessing(dataset),
    'class_names': dataset.class_names,
    'max_error': config.max_error,
    'activation_ranges': calibration.make_placeholders(
      name, arguments, dataset.image_shape, len(dataset.class_names)
    ),
  }
  return model, header


def get_shapes(model: nn.Module, image_shape: tuple[int, ...]) -> Any:
  """The shapes and types of a network's variables."""
  image = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
  return jax.eval_shape(model.init, jax.random.key(0), image)


def make_method(
  config: config_lib.Config, header: Mapping[str, Any], steps_per_epoch: int
) -> method_lib.Method:
  """The library's own method, or the baseline that a config names."""
  name, names = config.quantizer.name, (config_lib.OURS, *baselines.NAMES)
  make_artifact = functools.partial(to_artifact.make_artifact, **header)
  if name == config_lib.OURS:
    return method_lib.Hyperspherical(config, steps_per_epoch, make_artifact)
  if name in baselines.NAMES:
    return baselines.Baseline(config, steps_per_epoch, make_artifact)
  raise ValueError(
    f'config.quantizer.name is {name!r}, wanted one of: {", ".join(names)}'
  )


def claim(setup: Setup) -> IO[str]:
  """Makes the workdir this run's own, until what it returns is closed.

  Several processes call it together. A model that lies there must be whole.
  """
  return distributed.first_then_others(lambda: _claim(setup))


def _claim(setup: Setup) -> IO[str]:
  if not distributed.is_primary():
    return workdir_lib.join(setup.workdir, setup.identity)
  # A process that was killed on another host may be there for a while.
  wait_seconds = 0.0 if distributed.is_single_process() else _LOCK_SECONDS
  lock = workdir_lib.claim(setup.workdir, setup.identity, wait_seconds)
  path = os.path.join(setup.workdir, workdir_lib.MODEL)
  try:
    if os.path.exists(path):
      artifact_lib.read(path)
  except (ValueError, OSError):
    lock.close()
    raise
  return lock


def make_mesh(
  config: config_lib.Config, devices: Sequence[Any] | None = None
) -> jax.sharding.Mesh:
  """Devices, by default all, as a config wants them."""
  try:
    mesh = sharding.make_mesh(config.mesh.fsdp, devices)
  except ValueError as error:
    raise config_lib.with_field(
      error, 'config.mesh.', config_lib.Mesh
    ) from error
  sharding.check_batch_size(config.batch_size, mesh)
  return mesh


def load_dataset(
  config: config_lib.Data,
  *,
  shapes_are_enough: bool = False,
  evaluated_as: Sequence[str] | None = None,
) -> datasets.Dataset:
  """Opens the data set of a config, as `datasets.load` does."""
  load = datasets.load_shapes if shapes_are_enough else datasets.load
  try:
    return load(
      config.name,
      config.data_dir,
      image_size=config.image_size,
      crop_fraction=config.crop_fraction,
      train_split=config.train_split,
      test_split=config.test_split,
      class_names=config.class_names,
      evaluated_as=evaluated_as,
    )
  except ValueError as error:
    raise config_lib.with_field(
      error, 'config.data.', config_lib.Data
    ) from error


def _check_dataset(
  config: config_lib.Config, dataset: datasets.Dataset
) -> None:
  """Refuses a config that does not fit the images."""
  if 0 < len(dataset.train) < config.batch_size:
    raise ValueError(
      f'config.batch_size is {config.batch_size}, wanted at most the'
      f' {len(dataset.train)} training images'
    )
  least_side = min(dataset.image_shape[:2])
  max_shift = config.data.max_shift
  if dataset.resize is not None and max_shift:
    raise ValueError(
      f'config.data.max_shift is {max_shift}, wanted 0 where images are cropped'
      ' at random'
    )
  if max_shift >= least_side:
    raise ValueError(
      f'config.data.max_shift is {max_shift}, wanted 0 to {least_side - 1} for'
      f' images of {dataset.image_shape}'
    )
  has_labels = hasattr(dataset.train, 'labels')
  if config.optimizer.class_weights and len(dataset.train) and not has_labels:
    raise ValueError(
      f'config.optimizer.class_weights is {config.optimizer.class_weights!r},'
      f' wanted None for {dataset.name!r}, whose labels are known only image by'
      ' image'
    )
  num_workers = config.data.num_workers
  if num_workers and isinstance(dataset.train, sources.MemorySource):
    raise ValueError(
      f'config.data.num_workers is {num_workers}, wanted 0 for'
      f' {dataset.name!r}, whose images are held in memory'
    )


def find_class_weights(
  config: config_lib.Config, dataset: datasets.Dataset
) -> np.ndarray | None:
  """The weights of the classes in the loss; None where all are one."""
  labels = getattr(dataset.train, 'labels', None)
  if config.optimizer.class_weights is None or labels is None:
    return None
  return losses.balance(labels, len(dataset.class_names))


def _identify(
  dataset: datasets.Dataset, pretrained: initial_weights.Weights
) -> dict[str, Any]:
  """What a run must find again when it goes on, besides its config."""
  found = {}
  if dataset.fingerprint is not None:
    found['images'] = dataset.fingerprint
  if pretrained.digest:
    found['pretrained'] = pretrained.digest
  return {'inputs': found} if found else {}
