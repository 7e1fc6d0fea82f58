"""Mixup and CutMix: every image of a batch mixed with its neighbour."""

import chex
import jax
import jax.numpy as jnp


def mixup(
  key: chex.PRNGKey, images: jax.Array, targets: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
  """Blends every image, and its target, with those of the one before it.

  `lam ~ Beta(alpha, alpha)`, one for the batch; `x'_i = lam x_i + (1 - lam)
  x_{i-1}` and `t'_i = lam t_i + (1 - lam) t_{i-1}`; the first image's
  neighbour is the last one.

  >>> images, targets = jnp.arange(2.0).reshape(2, 1, 1, 1), jnp.eye(2)
  >>> mixed, targets = mixup(jax.random.key(0), images, targets, alpha=1.0)
  >>> bool(jnp.allclose(mixed.ravel(), targets[:, 1]))
  True

  Args:
    key: for `lam`.
    images: float, `[n, h, w, c]`, in an order that has nothing to do with the
      classes.
    targets: probabilities of the classes, float, `[n, k]`.
    alpha: positive; near 0 one of the two images hardly shows, at 1 all shares
      are equally likely, above 1 both mostly show.

  Returns:
    Images and targets of the same shapes and dtypes.

  Raises:
    ValueError: for an `alpha` that is not positive and finite in float32, or
      arrays that are not as described.

  Reference:
    Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk
    Minimization", 2018. Their partner is a random permutation; a shuffled batch
    rolled by one is as random, and moves one image between devices, not all.
  """
  _check_arrays(images, targets)
  _check_alpha('alpha', alpha)
  lam = jax.random.beta(key, alpha, alpha, dtype=jnp.float32)
  return _blend(lam, images), _blend(lam, targets)


def cutmix(
  key: chex.PRNGKey, images: jax.Array, targets: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
  """Pastes a box of the image before it into every image.

  `lam ~ Beta(alpha, alpha)`; the box, one for the batch, has the sides
  `round(h sqrt(1 - lam))` and `round(w sqrt(1 - lam))`, and its centre is any
  pixel; what lies outside the image is cut off. Targets are mixed by the share
  of pixels that stay: `t'_i = lam' t_i + (1 - lam') t_{i-1}` with
  `lam' = 1 - (pixels replaced) / (h w)`.

  >>> images = jnp.zeros((2, 8, 8, 1)).at[1].set(1.0)
  >>> mixed, targets = cutmix(jax.random.key(0), images, jnp.eye(2), alpha=1.0)
  >>> bool(jnp.allclose(mixed.mean((1, 2, 3)), targets[:, 1]))
  True

  Args:
    key: for the box.
    images: float, `[n, h, w, c]`, in an order that has nothing to do with the
      classes.
    targets: probabilities of the classes, float, `[n, k]`.
    alpha: positive; near 0 boxes are tiny or all there is, at 1 all areas are
      equally likely, above 1 they are mostly near a half.

  Returns:
    Images and targets of the same shapes and dtypes.

  Raises:
    ValueError: for an `alpha` that is not positive and finite in float32, or
      arrays that are not as described.

  Reference:
    Yun, Han, Oh, Chun, Choe, Yoo, "CutMix: Regularization Strategy to Train
    Strong Classifiers with Localizable Features", 2019. Their partner is a
    random permutation, see `mixup`.
  """
  _check_arrays(images, targets)
  _check_alpha('alpha', alpha)
  lam_key, box_key = jax.random.split(key)
  lam = jax.random.beta(lam_key, alpha, alpha, dtype=jnp.float32)
  return _paste(box_key, lam, images, targets)


def mix(
  key: chex.PRNGKey,
  images: jax.Array,
  targets: jax.Array,
  *,
  mixup_alpha: float,
  cutmix_alpha: float,
) -> tuple[jax.Array, jax.Array]:
  """Applies mixup or CutMix, whichever is on; one of them at random if both.

  >>> images, targets = jnp.ones((2, 4, 4, 3)), jnp.eye(2)
  >>> key = jax.random.key(0)
  >>> same, _ = mix(key, images, targets, mixup_alpha=0.0, cutmix_alpha=0.0)
  >>> same is images
  True

  Args:
    key: for all that is drawn.
    images: float, `[n, h, w, c]`.
    targets: probabilities of the classes, float, `[n, k]`.
    mixup_alpha: see `mixup`; 0 switches it off.
    cutmix_alpha: see `cutmix`; 0 switches it off. With both on, the batch gets
      one or the other with probability 1/2 each.

  Returns:
    Images and targets of the same shapes and dtypes; where both are off, those
    that came.

  Raises:
    ValueError: for an alpha that is neither 0 nor positive and finite in
      float32, or arrays that are not as described.
  """
  for name, alpha in (
    ('mixup_alpha', mixup_alpha),
    ('cutmix_alpha', cutmix_alpha),
  ):
    if alpha != 0:
      _check_alpha(name, alpha, or_else='0 or ')
  if mixup_alpha == 0 and cutmix_alpha == 0:
    return images, targets
  if cutmix_alpha == 0:
    return mixup(key, images, targets, mixup_alpha)
  if mixup_alpha == 0:
    return cutmix(key, images, targets, cutmix_alpha)
  _check_arrays(images, targets)
  coin_key, lam_key, box_key = jax.random.split(key, 3)
  is_mixup = jax.random.bernoulli(coin_key)
  chosen = jnp.where(is_mixup, mixup_alpha, cutmix_alpha)
  lam = jax.random.beta(lam_key, chosen, chosen, dtype=jnp.float32)
  pasted_images, pasted_targets = _paste(box_key, lam, images, targets)
  # Both are one pass over the same two images, which XLA fuses: a branch would
  # save nothing.
  return (
    jnp.where(is_mixup, _blend(lam, images), pasted_images),
    jnp.where(is_mixup, _blend(lam, targets), pasted_targets),
  )


def _blend(lam: jax.Array, x: jax.Array) -> jax.Array:
  """`lam x_i + (1 - lam) x_{i-1}`, in float32 and back."""
  mixed = lam * x + (1 - lam) * jnp.roll(x, 1, axis=0)
  return mixed.astype(x.dtype)


def _paste(
  key: chex.PRNGKey, lam: jax.Array, images: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """CutMix with a box of `1 - lam` of the area, before it is cut off."""
  _, height, width, _ = images.shape
  row_key, column_key = jax.random.split(key)
  side = jnp.sqrt(1 - lam)
  rows = _random_interval(row_key, height, side)
  columns = _random_interval(column_key, width, side)
  is_pasted = rows[None, :, None, None] & columns[None, None, :, None]
  num_pasted = (jnp.sum(rows) * jnp.sum(columns)).astype(jnp.float32)
  mixed = jnp.where(is_pasted, jnp.roll(images, 1, axis=0), images)
  return mixed, _blend(1 - num_pasted / (height * width), targets)


def _random_interval(
  key: chex.PRNGKey, length: int, fraction: jax.Array
) -> jax.Array:
  """Marks `round(fraction * length)` pixels around a random one, cut off."""
  size = jnp.round(fraction * length).astype(jnp.int32)
  first = jax.random.randint(key, (), 0, length) - size // 2
  positions = jnp.arange(length)
  return (positions >= first) & (positions < first + size)


def _check_alpha(name: str, alpha: float, or_else: str = '') -> None:
  # Beyond what float32 holds, all that is drawn is NaN.
  limits = jnp.finfo(jnp.float32)
  if not float(limits.tiny) <= alpha <= float(limits.max):
    raise ValueError(
      f'{name}: got {alpha}, wanted {or_else}a positive, finite float32'
    )


def _check_arrays(images: jax.Array, targets: jax.Array) -> None:
  for name, x, shape in (
    ('images', images, '[n, h, w, c]'),
    ('targets', targets, '[n, k]'),
  ):
    is_float = jnp.issubdtype(x.dtype, jnp.floating)
    if not is_float or x.ndim != shape.count(',') + 1:
      raise ValueError(
        f'{name}: got {x.dtype} {x.shape}, wanted floats {shape}'
      )
  if len(images) != len(targets):
    raise ValueError(
      f'targets: got {len(targets)}, wanted one per image of {len(images)}'
    )
