"""The methods to compare with: from a config to a quantizer, and its file."""

from collections.abc import Callable, Mapping
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hq_jax import artifact as artifact_lib
from hq_jax import baselines
from hq_jax import config as config_lib
from hq_jax import transforms
from hq_jax.compression import planner
from hq_jax.core import sphere
from hq_jax.core import trees

_RIVALS: Mapping[str, Callable[..., transforms.Quantizer]] = {
  'twn': lambda config, refresh, optimizer: baselines.twn(),
  'binary': lambda config, refresh, optimizer: baselines.binary(),
  'uniform': lambda config, refresh, optimizer: baselines.uniform(
    config.bits, optimizer
  ),
  'vector': lambda config, refresh, optimizer: baselines.vector(
    config.group_size, config.num_codewords, refresh, optimizer
  ),
}
QUANTIZERS = (config_lib.OURS, *_RIVALS)


def make_quantizer(
  config: config_lib.Config,
  schedule: optax.Schedule | None = None,
) -> transforms.Quantizer | None:
  """The quantizer of a config."""
  name = config.quantizer.name
  if name not in QUANTIZERS:
    raise ValueError(
      f'config.quantizer.name is {name!r}, wanted one of:'
      f' {", ".join(QUANTIZERS)}'
    )
  if name == config_lib.OURS:
    return None
  if config.prune.epochs:
    raise ValueError(
      f'config.prune.epochs is {config.prune.epochs}, wanted 0 with'
      f' config.quantizer.name {name}, which does not prune'
    )
  optimizer = None if schedule is None else optax.adam(schedule)
  make = _RIVALS[name]
  return make(config.quantizer, config.recipe.refresh_steps, optimizer)


def predict(
  name: str,
  quantizer: transforms.Quantizer,
  variables: Mapping[str, Any],
  make_artifact: Callable[..., artifact_lib.Artifact],
) -> planner.Plan:
  """What file a quantizer makes of weights, before it is trained.

  The file is made: of these weights, or of Gaussian ones where only shapes are
  known.
  """
  rng = np.random.default_rng(0)
  kernels = planner.find_kernels(variables['params'])
  variables = jax.tree_util.tree_map_with_path(
    lambda path, leaf: _get_values(
      leaf, rng, is_kernel=trees.path_string(path[1:]) in kernels
    ),
    variables,
  )
  params = variables['params']
  axes = trees.find_axes(params, trees.kernels)
  latents = trees.mask(params, axes)
  quantized, state = quantizer.update(
    latents, quantizer.init(latents, axes), latents, axes
  )
  assert quantizer.encode is not None  # A rival has one.
  found = transforms.flatten_quantized(quantizer.encode(latents, state, axes))
  data = artifact_lib.dumps(make_artifact(variables, found))
  num_bytes = {row.path: row.num_bytes for row in artifact_lib.layers(data)}
  latents, values = trees.flatten(latents), trees.flatten(quantized)
  layers = {
    path: planner.LayerPlan(
      name,
      0.0,
      num_bytes[f'params/{path}'],
      float(jnp.mean(sphere.cosine_distance(kernel, values[path], -1))),
    )
    for path, kernel in latents.items()
  }
  return planner.Plan(
    layers,
    len(data),
    len(data) - sum(layer.num_bytes for layer in layers.values()),
    4 * sum(leaf.size for leaf in jax.tree.leaves(variables)),
  )


def _get_values(
  leaf: Any, rng: np.random.Generator, *, is_kernel: bool
) -> np.ndarray:
  """The values, or random ones where only their shape is known."""
  if hasattr(leaf, '__array__'):
    return np.asarray(leaf, np.float32)
  drawn = rng.standard_normal(leaf.shape, np.float32)
  if not is_kernel:
    return np.exp2(2 * drawn)  # Positive, as variances are.
  return drawn / np.float32(max(1, math.prod(leaf.shape[:-1]))) ** 0.5
