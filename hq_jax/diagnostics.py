"""What is watched while training: per-kernel distances and sparsities."""

import chex
import jax
import jax.numpy as jnp

from hq_jax import sphere
from hq_jax import ternary
from hq_jax import trees


def kernel_diagnostics(
  params: chex.ArrayTree,
  latents: chex.ArrayTree,
  *,
  sparsity: float,
  unit_norm: bool = True,
  select: trees.Selector = trees.kernels,
) -> dict[str, dict[str, jax.Array]]:
  """How far each kernel is from its ternary point, and how sparse it is.

  `cosine_distance` is the mean over channels of `1 - cos(w_j, t_j)`, with `t`
  the codes of the latents at the *final* sparsity: comparable over the whole
  training. `sparsity` is the fraction of exact zeros in the parameters.

  >>> import jax.numpy as jnp
  >>> params = {'kernel': jnp.array([[1.0], [-1.0], [0.0], [0.0]])}
  >>> found = kernel_diagnostics(params, params, sparsity=0.5)
  >>> round(float(found['cosine_distance']['kernel']), 6)
  0.0
  >>> float(found['sparsity']['kernel'])
  0.5

  Args:
    params: the parameters that the model sees.
    latents: a tree of the same structure, with the latent kernels.
    sparsity: the final sparsity, in [0, 1).
    unit_norm: whether `abs(u)` is ranked, or `abs(w)`.
    select: which leaves are kernels.

  Returns:
    Two dictionaries from the kernel's path to a float32 scalar.
  """
  selected = trees.select(params, select)
  found = trees.mask(latents, selected)
  thresholds = ternary.get_thresholds(found, sparsity, unit_norm=unit_norm)

  def distance(w, threshold):
    codes = ternary.ternarize(w, threshold, unit_norm=unit_norm).codes
    return jnp.mean(sphere.cosine_distance(w, codes.astype(jnp.float32)))

  zeros = jax.tree.map(
    lambda p: jnp.mean(p == 0, dtype=jnp.float32), trees.mask(params, selected)
  )
  return {
    'cosine_distance': trees.flatten(jax.tree.map(distance, found, thresholds)),
    'sparsity': trees.flatten(zeros),
  }
