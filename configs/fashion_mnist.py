"""A 40x smaller file from a small ResNet on Fashion-MNIST.

  apt-get install dataset-fashion-mnist
  python -m hq_jax.main --config=configs/fashion_mnist.py:quick \
      --workdir=runs/fashion_quick
  python -m hq_jax.main --config=configs/fashion_mnist.py \
      --workdir=runs/fashion

The images are those of Debian's package, or of any other folder with the four
IDX files of the set.

Arguments: `data_dir` (that folder; default
`/usr/share/datasets/fashion-mnist`), `ratio` (float32 bytes over file bytes,
default 40), `distill` (the weight of the dense network's answers in the loss,
default 0.5), `seed` (default 0), `quick` (a seventh of the epochs), `debug`
(one epoch of each phase: shows that everything works, and no more).

Expected at 40x, with seed 0: 94.1% of the test images for the dense network of
1,220,968 bytes, 93.6% for the file of 30,464. An epoch takes 81 to 96 seconds
on one core of an x86-64 CPU, and longer while the dense network teaches; all of
it took just under 2 hours on a core with much beside it. `quick`: *not trained
by us yet*.
"""

from hq_jax import config as config_lib

_CLASS_NAMES = ('T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat')
_CLASS_NAMES += ('Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot')


def get_config(arguments=None):
  """Returns the config for `name=value` arguments separated by commas."""
  args = config_lib.parse_arguments(
    arguments,
    data_dir='/usr/share/datasets/fashion-mnist',
    ratio=40.0,
    distill=0.5,
    seed=0,
    quick=False,
    debug=False,
  )
  config = config_lib.get_defaults()
  config.seed = args.seed
  config.target_ratio = args.ratio
  config.batch_size = 64
  config.data.name = 'idx'
  config.data.data_dir = args.data_dir
  config.data.class_names = _CLASS_NAMES
  config.data.flip = True
  config.data.max_shift = 2
  config.data.max_erased = 0.25
  config.model.name = 'small_resnet'
  # A narrow stem at 28x28, and blocks from 14x14 on: a quarter of the products
  # of blocks from 28x28 on.
  config.model.widths = (16, 32, 64, 128)
  config.model.num_blocks = (0, 1, 1, 1)
  config.distill.weight = args.distill
  config.dense.epochs = 30
  config.dense.learning_rate = 3e-3
  # Most of it at the final sparsity, where accuracy comes back.
  config_lib.set_compression(config, 16, 5e-3)
  config.prune.epochs, config.ternary.epochs = 6, 10
  config.ternary.learning_rate = 3.5e-3
  config.recipe.distribution = 'cosine_distance'
  config.recipe.refresh_steps = 50
  if args.quick:
    config.dense.epochs = 3
    config_lib.set_compression(config, 4, 7e-3)
    config.prune.epochs, config.ternary.epochs = 2, 2
  if args.debug:
    config.checkpoint.every_epochs = 1
    config.dense.epochs = 1
    config.prune.epochs = 1
    config.ternary.epochs = 1
  return config
