r"""Training images per second and core: ours against tf.data.

  python -m benchmarks.input_pipeline [--rounds=N] [--cores=N] \
      [--num_workers=N,...]

From a folder of JPEG files to batches that a network takes: shuffled, a random
resized crop, a flip, float32, minus the mean, over the standard deviation. The
files are drawn from a seed, as large as photographs: about 0.6 bytes a pixel,
110 kB for 500 x 375, each under many names. Two sets: the sizes of ImageNet,
and 224 x 224.

- ours: `train_batches.make_train_iterator`, as in training;
- ours_N_workers, if asked for: the same by N worker processes, which share the
  threads;
- tf.data, the same work on the same files: a distorted box,
  `decode_and_crop_jpeg`, an antialiased resize; batches in the order of the
  shuffled files, and in any order;
- tf.data, cheaper: the same without antialiasing, in any order.

All but workers in one process, all on the same cores; a round runs each once,
in an order that turns around every other round, and a ratio is taken within the
round. One begins when what the one before has read ahead is done. tf.data tunes
its own threads. Without TensorFlow ours runs alone. Seconds are those of the
clock; those that the process computed for, which other programs on the machine
change less, are given as well; of workers they are those that are left to the
process. Workers read many batches ahead: they need as many --batches again.

Prints a Markdown table, and as its last line a JSON object.
"""

import argparse
from collections.abc import Generator, Sequence
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import tempfile
from typing import Any

import numpy as np

from benchmarks import photographs
from benchmarks import pipeline_speeds
from hq_jax.data import train_batches
from hq_jax.data.sets import datasets
from hq_jax.data.sets import folders
from hq_jax.runtime import cores
from hq_jax.runtime import provenance

_MIN_AREA = 0.08
# Links to each file, for a set of as many examples as one that is trained on:
# Grain's shuffle takes 0.2 ms per example among a hundred, and 6 us from ten
# thousand on.
_NUM_NAMES = 80


def run_ours(
  dataset: datasets.Dataset,
  *,
  batch_size: int,
  num_threads: int,
  num_workers: int = 0,
) -> Generator[np.ndarray]:
  """Endless batches by this package, as it trains.

  Args:
    dataset: a folder of images.
    batch_size: images.
    num_threads: that decode.
    num_workers: processes that share them; 0 for none.

  Yields:
    float32 `[batch_size, h, w, 3]`.
  """
  batches = train_batches.make_train_iterator(
    dataset,
    batch_size=batch_size,
    seed=0,
    flip=True,
    min_area=_MIN_AREA,
    num_threads=num_threads,
    num_workers=num_workers,
  )
  try:
    for batch in batches:
      yield batch['image']
  finally:
    batches.close()


def run_tfdata(
  dataset: datasets.Dataset,
  *,
  batch_size: int,
  antialias: bool,
  in_order: bool,
) -> Generator[np.ndarray]:
  """Endless batches by tf.data, of the same files.

  Args:
    dataset: a folder of images.
    batch_size: images.
    antialias: whether the resize is antialiased, as ours is.
    in_order: whether batches follow the order of the files, as ours do.

  Yields:
    float32 `[batch_size, h, w, 3]`.
  """
  import tensorflow as tf

  mean, std = tf.constant(dataset.pixel_mean), tf.constant(dataset.pixel_std)
  source = dataset.train
  assert isinstance(source, folders.FolderSource)
  paths = [str(source.root / path) for path in source.paths]

  def read(path, label):
    data = tf.io.read_file(path)
    begin, size, _ = tf.image.sample_distorted_bounding_box(
      tf.image.extract_jpeg_shape(data),
      tf.zeros([1, 0, 4]),
      min_object_covered=0,
      aspect_ratio_range=(3 / 4, 4 / 3),
      area_range=(_MIN_AREA, 1),
      max_attempts=10,
      use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([begin[:2], size[:2]], 0)
    image = tf.image.decode_and_crop_jpeg(data, window, channels=3)
    shape = dataset.image_shape[:2]
    image = tf.image.resize(image, shape, antialias=antialias)
    image = tf.image.random_flip_left_right(image)
    return (image - mean) / std, label

  # On the host, whatever else there is.
  with tf.device('CPU'):
    batches = (
      tf.data.Dataset.from_tensor_slices((paths, source.labels))
      .shuffle(len(paths))
      .repeat()
      .map(read, tf.data.AUTOTUNE, deterministic=in_order)
      .batch(batch_size, drop_remainder=True)
      .prefetch(tf.data.AUTOTUNE)
    )
    for images, _ in batches.as_numpy_iterator():
      yield images


def make_runners(
  dataset: datasets.Dataset,
  *,
  batch_size: int,
  num_cores: int,
  with_tfdata: bool,
  num_workers: Sequence[int] = (),
) -> dict[str, pipeline_speeds.Runner]:
  """What is measured on a set of files.

  Args:
    dataset: a folder of images.
    batch_size: images.
    num_cores: threads of ours; tf.data finds its own number.
    with_tfdata: whether TensorFlow is there.
    num_workers: numbers of processes with which ours runs too.

  Returns:
    By name, of `pipeline_speeds.VARIANTS` or for a number of workers, what
    starts endless batches.
  """
  make_ours = lambda number: (
    lambda: run_ours(
      dataset,
      batch_size=batch_size,
      num_threads=num_cores,
      num_workers=number,
    )
  )
  runners: dict[str, pipeline_speeds.Runner] = {'ours': make_ours(0)}
  runners |= {f'ours_{x}_workers': make_ours(x) for x in num_workers}
  if with_tfdata:
    make = lambda antialias, in_order: (
      lambda: run_tfdata(
        dataset, batch_size=batch_size, antialias=antialias, in_order=in_order
      )
    )
    runners['tfdata_in_order'] = make(True, True)
    runners['tfdata_any_order'] = make(True, False)
    runners['tfdata_no_antialias'] = make(False, False)
  return runners


def run(
  *,
  num_files: int,
  image_size: int,
  batch_size: int,
  num_batches: int,
  num_rounds: int,
  seed: int,
  with_tfdata: bool,
  num_workers: Sequence[int] = (),
) -> dict[str, Any]:
  """Draws both sets of files and measures on each.

  Args:
    num_files: in a set.
    image_size: pixels of a side.
    batch_size: images.
    num_batches: that are timed in a round.
    num_rounds: of each set.
    seed: of the files, >= 0.
    with_tfdata: whether tf.data is measured too.
    num_workers: numbers of processes with which ours is measured too.

  Returns:
    The JSON object.
  """
  rng = np.random.default_rng(seed)
  num_cores = cores.count_cores()
  shapes = {
    'imagenet': photographs.draw_sizes(rng, num_files),
    '224x224': [(224, 224)] * num_files,
  }
  speeds, bytes_per_pixel = {}, {}
  for name, sizes in shapes.items():
    with tempfile.TemporaryDirectory() as folder:
      photographs.write_folder(pathlib.Path(folder), rng, sizes, _NUM_NAMES)
      dataset = datasets.load('folder', folder, image_size=image_size)
      examples = dataset.train
      num_bytes = sum(len(example['image']) for example in examples)
      num_pixels = _NUM_NAMES * sum(height * width for height, width in sizes)
      bytes_per_pixel[name] = num_bytes / num_pixels
      runners = make_runners(
        dataset,
        batch_size=batch_size,
        num_cores=num_cores,
        with_tfdata=with_tfdata,
        num_workers=num_workers,
      )
      speeds[name] = pipeline_speeds.measure(
        runners, num_rounds=num_rounds, num_batches=num_batches
      )
  packages = ('pillow', 'tensorflow') if with_tfdata else ('pillow',)
  return pipeline_speeds.summarize(speeds, num_cores) | {
    'bytes_per_pixel': bytes_per_pixel,
    'cores': num_cores,
    'image_size': image_size,
    'batch_size': batch_size,
    'batches': num_batches,
    'files': num_files,
    'seed': seed,
    'versions': {name: importlib.metadata.version(name) for name in packages},
    'commit': provenance.get_commit(),
    'hardware': provenance.get_hardware(),
  }


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--files', type=int, default=128)
  parser.add_argument('--image_size', type=int, default=224)
  parser.add_argument('--batch_size', type=int, default=64)
  parser.add_argument('--batches', type=int, default=6)
  parser.add_argument('--rounds', type=int, default=11)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument(
    '--cores', type=int, help='use so many only; by default all it may use'
  )
  parser.add_argument(
    '--num_workers',
    type=lambda text: [int(number) for number in text.split(',')],
    default=[],
    help='measures ours with so many processes too, such as 1,2',
  )
  arguments = parser.parse_args()
  if arguments.cores is not None:
    # Before TensorFlow starts its threads, which stay where they were made.
    allowed = sorted(os.sched_getaffinity(0))
    if not 1 <= arguments.cores <= len(allowed):
      parser.error(f'--cores is {arguments.cores}, wanted 1..{len(allowed)}')
    os.sched_setaffinity(0, allowed[: arguments.cores])
  # What it logs of itself at import is no part of the table.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  result = run(
    num_files=arguments.files,
    image_size=arguments.image_size,
    batch_size=arguments.batch_size,
    num_batches=arguments.batches,
    num_rounds=arguments.rounds,
    seed=arguments.seed,
    with_tfdata=importlib.util.find_spec('tensorflow') is not None,
    num_workers=arguments.num_workers,
  )
  print(pipeline_speeds.make_table(result))
  print(json.dumps(result, sort_keys=True))


if __name__ == '__main__':
  main()
