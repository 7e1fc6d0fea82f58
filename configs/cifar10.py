"""A 30x smaller file from a ResNet-20 on CIFAR-10.

  python -m hq_jax prepare cifar10
  python -m hq_jax.main --config=configs/cifar10.py --workdir=runs/cifar10
  python -m hq_jax.main --config=configs/cifar10.py:model=resnet56,ratio=40 \
      --workdir=runs/cifar10_56

Arguments: `model` (`resnet20`, the default, or `resnet56`), `ratio` (float32
bytes over file bytes, default 30), `distill` (the weight of the dense network's
answers in the loss, default 0), `data_dir` (where TFDS keeps prepared sets),
`seed` (default 0), `debug` (an epoch of each phase on 2,000 images: shows that
everything works, and no more).

Expected: *not reproduced by us*, CIFAR-10 is not at hand; others report dense
accuracies of about 92% and 94% for these networks. From the number of
operations, about an hour on any GPU of the last years.
"""

from hq_jax import config as config_lib


def get_config(arguments=None):
  """Returns the config for `name=value` arguments separated by commas."""
  args = config_lib.parse_arguments(
    arguments,
    model='resnet20',
    ratio=30.0,
    distill=0.0,
    data_dir='',
    seed=0,
    debug=False,
  )
  config = config_lib.get_defaults()
  config.seed = args.seed
  config.target_ratio = args.ratio
  config.batch_size = 128
  config.data.name = 'cifar10'
  config.data.data_dir = args.data_dir or None
  config.data.flip = True
  config.data.max_shift = 4
  config.model.name = args.model
  config.optimizer.weight_decay = 0.05
  config.distill.weight = args.distill
  config.dense.epochs = 150
  config.dense.learning_rate = 3e-3
  config_lib.set_compression(config, 150, 5e-3)
  config.recipe.distribution = 'cosine_distance'
  config.recipe.refresh_steps = 50
  if args.debug:
    config.data.train_split = 'train[:2000]'
    config.data.test_split = 'test[:1000]'
    config.checkpoint.every_epochs = 1
    config.dense.epochs = 1
    config.prune.epochs = 1
    config.ternary.epochs = 1
    config.recipe.refresh_steps = 5
  return config
