"""From a folder of pictures to a small file, and to its answers over HTTP.

  python examples/pictures.py --workdir=runs/patterns
  python examples/pictures.py --workdir=runs/patterns --serve
  python examples/pictures.py --workdir=runs/mine --pictures=FOLDER

FOLDER holds a folder of images for each class; without it, 300 pictures of
stripes and squares are drawn. What a workdir has already is not done again. A
minute or two on two cores.
"""

import argparse
import itertools
import os
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image

import hq_jax
from hq_jax import config as config_lib

CLASSES = 'chequered', 'horizontal', 'vertical'


def draw_pictures(folder: pathlib.Path, num_per_class: int) -> None:
  """Draws patterns of any two colours and any width, noise on top."""
  rng = np.random.default_rng(0)
  for name, number in itertools.product(CLASSES, range(num_per_class)):
    width, first = rng.integers(5, 13), rng.integers(12)
    lines = (np.arange(64) + first) // width % 2
    pattern = {
      'horizontal': lines[:, None] + 0 * lines,
      'vertical': lines + 0 * lines[:, None],
      'chequered': (lines[:, None] + lines) % 2,
    }[name]
    pixels = rng.integers(0, 256, (2, 3))[pattern]
    pixels += rng.integers(-30, 31, pixels.shape)
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    (folder / name).mkdir(parents=True, exist_ok=True)
    picture.save(folder / name / f'{number:03d}.png')


def make_config(pictures: pathlib.Path, epochs: int):
  """A small network, trained for so many epochs in all."""
  config = config_lib.get_defaults()
  config.target_ratio = 20.0
  config.batch_size = 32
  config.data.name = 'folder'
  config.data.data_dir = str(pictures)
  config.data.image_size = 32
  config.data.min_area = 0.5
  config.data.flip = True
  config.model.name = 'small_resnet'
  config.model.widths = (16, 32, 64)
  config.model.num_blocks = (1, 1, 1)
  config.dense.epochs = epochs // 3
  config.dense.learning_rate = 3e-3
  config_lib.set_compression(config, epochs - epochs // 3, 3e-3)
  config.recipe.distribution = 'cosine_distance'
  return config


def main() -> None:
  """Trains, asks the file what some pictures show, and serves it."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--workdir', default='runs/patterns')
  parser.add_argument('--pictures', help='a folder for each class')
  parser.add_argument('--epochs', type=int, default=15)
  parser.add_argument('--serve', action='store_true', help='until Ctrl-C')
  args = parser.parse_args()

  pictures = pathlib.Path(args.pictures or f'{args.workdir}_pictures')
  if not pictures.exists():
    draw_pictures(pictures, num_per_class=100)
  hq_jax.train(make_config(pictures, args.epochs), args.workdir)

  path = os.path.join(args.workdir, 'model.hq')
  classifier = hq_jax.load(path)
  folders = [pictures / name for name in classifier.class_names]
  some = [str(min(folder.rglob('*.*'))) for folder in folders]
  for name, found in zip(some, classifier.predict(some, top=1), strict=True):
    print(f'{name}: {found.classes[0]} ({found.probabilities[0]:.0%})')
  if args.serve:
    subprocess.run([sys.executable, '-m', 'hq_jax', 'serve', path], check=True)


if __name__ == '__main__':
  main()
