import contextlib
import importlib.util
import itertools
import threading

import numpy as np
import pytest

from benchmarks import input_pipeline
from benchmarks import photographs
from benchmarks import pipeline_speeds
from hq_jax.data import train_batches
from hq_jax.data.sets import datasets


def _load(root, num, height, width, image_size):
  rng = np.random.default_rng(0)
  photographs.write_folder(root, rng, num * [(height, width)])
  return datasets.load('folder', root, image_size=image_size)


def test_ours_is_the_pipeline_that_trains(tmp_path):
  dataset = _load(tmp_path, 5, 60, 50, image_size=16)
  batches = train_batches.make_train_iterator(
    dataset, batch_size=4, seed=0, flip=True
  )
  wanted = [batch['image'] for batch in itertools.islice(batches, 3)]
  batches.close()
  with contextlib.closing(
    input_pipeline.run_ours(dataset, batch_size=4, num_threads=2)
  ) as batches:
    found = list(itertools.islice(batches, 3))
  np.testing.assert_array_equal(found, wanted)


def test_ours_leaves_no_threads_when_it_is_stopped(tmp_path):
  dataset = _load(tmp_path, 5, 60, 50, image_size=16)
  before = set(threading.enumerate())
  batches = input_pipeline.run_ours(dataset, batch_size=4, num_threads=2)
  next(batches)
  threads = set(threading.enumerate()) - before
  assert len(threads) >= 2
  batches.close()
  del batches
  pipeline_speeds.wait_until_idle()
  assert not any(thread.is_alive() for thread in threads)


@pytest.mark.slow
def test_ours_alone_where_tensorflow_is_missing():
  found = input_pipeline.run(
    num_files=4,
    image_size=16,
    batch_size=2,
    num_batches=1,
    num_rounds=2,
    seed=0,
    with_tfdata=False,
  )
  assert found['ours_images_per_second_per_core'] > 0
  assert found['tfdata_images_per_second_per_core'] is None
  assert found['ours_over_tfdata'] is None
  assert found['rounds'] == 2
  assert set(found['sets']) == {'imagenet', '224x224'}
  assert set(found['versions']) == {'pillow'}
  assert 0.5 < found['bytes_per_pixel']['imagenet'] < 0.65


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('tensorflow') is None, reason='needs TensorFlow'
)
# Of TensorFlow's own, at import.
@pytest.mark.filterwarnings('ignore')
def test_tfdata_does_the_same_work(tmp_path):
  dataset = _load(tmp_path, 8, 200, 260, image_size=64)
  runners = input_pipeline.make_runners(
    dataset, batch_size=32, num_cores=1, with_tfdata=True
  )
  assert tuple(runners) == pipeline_speeds.VARIANTS
  statistics = {}
  for name, start in runners.items():
    with contextlib.closing(start()) as batches:
      pixels = np.concatenate([next(batches) for _ in range(8)])
    assert pixels.shape == (256, 64, 64, 3) and pixels.dtype == np.float32
    sharpness = np.abs(np.diff(pixels, axis=2)).mean()
    statistics[name] = np.array([pixels.mean(), pixels.std(), sharpness])
  for name in pipeline_speeds.SAME_WORK:
    off = np.abs(statistics[name] - statistics['ours'])
    # Of 256 crops that are drawn anew: means differ by 0.035, sharpness hardly.
    assert (off < [0.12, 0.12, 0.02]).all(), statistics
  # Without antialiasing the grain stays.
  assert statistics['tfdata_no_antialias'][2] > 1.1 * statistics['ours'][2]
