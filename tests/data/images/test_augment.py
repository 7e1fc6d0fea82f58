import numpy as np
import pytest

from hq_jax.data.images import augment


def _naive_shift(image, dy, dx):
  out = np.zeros_like(image)
  height, width, _ = image.shape
  for y in range(height):
    for x in range(width):
      if 0 <= y - dy < height and 0 <= x - dx < width:
        out[y, x] = image[y - dy, x - dx]
  return out


def test_shift_equals_its_definition():
  rng = np.random.RandomState(0)
  images = rng.randint(0, 255, (50, 5, 4, 3)).astype(np.uint8)
  offsets = rng.randint(-6, 7, (50, 2))
  shifted = augment.shift(images, offsets)
  for image, (dy, dx), result in zip(images, offsets, shifted, strict=True):
    np.testing.assert_array_equal(result, _naive_shift(image, dy, dx))


def test_offsets_are_those_of_the_first_release():
  assert augment.random_offsets(0, 0, 5, 1).tolist() == [
    [1, 1], [-1, -1], [-1, 0], [0, 0], [-1, 0]
  ]  # fmt: skip
  assert augment.random_offsets(7, 10**12, 3, 2).tolist() == [
    [-1, -2], [-1, 2], [2, 1]
  ]  # fmt: skip


def test_offsets_are_uniform_and_independent():
  num, max_shift = 50_000, 2
  offsets = augment.random_offsets(3, 0, num, max_shift)
  cells = 5 * (offsets[:, 0] + max_shift) + offsets[:, 1] + max_shift
  counts = np.bincount(cells, minlength=25)
  chi_squared = ((counts - num / 25) ** 2 / (num / 25)).sum()
  assert chi_squared < 51.2  # 24 degrees of freedom, p = 0.001.
  assert abs(np.corrcoef(offsets[:-1, 0], offsets[1:, 0])[0, 1]) < 0.02


@pytest.mark.parametrize('num', [0, 3])
def test_no_shift_and_no_examples(num):
  offsets = augment.random_offsets(0, 5, num, 0)
  assert offsets.shape == (num, 2) and not offsets.any()
  images = np.ones((num, 2, 2, 1), np.uint8)
  np.testing.assert_array_equal(augment.shift(images, offsets), images)


def test_flips_depend_on_the_position_alone_and_are_even():
  every = augment.random_flips(7, 0, 4000)
  np.testing.assert_array_equal(
    every[1000:1300], augment.random_flips(7, 1000, 300)
  )
  assert 0.47 < every.mean() < 0.53
  assert not np.array_equal(every, augment.random_flips(8, 0, 4000))
  # Independent of the shifts at the same positions.
  offsets = augment.random_offsets(7, 0, 4000, 1)
  for axis in (0, 1):
    for value in (-1, 0, 1):
      share = every[offsets[:, axis] == value].mean()
      assert 0.45 < share < 0.55


def test_a_flip_mirrors_columns_of_those_images_alone(rng):
  images = rng.integers(0, 256, (4, 3, 5, 2)).astype(np.uint8)
  flipped = np.array([True, False, False, True])
  found = augment.flip(images, flipped)
  assert found.dtype == np.uint8
  for i in range(4):
    for x in range(5):
      other = 4 - x if flipped[i] else x
      np.testing.assert_array_equal(found[i, :, x], images[i, :, other])
