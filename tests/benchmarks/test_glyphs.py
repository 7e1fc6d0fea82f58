import re
import zlib

import numpy as np
import pytest

from benchmarks.glyphs import glyphs
from benchmarks.glyphs import letters
from benchmarks.glyphs import rendering
from benchmarks.glyphs import scenes
from hq_jax.data.sets import datasets


@pytest.mark.parametrize(
  ('seed', 'split', 'first', 'size_px', 'checksum', 'labels'),
  [
    (0, 'train', 0, 16, 3448145148, [0, 21, 2, 11, 20, 17]),
    (0, 'test', 0, 16, 2379061084, [5, 18, 16, 4, 6, 7]),
    (7, 'train', 1000, 32, 3054260985, [26, 16, 28, 9, 3, 10]),
    (2**64 - 1, 'test', 5, 9, 3394248436, [18, 21, 33, 13, 30, 2]),
  ],
)
def test_images_are_those_of_the_first_release(
  seed, split, first, size_px, checksum, labels
):
  images, got = rendering.render(seed, split, first, 6, size_px)
  assert (images.shape, images.dtype) == ((6, size_px, size_px, 1), np.uint8)
  assert got.tolist() == labels
  assert zlib.crc32(images[:4].tobytes()) == checksum


def test_an_image_does_not_depend_on_those_drawn_with_it():
  images, labels = rendering.render(3, 'test', 30, 10, 16)
  for i in range(10):
    image, label = rendering.render(3, 'test', 30 + i, 1, 16)
    np.testing.assert_array_equal(image[0], images[i])
    assert label.tolist() == [labels[i]]


def test_splits_seeds_and_positions_differ():
  images = [
    rendering.render(seed, split, first, 50, 16)[0]
    for seed in (0, 1)
    for split in ('train', 'test')
    for first in (0, 50)
  ]
  flat = np.concatenate(images).reshape(400, -1)
  assert len(np.unique(flat, axis=0)) == 400
  # Nor is the noise of one that of another.
  noise = scenes.draw_noise(0, 'train', 0, 40, 16).reshape(40, -1)
  others = [
    scenes.draw_noise(0, 'test', 0, 40, 16),
    scenes.draw_noise(1, 'train', 0, 40, 16),
    scenes.draw_noise(0, 'train', 40, 40, 16),
  ]
  for other in others:
    correlation = np.corrcoef(noise, other.reshape(40, -1))[:40, 40:]
    assert np.abs(correlation).max() < 0.35


def test_every_prefix_of_a_split_is_balanced():
  labels = scenes.draw_labels(0, 'train', 0, 300)
  for num in range(1, 300):
    counts = np.bincount(labels[:num], minlength=34)
    assert counts.max() - counts.min() <= 1
  # The order is another in every block.
  blocks = labels[:272].reshape(8, 34)
  assert len(np.unique(blocks, axis=0)) == 8
  assert (np.sort(blocks) == np.arange(34)).all()


def test_labels_from_the_middle_are_those_of_the_whole():
  labels = scenes.draw_labels(5, 'test', 0, 200)
  for first, num in [(0, 1), (33, 1), (33, 2), (34, 34), (60, 100), (199, 1)]:
    part = scenes.draw_labels(5, 'test', first, num)
    assert part.tolist() == labels[first : first + num].tolist()


def test_what_is_drawn_is_uniform_and_independent():
  num = 4000
  drawn = scenes.draw_scenes(0, 'train', 0, num)
  assert list(drawn) == list(scenes.DRAWS)
  for name, (low, high, shape) in scenes.DRAWS.items():
    values = drawn[name]
    assert values.shape == (num, *shape), name
    units = (values.reshape(num, -1) - low) / (high - low)
    assert units.min() >= 0 and units.max() < 1, name
    assert units.min() < 0.01 and units.max() > 0.99, name
    # Five standard errors of a uniform variable's mean and of its square's.
    assert np.abs(units.mean(axis=0) - 1 / 2).max() < 5 * 0.289 / num**0.5
    assert np.abs((units**2).mean(axis=0) - 1 / 3).max() < 5 * 0.3 / num**0.5
  columns = [values.reshape(num, -1) for values in drawn.values()]
  correlation = np.corrcoef(np.concatenate(columns, axis=1).T)
  assert np.abs(correlation - np.eye(len(correlation))).max() < 5 / num**0.5


def test_noise_is_nearly_normal():
  noise = scenes.draw_noise(0, 'train', 0, 500, 16)
  assert abs(noise.mean()) < 0.01
  assert abs(noise.std() - 1) < 0.01
  # The kurtosis of the sum of four: 3 - 6 / 5 / 4.
  assert abs((noise**4).mean() - 2.7) < 0.05
  assert len(np.unique(noise)) > 900


def _scene(**values):
  """A scene in its middle: upright, centred, black on white, clean."""
  scene = {
    name: np.full((1, *draw.shape, 1, 1), (draw.low + draw.high) / 2)
    for name, draw in scenes.DRAWS.items()
  }
  plain = {
    'font': 0,
    'stretch': 1,
    'contrast': 255,
    'polarity': 0,
    'texture': 0,
    'bar_presence': 1,
    'patch_presence': 1,
  }
  for name, value in {**plain, **values}.items():
    value = np.broadcast_to(value, scenes.DRAWS[name].shape)
    scene[name][:] = value[..., None, None]
  return scene


def _cover(letter, **values):
  label = np.array([letters.CLASS_NAMES.index(letter)])
  return rendering._cover(_scene(**values), label, 64)[0]


def _extent(coverage, axis):
  inside = np.flatnonzero((coverage > 0.5).any(axis=axis))
  return inside[0], inside[-1] + 1


def test_a_letter_is_placed_and_stretched_as_drawn():
  # A cap height of half of 64 pixels: 32, from 16 to 48.
  upright = _cover('H', cap_height=0.5)
  assert _extent(upright, axis=1) == (16, 48)
  left, right = _extent(upright, axis=0)
  assert left + right == 64
  # A quarter of 64 to the right is 16 pixels, an eighth up is 8.
  moved = _cover('H', cap_height=0.5, shift=[0.25, -0.125])
  np.testing.assert_array_equal(moved, np.roll(upright, (-8, 16), (0, 1)))
  wide = _cover('H', cap_height=0.5, stretch=1.25)
  assert _extent(wide, axis=1) == (16, 48)
  assert abs(np.ptp(_extent(wide, axis=0)) - 1.25 * (right - left)) <= 1
  large = _cover('H', cap_height=0.75)
  assert np.ptp(_extent(large, axis=1)) == 48


def test_a_letter_is_rotated_and_sheared_as_drawn():
  upright = _cover('L', cap_height=0.5)
  # The tangent of 45 degrees is 1: a quarter turn, clockwise on the screen.
  turned = _cover('L', cap_height=0.5, half_angle=1)
  assert np.abs(turned - np.rot90(upright, -1)).mean() < 0.01
  # Row y is moved by shear * y: the lower half to the right.
  sheared = _cover('L', cap_height=0.5, shear=0.25)
  for row in (20, 30, 40):
    shift = round(0.25 * (row + 0.5 - 32))
    error = np.abs(sheared[row] - np.roll(upright[row], shift))
    assert error.sum() <= 1.5


def test_the_bitmaps_are_taken_from_the_right_font_and_class():
  for font in (0, 7, 19):
    for letter in ('0', 'Q', 'Z'):
      coverage = _cover(letter, font=font, cap_height=72 / 128)
      label = letters.CLASS_NAMES.index(letter)
      bitmap = letters.load_bitmaps()[font, label]
      expected = bitmap.reshape(64, 2, 64, 2).mean(axis=(1, 3))
      np.testing.assert_array_equal(coverage, expected)
  assert letters.load_bitmaps().shape[:2] == (len(letters.FONTS), 34)


def test_levels_are_those_drawn():
  coverage = np.zeros([1, 8, 8])
  coverage[0, :, 4:] = 1
  dark = _scene(contrast=100, brightness=0.2, gradient=[0, 0])
  image = rendering._paint(dark, coverage)[0]
  # (255 - 100) * 0.2 = 31, and 100 more behind.
  assert image[0].tolist() == [131] * 4 + [31] * 4
  bright = _scene(contrast=100, brightness=0.2, polarity=0.5, gradient=[16, 8])
  image = rendering._paint(bright, coverage)[0]
  # From pixel to pixel, an eighth of the gradient.
  assert image[0].tolist() == [
    20.5,
    22.5,
    24.5,
    26.5,
    128.5,
    130.5,
    132.5,
    134.5,
  ]
  assert np.diff(image[:, 0]).tolist() == [1] * 7


def test_texture_runs_through_its_nodes_and_lies_behind_the_letter():
  nodes = np.arange(25).reshape(1, 5, 5) ** 2.0
  smooth = rendering._interpolate(nodes, 36)
  assert smooth.shape == (1, 36, 36)
  # Nine pixels from node to node: the fifth is in the middle between two.
  np.testing.assert_allclose(smooth[0, 4, 4], nodes[0, :2, :2].mean())
  np.testing.assert_allclose(smooth[0, 31, 4], nodes[0, 3:, :2].mean())
  coverage = np.ones([1, 8, 8])
  scene = _scene(texture=0.3, texture_nodes=np.ones([5, 5]), contrast=100)
  letter = rendering._paint(scene, coverage)
  behind = rendering._paint(scene, 0 * coverage)
  assert np.ptp(letter) == 0
  np.testing.assert_allclose(behind - letter, 100 + 30)


def test_bars_and_patches_cover_what_they_should():
  image = np.full([1, 20, 20], 7.0)
  bar = {
    'bar_presence': [0, 1],
    'bar_half_angle': [0, 0],  # Its normal is along x.
    'bar_offset': [0.25, 0],
    'bar_half_width': [0.1, 0.1],
    'bar_level': [200, 100],
  }
  covered = rendering._occlude(_scene(**bar), image)[0]
  expected = image[0].copy()
  expected[:, 13:17] = 200  # 20 * (0.5 + 0.25 -+ 0.1)
  np.testing.assert_allclose(covered, expected)
  patch = {
    'patch_presence': [0.29, 0.3],
    'patch_centre': [[-0.25, 0.25], [0, 0]],
    'patch_half_side': [[0.05, 0.125], [0.1, 0.1]],
    'patch_level': [50, 100],
  }
  covered = rendering._occlude(_scene(**patch), image)[0]
  expected = image[0].copy()
  expected[13:17, 4:6] = 50
  # 2.5 pixels up and down: half of the rows beyond is covered.
  expected[[12, 17], 4:6] = (50 + 7) / 2
  np.testing.assert_allclose(covered, expected)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'seed': -1}, 'seed is -1, wanted an integer 0..18446744073709551615'),
    ({'seed': 2**64}, 'seed is 18446744073709551616, wanted an integer 0'),
    ({'seed': 0.5}, 'seed is 0.5, wanted an integer'),
    ({'split': 'dev'}, "split is 'dev', wanted one of ('train', 'test')"),
    ({'first': -40}, 'first is -40, wanted an integer 0..'),
    ({'first': 3, 'num': 0}, 'num is 0, wanted an integer 1..'),
    ({'size_px': 7}, 'size_px is 7, wanted an integer 8..64'),
    ({'size_px': 65}, 'size_px is 65, wanted an integer 8..64'),
  ],
)
def test_refuses_what_is_out_of_range(changes, message):
  arguments = {'seed': 0, 'split': 'train', 'first': 0, 'num': 1, 'size_px': 16}
  with pytest.raises(ValueError, match=re.escape(message)):
    rendering.render(**{**arguments, **changes})


def test_takes_the_integers_of_numpy():
  seed = np.uint64(2**64 - 1)
  images, _ = rendering.render(seed, 'test', np.int64(5), np.int64(4), 9)
  assert zlib.crc32(images.tobytes()) == 3394248436


@pytest.mark.slow
def test_stored_statistics_are_those_measured():
  spec = glyphs.SPECS['glyphs/16']
  mean, std = glyphs.pixel_statistics(
    size_px=16, num_train=spec.num_train, seed=0
  )
  assert (spec.pixel_mean, spec.pixel_std) == ((mean,), (std,))


def test_a_set_is_prepared_once_and_read_in_order(tmp_path):
  dataset = glyphs.load('glyphs/16_small', tmp_path)
  folder = tmp_path / 'glyphs' / '16_small' / '1.0.0'
  files = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
  assert not list(tmp_path.rglob('incomplete.*'))
  assert dataset.name == 'glyphs/16_small'
  assert dataset.image_shape == (16, 16, 1)
  assert dataset.class_names == letters.CLASS_NAMES
  pixels = dataset.train.images
  np.testing.assert_allclose(dataset.pixel_mean, [pixels.mean()], rtol=1e-12)
  np.testing.assert_allclose(dataset.pixel_std, [pixels.std()], rtol=1e-12)
  for split, num in (('train', 2000), ('test', 500)):
    source = getattr(dataset, split)
    images, labels = rendering.render(0, split, 0, num, 16)
    np.testing.assert_array_equal(source.images, images)
    np.testing.assert_array_equal(source.labels, labels)
  again = glyphs.load('glyphs/16_small', tmp_path)
  np.testing.assert_array_equal(again.test.images, dataset.test.images)
  assert files == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_config_cannot_name_them(tmp_path):
  with pytest.raises(ValueError) as caught:
    datasets.load('glyphs/16_small', tmp_path)
  assert "'glyphs/16_small', which is not prepared in" in str(caught.value)
  assert 'made here: digits, folder' in str(caught.value)
