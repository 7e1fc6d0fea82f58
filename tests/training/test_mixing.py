"""Mixup and CutMix: shares by hand, pixels counted, laws by many draws."""

import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hq_jax.training import mixing

P = jax.sharding.PartitionSpec
# Of the batch in `draws`.
HEIGHT, WIDTH = 12, 8
MIXUP_ALPHA, CUTMIX_ALPHA = 1.0, 0.2
# Not compiled, except where that is what is tested: compiling the Beta takes
# seconds, but once only while the shape of what is drawn stays the same.
BOTH = {'mixup_alpha': 1.0, 'cutmix_alpha': 1.0}


@pytest.fixture
def batch(rng):
  """Eight images whose pixels all differ, and targets that are one-hot."""
  images = rng.permutation(8 * 6 * 5 * 3).reshape(8, 6, 5, 3)
  targets = np.eye(3)[np.arange(8) % 3]
  return jnp.asarray(images, jnp.float32), jnp.asarray(targets, jnp.float32)


def _partner(x):
  """Image i - 1 for image i, the last one for the first."""
  x = np.asarray(x)
  return np.concatenate([x[-1:], x[:-1]])


def _mixed(lam, x):
  x = np.asarray(x, np.float64)
  return lam * x + (1 - lam) * _partner(x)


@pytest.fixture(scope='module')
def draws():
  """`mix` of a black and a white image, 4,000 times, the black one's result.

  Pixels are thus the share of the white image, `[4000, h, w]`, and so should
  the second column of the targets be, `[4000, 2]`.
  """
  images = jnp.zeros((2, HEIGHT, WIDTH, 1)).at[1].set(1.0)

  def draw(key):
    mixed, targets = mixing.mix(
      key,
      images,
      jnp.eye(2),
      mixup_alpha=MIXUP_ALPHA,
      cutmix_alpha=CUTMIX_ALPHA,
    )
    return mixed[0, :, :, 0], targets[0]

  keys = jax.random.split(jax.random.key(0), 4000)
  return jax.tree.map(np.asarray, jax.jit(jax.vmap(draw))(keys))


def _is_cutmix(draws):
  pixels, _ = draws
  return ((pixels == 0) | (pixels == 1)).all((1, 2))


@pytest.mark.parametrize('alpha', [0.4, 3.0])
def test_mixup_matches_the_equation(batch, rng, alpha):
  images, _ = batch
  targets = jnp.asarray(rng.dirichlet(np.ones(3), 8), jnp.float32)
  key = jax.random.key(1)
  lam = float(jax.random.beta(key, alpha, alpha))
  mixed, mixed_targets = mixing.mixup(key, images, targets, alpha)
  np.testing.assert_allclose(mixed, _mixed(lam, images), rtol=1e-5)
  np.testing.assert_allclose(mixed_targets, _mixed(lam, targets), rtol=1e-5)


@pytest.mark.parametrize('seed', range(8))
def test_cutmix_pastes_one_box_and_counts_its_pixels(batch, seed):
  images, targets = batch
  mixed, mixed_targets = mixing.cutmix(
    jax.random.key(seed), images, targets, 1.0
  )
  pasted = (np.asarray(mixed) == _partner(images)).all(-1)
  kept = (np.asarray(mixed) == np.asarray(images)).all(-1)
  # Every pixel is whole, from one or the other, in all images alike.
  assert (pasted != kept).all()
  assert (pasted == pasted[0]).all()
  rows, columns = pasted[0].any(1), pasted[0].any(0)
  np.testing.assert_array_equal(pasted[0], np.outer(rows, columns))
  for marks in rows, columns:
    positions = np.flatnonzero(marks)
    assert (np.diff(positions) == 1).all()
  lam = 1 - pasted[0].sum() / 30
  np.testing.assert_allclose(mixed_targets, _mixed(lam, targets), atol=1e-6)


def test_cutmix_by_hand():
  # So large an alpha leaves no choice of the size: a half of the area, sides of
  # round(6 sqrt(1/2)) = 4 pixels, two before the centre and one after it.
  spans = {(0, 2), (0, 3), (0, 4), (1, 5), (2, 6), (3, 6)}
  images = jnp.zeros((2, 6, 6, 1)).at[1].set(1.0)
  seen = set()
  for seed in range(40):
    mixed, targets = mixing.cutmix(
      jax.random.key(seed), images, jnp.eye(2), 1e8
    )
    box = np.argwhere(np.asarray(mixed)[0, :, :, 0] == 1)
    (top, left), (bottom, right) = box.min(0), box.max(0) + 1
    assert {(top, bottom), (left, right)} <= spans
    np.testing.assert_allclose(
      np.asarray(targets)[0, 1], (bottom - top) * (right - left) / 36, rtol=1e-6
    )
    seen.add((top, bottom, left, right))
  # Row and column are drawn apart.
  assert {s[:2] for s in seen} == {s[2:] for s in seen} == spans
  assert len(seen) > 2 * len(spans)


def test_cutmix_may_replace_all_or_nothing(batch):
  images, targets = batch
  shares = set()
  for seed in range(12):
    # Near 0, lam is 0 or 1: no box, or one as large as the image, cut off.
    mixed, mixed_targets = mixing.cutmix(
      jax.random.key(seed), images, targets, 1e-6
    )
    is_pasted = (np.asarray(mixed) != np.asarray(images)).any(-1)
    share = is_pasted[0].mean()
    np.testing.assert_allclose(
      np.asarray(mixed_targets)[0, 0], 1 - share, rtol=1e-6
    )
    shares.add(round(share, 3))
  assert 0.0 in shares and max(shares) > 0.5


@pytest.mark.slow
def test_mix_with_both_on_tosses_a_coin(draws):
  pixels, _ = draws
  is_mixup = ((pixels > 0) & (pixels < 1)).all((1, 2))
  assert (is_mixup != _is_cutmix(draws)).all()
  # Five standard errors of 4,000 tosses.
  assert abs(is_mixup.mean() - 0.5) < 5 * 0.5 / math.sqrt(4000)


@pytest.mark.slow
def test_targets_are_mixed_as_the_pixels_are(draws):
  pixels, targets = draws
  np.testing.assert_allclose(targets[:, 1], pixels.mean((1, 2)), atol=1e-6)
  np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)


@pytest.mark.slow
def test_the_share_of_mixup_follows_its_beta(draws):
  pixels, targets = draws
  is_mixup = ~_is_cutmix(draws)
  lam = targets[is_mixup, 0]
  assert (np.ptp(pixels[is_mixup], axis=(1, 2)) == 0).all()
  law = stats.beta(MIXUP_ALPHA, MIXUP_ALPHA)
  assert stats.kstest(lam, law.cdf).pvalue > 1e-3


def _coverage(length, sizes):
  """For each size the chance of each pixel to be covered, `[sizes, length]`."""
  covered = np.zeros((len(sizes), length))
  for i, size in enumerate(sizes):
    for centre in range(length):
      first = centre - size // 2
      covered[i, max(first, 0) : max(first + size, 0)] += 1 / length
  return covered


@pytest.mark.slow
def test_boxes_have_their_sizes_and_places(draws):
  pixels, _ = draws
  boxes = pixels[_is_cutmix(draws)]
  # The equation, over 500 equally likely values of lam.
  quantiles = (np.arange(500) + 0.5) / 500
  lam = stats.beta(CUTMIX_ALPHA, CUTMIX_ALPHA).ppf(quantiles)
  rows, columns = (
    _coverage(length, np.round(length * np.sqrt(1 - lam)).astype(int))
    for length in (HEIGHT, WIDTH)
  )
  wanted = np.einsum('ar,ac->rc', rows, columns) / 500
  tolerance = 5 * 0.5 / math.sqrt(len(boxes))
  np.testing.assert_allclose(boxes.mean(0), wanted, atol=tolerance)
  # How often nothing is pasted: the sizes' law, where clipping has no say.
  none = (rows.sum(1) * columns.sum(1) == 0).mean()
  assert abs((~boxes.any((1, 2))).mean() - none) < tolerance


def test_mix_with_one_switched_on_is_that_one(batch):
  key = jax.random.key(5)
  chex.assert_trees_all_equal(
    mixing.mix(key, *batch, mixup_alpha=0.3, cutmix_alpha=0),
    mixing.mixup(key, *batch, 0.3),
  )
  chex.assert_trees_all_equal(
    mixing.mix(key, *batch, mixup_alpha=0, cutmix_alpha=0.3),
    mixing.cutmix(key, *batch, 0.3),
  )


def test_mix_with_both_off_does_nothing(batch):
  key = jax.random.key(0)
  off = lambda *args: mixing.mix(*args, mixup_alpha=0, cutmix_alpha=0.0)
  images, targets = off(key, *batch)
  assert images is batch[0] and targets is batch[1]
  assert jax.make_jaxpr(off)(key, *batch).eqns == []


@pytest.mark.slow
def test_compiled_and_shared_among_devices_it_is_the_same(batch, make_mesh):
  sharding = jax.sharding.NamedSharding(make_mesh(8), P('d0'))
  shared = jax.device_put(batch, sharding)
  jitted = jax.jit(mixing.mix, static_argnames=tuple(BOTH))
  compiled = jitted.lower(jax.random.key(0), *shared, **BOTH).compile()
  # Images move to the next device, and are nowhere put together.
  assert 'all-gather' not in compiled.as_text()
  kinds = set()
  for key in map(jax.random.key, range(4)):
    together = compiled(key, *shared)
    alone = mixing.mix(key, *batch, **BOTH)
    for ours, theirs in zip(together, alone, strict=True):
      assert ours.sharding.is_equivalent_to(sharding, ours.ndim)
      np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    pixels = np.asarray(alone[0])
    kinds.add((pixels == pixels.round()).all())
  assert kinds == {True, False}  # Mixup as well as CutMix.


def test_the_key_decides(batch):
  a, b, c = (
    mixing.mix(jax.random.key(seed), *batch, **BOTH) for seed in (0, 0, 1)
  )
  chex.assert_trees_all_equal(a, b)
  assert (a[0] != c[0]).any()


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_dtypes_are_kept(batch, dtype):
  images, targets = batch
  images = (images / 512).astype(dtype)
  for key in map(jax.random.key, range(3)):
    mixed, mixed_targets = mixing.mix(key, images, targets, **BOTH)
    assert mixed.dtype == dtype and mixed.shape == images.shape
    assert mixed_targets.dtype == jnp.float32
    np.testing.assert_allclose(mixed_targets.sum(-1), 1, rtol=1e-6)
  # Rounded once, at the end.
  mixed, _ = mixing.mixup(key, images, targets, 1.0)
  exact, _ = mixing.mixup(key, images.astype(jnp.float32), targets, 1.0)
  np.testing.assert_array_equal(mixed, exact.astype(dtype))


@pytest.mark.parametrize('function', [mixing.mixup, mixing.cutmix])
def test_one_image_is_its_own_neighbour(batch, function):
  images, targets = (x[:1] for x in batch)
  mixed, mixed_targets = function(jax.random.key(0), images, targets, 1.0)
  np.testing.assert_allclose(mixed, images, rtol=1e-6)
  np.testing.assert_allclose(mixed_targets, targets, rtol=1e-6)


# The last two are finite, but what they draw in float32 is NaN.
@pytest.mark.parametrize(
  'alpha', [-0.1, math.nan, math.inf, -math.inf, 1e-40, 1e39]
)
def test_an_alpha_out_of_range_is_refused(batch, alpha):
  key = jax.random.key(0)
  got = rf'alpha: got {re.escape(str(alpha))}, wanted'
  for function in mixing.mixup, mixing.cutmix:
    with pytest.raises(ValueError, match=rf'^{got} a positive'):
      function(key, *batch, alpha)
  with pytest.raises(ValueError, match=rf'^mixup_{got} 0 or a positive'):
    mixing.mix(key, *batch, mixup_alpha=alpha, cutmix_alpha=0.0)
  with pytest.raises(ValueError, match=rf'^cutmix_{got} 0 or a positive'):
    mixing.mix(key, *batch, mixup_alpha=1.0, cutmix_alpha=alpha)


@pytest.mark.parametrize('function', [mixing.mixup, mixing.cutmix])
def test_an_alpha_of_zero_is_for_mix_alone(batch, function):
  with pytest.raises(ValueError, match=r'^alpha: got 0\.0, wanted a positive'):
    function(jax.random.key(0), *batch, 0.0)


def _call_mix(key, images, targets, alpha):
  return mixing.mix(key, images, targets, mixup_alpha=alpha, cutmix_alpha=alpha)


@pytest.mark.parametrize('function', [mixing.mixup, mixing.cutmix, _call_mix])
def test_arrays_of_another_kind_are_refused(batch, function):
  images, targets = batch
  key = jax.random.key(0)
  for bad in images.astype(jnp.uint8), images[0], images[..., None]:
    with pytest.raises(
      ValueError, match=r'^images: got .*wanted floats \[n, h'
    ):
      function(key, bad, targets, 1.0)
  for bad in jnp.arange(8), targets.astype(int), targets[None]:
    with pytest.raises(
      ValueError, match=r'^targets: got .*wanted floats \[n, k'
    ):
      function(key, images, bad, 1.0)
  with pytest.raises(
    ValueError, match=r'^targets: got 3, wanted one per image'
  ):
    function(key, images, targets[:3], 1.0)
