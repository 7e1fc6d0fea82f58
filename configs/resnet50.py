"""A 30x smaller file from a ResNet-50 on ImageNet.

  python -m hq_jax prepare imagenet2012 --manual_dir=DIR_OF_THE_ARCHIVES
  python -m hq_jax.main --config=configs/resnet50.py:pretrained=resnet50.pth \
      --workdir=runs/resnet50
  python -m hq_jax.main --config=configs/resnet50.py:ratio=40,distill=0.5 \
      --workdir=runs/resnet50_40x

Arguments: `pretrained` (a file of torchvision's, timm's or Hugging Face's
weights, which are then compressed as they are; without it, a dense network is
trained first, for 90 epochs), `ratio` (float32 bytes over file bytes, default
30), `distill` (the weight of the dense network's answers in the loss, default
0), `batch_size` (over all devices, default 1024), `data_dir` (where TFDS keeps
prepared sets), `seed` (default 0), `debug` (2,000 images at 32 pixels, an epoch
of each phase: shows that everything works, and no more).

Expected: *not reproduced by us*, ImageNet is not at hand. The recipe is the one
of configs/digits.py with epochs as others use for compressing ResNets. From the
number of operations, about 12 hours on one A100 or 2 hours on eight with
pretrained weights, and 15 and 3 hours more without.
"""

from hq_jax import config as config_lib


def get_config(arguments=None):
  """Returns the config for `name=value` arguments separated by commas."""
  args = config_lib.parse_arguments(
    arguments,
    pretrained='',
    ratio=30.0,
    distill=0.0,
    batch_size=1024,
    data_dir='',
    seed=0,
    debug=False,
  )
  config = config_lib.get_defaults()
  config.seed = args.seed
  config.target_ratio = args.ratio
  config.pretrained = args.pretrained or None
  config.batch_size = args.batch_size
  config.checkpoint.every_epochs = 1
  config.data.name = 'imagenet2012'
  config.data.data_dir = args.data_dir or None
  config.data.image_size = 224
  config.data.flip = True
  config.model.name = 'resnet50'
  config.model.dtype = 'bfloat16'
  config.optimizer.name = 'adamw'
  config.optimizer.weight_decay = 0.05
  config.optimizer.label_smoothing = 0.1
  config.distill.weight = args.distill
  # The rates are those of 1,024 images in a step.
  scale = args.batch_size / 1024
  config.dense.epochs = 0 if args.pretrained else 90
  config.dense.learning_rate = 3e-3 * scale
  config.dense.warmup_fraction = 5 / 90
  config_lib.set_compression(config, 60, 1e-3 * scale)
  config.recipe.distribution = 'cosine_distance'
  config.recipe.refresh_steps = 100
  if args.debug:
    config.batch_size = 200
    config.data.train_split = 'train[:2000]'
    config.data.test_split = 'validation[:1000]'
    config.data.image_size = 32
    config.model.dtype = 'float32'
    config.dense.epochs = 0 if args.pretrained else 1
    config.prune.epochs = 1
    config.ternary.epochs = 1
    config.recipe.refresh_steps = 5
  return config
