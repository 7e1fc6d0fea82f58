import io

import numpy as np
from PIL import Image

from benchmarks import photographs
from hq_jax.data.sets import folders


def test_files_are_as_large_as_photographs():
  data = photographs.make_photo(np.random.default_rng(0), 375, 500)
  assert 100_000 < len(data) < 120_000
  image = Image.open(io.BytesIO(data))
  assert image.size == (500, 375) and image.mode == 'RGB'
  assert image.layer[0][1:3] == (2, 2), 'chroma is at half resolution'
  pixels = np.asarray(image)
  # Not many are cut off at the ends.
  assert np.isin(pixels, [0, 255]).mean() < 0.05
  assert 40 < pixels.std() < 80


def test_sizes_are_like_those_of_imagenet():
  sizes = photographs.draw_sizes(np.random.default_rng(0), 40)
  assert sizes[:3] == [(375, 500), (375, 500), (500, 375)]
  others = np.array(sizes[3::4])
  assert others.shape == (10, 2)
  assert others.min() >= 256 and others.max() <= 640


def test_a_folder_has_every_file_under_every_name(tmp_path):
  rng = np.random.default_rng(0)
  photographs.write_folder(tmp_path, rng, [(30, 20), (20, 40), (16, 16)], 4)
  train = folders.open_folder(tmp_path).train
  assert len(train) == 12
  sizes = {}
  for example in train:
    width, height = Image.open(io.BytesIO(example['image'])).size
    found = sizes.setdefault((height, width), [])
    found.append((example['label'], example['image']))
  assert set(sizes) == {(30, 20), (20, 40), (16, 16)}
  for size, found in sizes.items():
    assert len(found) == 4 and len(set(found)) == 1
    assert found[0][0] == (size == (20, 40))
