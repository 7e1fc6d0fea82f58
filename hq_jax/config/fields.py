"""The fields of a config, their defaults, and what each takes."""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

from hq_jax.core import recipe_fields


def _field(default: Any, check: Callable[[Any], bool], wanted: str) -> Any:
  return dataclasses.field(
    default=default, metadata={'check': check, 'wanted': wanted}
  )


def _at_least(least: int, default: int | None) -> Any:
  return _field(default, lambda x: x >= least, f'at least {least}')


def _positive(default: float) -> Any:
  return _field(
    default, lambda x: math.isfinite(x) and x > 0, 'a positive number'
  )


def _not_negative(default: float) -> Any:
  return _field(
    default, lambda x: 0 <= x < math.inf, 'a finite number of at least 0'
  )


def _alpha() -> Any:
  return _field(
    0.0, lambda x: x == 0 or 1e-3 <= x <= 1e3, '0, or a number of 1e-3 to 1e3'
  )


def _closed_fraction(default: float) -> Any:
  return _field(default, lambda x: 0.0 <= x <= 1.0, 'a fraction in [0, 1]')


def _fraction(default: float | None) -> Any:
  return _field(default, lambda x: 0.0 <= x < 1.0, 'a fraction in [0, 1)')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
  """Which images are read, and how.

  Attributes:
    name: `digits`, which is made here, any set that `hq-jax
      prepare` has prepared (`imagenet2012`, ...), or one of your own files:
      `folder`, `idx` or `arrays`.
    data_dir: where TFDS keeps prepared sets, None for its own default; for
      `folder`, the folder of images; for `idx`, that of the four files of
      MNIST; for `arrays`, a `.npz` file of `x_train`, `y_train`, `x_test` and
      `y_test`, images in uint8.
    class_names: of `idx` and `arrays`, by label; None for their numbers.
    train_split: of a prepared set; None for `train`.
    test_split: of a prepared set; None for its labelled test or validation set.
      Of a folder, for `--evaluate` alone: `train`, `validation`, `test` or
      `all`; None for what a run would test on.
    image_size: the side of the model's input in pixels: images are cropped and
      resized to it; None for images that are taken as they are stored, all of
      one size.
    crop_fraction: in evaluation, the side of the centre crop over the shorter
      side of the image.
    min_area: in training, the least area of a random crop over that of the
      image; 1 for crops that are the whole image or nearly so.
    flip: training images are mirrored at random.
    max_shift: training images that are not cropped are shifted by up to so many
      pixels.
    max_erased: the largest part of a training image that a rectangle in it may
      cover, in half of the images; 0 for none. See `augment.random_boxes`.
    mixup_alpha: see `mixing.mixup`; 0 for none.
    cutmix_alpha: see `mixing.cutmix`; 0 for none.
    max_unreadable: so many images that cannot be read are skipped before the
      run ends with an error.
    num_threads: that decode images; None for one per core.
    num_workers: processes that read training images from the disk and share
      those threads, where one process is not enough; 0 for none. Batches are
      the same. See docs/images.md.
  """

  name: str = 'digits'
  data_dir: str | None = _field(
    None,
    lambda x: '://' not in x,
    'a folder of a file system: mount the bucket, as by gcsfuse',
  )
  class_names: tuple[str, ...] | None = None
  train_split: str | None = None
  test_split: str | None = None
  image_size: int | None = _field(
    None, lambda x: 1 <= x <= 4096, 'an int of 1 to 4096'
  )
  crop_fraction: float = _field(
    0.875, lambda x: 0.5 <= x <= 1.0, 'a fraction in [0.5, 1]'
  )
  min_area: float = _field(
    0.08, lambda x: 0.0 < x <= 1.0, 'a fraction in (0, 1]'
  )
  flip: bool = False
  max_shift: int = _at_least(0, 0)
  max_erased: float = _fraction(0.0)
  mixup_alpha: float = _alpha()
  cutmix_alpha: float = _alpha()
  max_unreadable: int = _at_least(0, 10)
  num_threads: int | None = _at_least(1, None)
  num_workers: int = _at_least(0, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """Which network is trained.

  Attributes:
    name: a name in `models`.
    widths: the channels of each stage of `small_resnet`, or the units of each
      hidden layer of `mlp`.
    num_blocks: the blocks of each stage, of `small_resnet` alone; with 0 in the
      first stage, its width is that of the stem, and blocks begin at half the
      resolution.
    patch_size: the side of the patches of `vit` in pixels.
    width: the channels of each token of `vit`.
    depth: the blocks of `vit`.
    num_heads: the heads of each attention of `vit`, a divisor of the width.
    pool: what the head of a vision transformer sees: the class token (token,
      the default), or the mean of the patches' (mean).
    layer_scale: whether a vision transformer scales what each of its layers
      adds, as DeiT III does; not by default.
    dtype: of the computation: float32 or bfloat16.
  """

  name: str = 'small_resnet'
  widths: tuple[int, ...] | None = _field(
    None, lambda x: x and min(x) >= 1, 'widths of at least 1'
  )
  num_blocks: tuple[int, ...] | None = _field(
    None, lambda x: x and min(x) >= 0, 'numbers of at least 0'
  )
  patch_size: int | None = _at_least(1, None)
  width: int | None = _at_least(1, None)
  depth: int | None = _at_least(1, None)
  num_heads: int | None = _at_least(1, None)
  pool: str | None = _field(
    None, ('token', 'mean').__contains__, 'token or mean'
  )
  layer_scale: bool | None = None
  dtype: str = _field(
    'float32', ('float32', 'bfloat16').__contains__, 'float32 or bfloat16'
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
  """The optax optimizer, the same in every phase but for its decay.

  Attributes:
    name: a name in `optimizers`.
    weight_decay: of the kernels; not of those that become ternary with
      `recipe.project`, from the prune phase on: on the sphere they have no
      length to lose.
    label_smoothing: the mass that is spread over all classes.
    class_weights: with `balanced` all classes count alike in the loss, however
      many training images they have; see `losses.balance`. None for all images
      alike.
  """

  name: str = 'adamw'
  weight_decay: float = _not_negative(1e-4)
  label_smoothing: float = _fraction(0.0)
  class_weights: str | None = _field(
    None, ('balanced',).__contains__, 'balanced or None'
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distill:
  """The dense network as a teacher, while it is compressed.

  Attributes:
    weight: of its answers in the loss, the labels having the rest; 0 for none.
    temperature: see `losses.distillation`.
  """

  weight: float = _closed_fraction(0.0)
  temperature: float = _positive(2.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
  """A phase of training: a warm-up, then a cosine.

  Attributes:
    epochs: passes over the training set; 0 leaves the phase out.
    learning_rate: the peak.
    warmup_fraction: the part of the phase in which the rate rises from 0.
    final_fraction: the rate at the end, over the peak.
  """

  epochs: int = _at_least(0, 20)
  learning_rate: float = _positive(3e-3)
  warmup_fraction: float = _fraction(0.05)
  final_fraction: float = _closed_fraction(0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(recipe_fields.RecipeFields):
  """The method: see `transforms.Recipe`, which checks the values.

  Attributes:
    sparsity: the zeros of all kernels; None to reach `target_ratio`.
  """

  sparsity: float | None = _fraction(None)


# What `config.trackers` may have.
TRACKERS = 'jsonl', 'tensorboard', 'wandb'

# The quantizer of this library, which follows a recipe.
OURS = 'ternary'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantizer:
  """What the weights become; the other methods are there to compare with.

  Attributes:
    name: `ternary` is the method of this library, as `recipe` and
      `target_ratio` say. The others, `twn`, `ttq`, `parq`, `binary`, `uniform`
      and `vector`, see `baselines`, have neither: they take no `prune.epochs`,
      and their file has the size that it has.
    bits: of a weight, of `uniform` alone.
    group_size: weights that share a codeword, of `vector` alone.
    num_codewords: of each kernel at most, of `vector` alone.
    int8: kernels that stay in int8 with any of them, by the names of their
      layers, as `conv_stem` and `head`. None are by default, but that the
      allocation cosine_distance, which takes no names, finds its own.
  """

  name: str = OURS
  bits: int = _field(2, lambda x: 2 <= x <= 8, 'an int of 2 to 8')
  group_size: int = _at_least(1, 4)
  num_codewords: int = _field(16, lambda x: 2 <= x <= 256, 'an int of 2 to 256')
  int8: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
  """When the state is saved, and what stays on the disk.

  Attributes:
    every_epochs: epochs between two checkpoints.
    every_steps: steps between two checkpoints within an epoch; None for none.
    keep: how many of the newest stay in each stage; an older one is there to
      fall back on.
    keep_every_epochs: those of every so many epochs stay for good; None for
      none.
    keep_best: that of the best accuracy stays too, on the validation images,
      or on those of the test where there are no others; in the second stage, of
      the ternary network.
  """

  every_epochs: int = _at_least(1, 5)
  every_steps: int | None = _at_least(1, None)
  keep: int = _at_least(2, 2)
  keep_every_epochs: int | None = _at_least(1, None)
  keep_best: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
  """How the state is spread over the devices.

  Attributes:
    fsdp: so many devices share one copy of parameters, latent weights and
      optimizer state; the devices are divided into such groups, among which
      batches are divided as among the devices of a group.
  """

  fsdp: int = _at_least(1, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Everything that decides a run.

  Attributes:
    seed: of the initial weights and of the order of the images.
    target_ratio: float32 bytes of the network over bytes of its file; unused
      where `recipe.sparsity` is given.
    fill_target: the ternary phase lets more weights live while the file that
      it would make is smaller than that.
    max_error: the largest relative error with which the file may hold a tensor
      that is not ternary.
    pretrained: weights that training begins with: a file (see `pretrained`), an
      .hq file, or the folder of a run or of a checkpoint; with `dense.epochs` 0
      they are compressed as they are.
    pretrained_head: False for weights of other classes: the classifier is then
      trained anew.
    dense_from: the workdir of an earlier run, whose dense network this one
      compresses: all that the dense network depends on must be the same, and
      the ratio, the recipe and the epochs of compression may be others.
    batch_size: images in a step, over all devices.
    max_skipped_steps: so many steps in a row whose loss or gradient is NaN or
      infinite are skipped before the run ends with an error; 0 ends it at the
      first.
    trackers: where the numbers of each epoch go: `jsonl`, which is
      `metrics.jsonl` and always written; `tensorboard`, event files for
      TensorBoard; `wandb`, Weights & Biases.
    measure_bias: that of the straight-through gradient is measured after each
      epoch, on one batch: how far it points from the gradient at the latent
      weights; see `diagnostics.ste_bias`.
    checkpoint: when the state is saved, and what stays on the disk.
    mesh: how the state is spread over the devices.
    data: which images are read, and how.
    model: which network is trained.
    optimizer: of optax.
    distill: the dense network as a teacher, while it is compressed.
    dense: the phase that trains the dense network.
    prune: the phase that prunes and reinitializes.
    ternary: the phase that trains ternary weights.
    recipe: the method.
    quantizer: what the weights become.
  """

  seed: int = _field(0, lambda x: 0 <= x < 2**31, 'an int in [0, 2**31)')
  target_ratio: float | None = _field(
    30.0, lambda x: math.isfinite(x) and x > 1, 'a number above 1'
  )
  fill_target: bool = True
  max_error: float = _positive(1e-3)
  pretrained: str | None = None
  pretrained_head: bool = True
  dense_from: str | None = None
  batch_size: int = _at_least(1, 64)
  max_skipped_steps: int = _at_least(0, 0)
  trackers: tuple[str, ...] = _field(
    ('jsonl',), set(TRACKERS).issuperset, f'some of {", ".join(TRACKERS)}'
  )
  measure_bias: bool = False
  checkpoint: Checkpoint = Checkpoint()
  mesh: Mesh = Mesh()
  data: Data = Data()
  model: Model = Model()
  optimizer: Optimizer = Optimizer()
  distill: Distill = Distill()
  dense: Phase = Phase()
  prune: Phase = Phase()
  ternary: Phase = Phase()
  recipe: Recipe = Recipe()
  quantizer: Quantizer = Quantizer()
