"""A 30x smaller file from a folder of your own images.

  python -m hq_jax.main --config=configs/folder.py:data_dir=PICTURES \
      --workdir=runs/pictures
  python -m hq_jax.main \
      --config=configs/folder.py:data_dir=PICTURES,pretrained=resnet18.pth \
      --workdir=runs/pictures

PICTURES holds a folder of images for each class, or `train/`, `val/` and
`test/` with such folders. With `val/` and `test/`, the images of `val/` are
looked at after each epoch, and those of `test/` once, at the end; with neither,
a fifth of the images is held out for the test.

Arguments: `data_dir` (the folder), `model` (`resnet18`, the default, or
another name in `hq_jax.models`), `pretrained` (a file of ImageNet weights of
that model; its classifier is trained anew), `image_size` (in pixels; default
224 with pretrained weights, else 64), `own_size` (in its place, for images of
one size that are taken as they are, grey ones with one channel), `epochs` (in
all, at least 3, default 30), `batch_size` (default 32), `ratio` (float32 bytes
over file bytes, default 30), `distill` (the weight of the dense network's
answers in the loss, default 0), `seed` (default 0), `debug` (an epoch of each
phase, at 32 pixels if not said otherwise: shows that everything works, and no
more).

Expected: it depends on the images. A ResNet-18 on 1,000 images at 64 pixels
takes about 25 minutes on two cores, at 32 pixels a third of it.
"""

from hq_jax import config as config_lib


def get_config(arguments=None):
  """Returns the config for `name=value` arguments separated by commas."""
  args = config_lib.parse_arguments(
    arguments,
    data_dir='',
    model='resnet18',
    pretrained='',
    image_size=0,
    own_size=False,
    epochs=30,
    batch_size=32,
    ratio=30.0,
    distill=0.0,
    seed=0,
    debug=False,
  )
  if args.epochs < 3:
    raise ValueError(
      f'config argument epochs is {args.epochs}, wanted at least 3'
    )
  if args.own_size and args.image_size:
    raise ValueError(
      f'config argument image_size is {args.image_size}, wanted none with'
      ' own_size'
    )
  config = config_lib.get_defaults()
  config.seed = args.seed
  config.target_ratio = args.ratio
  config.pretrained = args.pretrained or None
  config.pretrained_head = False
  config.batch_size = args.batch_size
  config.data.name = 'folder'
  config.data.data_dir = args.data_dir or None
  config.data.image_size = args.image_size or (224 if args.pretrained else 64)
  config.data.flip = True
  # Milder than ImageNet's: the object may be anywhere in a small set's images.
  config.data.min_area = 0.35
  config.model.name = args.model
  config.distill.weight = args.distill
  # A third for the dense network, which is trained even where its weights are
  # given, as its classifier is new.
  config.dense.epochs = args.epochs // 3
  config.dense.learning_rate = 3e-4 if args.pretrained else 1e-3
  epochs = args.epochs - config.dense.epochs
  config_lib.set_compression(config, epochs, 2e-3)
  config.recipe.distribution = 'cosine_distance'
  if args.debug:
    config.data.image_size = args.image_size or 32
    config.recipe.num_stages = 1
    config.checkpoint.every_epochs = 1
    config.dense.epochs = 1
    config.prune.epochs = 1
    config.ternary.epochs = 1
  if args.own_size:
    config.data.image_size = None
  return config
