"""The baselines as methods: from a config to a quantizer, and its file."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hq_jax import artifact as artifact_lib
from hq_jax import baselines
from hq_jax import config as config_lib
from hq_jax import models
from hq_jax import transforms
from hq_jax.compression import method as method_lib
from hq_jax.compression import planner
from hq_jax.compression.planner import size_prediction
from hq_jax.core import sphere
from hq_jax.core import trees
from hq_jax.runtime import sharding

# Of the training steps, those until PARQ's weights are ternary.
_ANNEALED = 0.75

# From a config, the training steps and an optimizer.
_QUANTIZERS: Mapping[str, Callable[..., transforms.Quantizer]] = {
  'twn': lambda config, num_steps, optimizer: baselines.twn(),
  'ttq': lambda config, num_steps, optimizer: baselines.ttq(
    optimizer=optimizer
  ),
  'parq': lambda config, num_steps, optimizer: baselines.parq(
    max(1, round(_ANNEALED * num_steps))
  ),
  'binary': lambda config, num_steps, optimizer: baselines.binary(),
  'uniform': lambda config, num_steps, optimizer: baselines.uniform(
    config.quantizer.bits, optimizer
  ),
  'vector': lambda config, num_steps, optimizer: baselines.vector(
    config.quantizer.group_size,
    config.quantizer.num_codewords,
    config.recipe.refresh_steps,
    optimizer,
  ),
}
NAMES = tuple(_QUANTIZERS)


@dataclasses.dataclass(frozen=True)
class Baseline:
  """A `Method` whose quantizer follows no recipe and has no target.

  Attributes:
    config: validated; its quantizer is one of `NAMES`.
    steps_per_epoch: as `method.Hyperspherical`.
    make_artifact: `to_artifact.make_artifact` with a header.
  """

  config: config_lib.Config
  steps_per_epoch: int
  make_artifact: method_lib.MakeArtifact

  def __post_init__(self):
    if self.config.prune.epochs:
      raise ValueError(
        f'config.prune.epochs is {self.config.prune.epochs}, wanted 0 with'
        f' config.quantizer.name {self.config.quantizer.name}, which does not'
        ' prune'
      )

  def make_quantizer(
    self, schedule: optax.Schedule | None = None
  ) -> transforms.Quantizer:
    """The quantizer; what it learns of its own, it learns at that rate."""
    return _QUANTIZERS[self.config.quantizer.name](
      self.config,
      self.config.ternary.epochs * self.steps_per_epoch,
      None if schedule is None else optax.adam(schedule),
    )

  def plan(self, variables: Any) -> planner.Plan:
    """What the file would be without training, which is made for it.

    Of these weights, or of Gaussian ones where only their shapes are known.
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
    encodings = self._find_encodings(list(kernels))
    axes = trees.find_axes(
      params,
      lambda path, leaf: encodings.get(path, 'int8') != 'int8',
      layer_axes=models.find_layer_axes(params),
    )
    latents = trees.mask(params, axes)
    quantizer = self.make_quantizer()
    quantized, state = quantizer.update(
      latents, quantizer.init(latents, axes), latents, axes
    )
    assert quantizer.encode is not None  # Every baseline has one.
    found = transforms.flatten_quantized(quantizer.encode(latents, state, axes))
    leaves = trees.flatten(params)
    int8 = method_lib.quantize_int8(
      [path for path in encodings if encodings[path] == 'int8'], variables
    )
    data = artifact_lib.dumps(self.make_artifact(variables, found, int8))
    num_bytes = {row.path: row.num_bytes for row in artifact_lib.layers(data)}
    values = trees.flatten(quantized) | {
      path: tensor.codes.astype(np.float32) * tensor.scale
      for path, tensor in int8.items()
    }
    distance = lambda path: jnp.mean(
      sphere.cosine_distance(leaves[path], values[path], -1)
    )
    layers = {
      path: planner.LayerPlan(
        encodings[path], 0.0, num_bytes[name], float(distance(path))
      )
      for name, path in trees.in_params({p: p for p in encodings}).items()
    }
    return planner.Plan(
      layers,
      len(data),
      len(data) - sum(layer.num_bytes for layer in layers.values()),
      4 * sum(leaf.size for leaf in jax.tree.leaves(variables)),
    )

  def transformation(
    self,
    plan: planner.Plan,
    inner: optax.GradientTransformation,
    schedule: optax.Schedule,
  ) -> optax.GradientTransformationExtraArgs:
    """The quantizer around an optimizer."""
    return transforms.straight_through(
      inner,
      self.make_quantizer(schedule),
      select=method_lib.select_quantized(plan),
    )

  def on_sphere(self, plan: planner.Plan) -> Callable[[str, Any], bool]:
    """None: weights go where the optimizer leads them."""
    del plan
    return lambda path, leaf: False

  def watched(self, plan: planner.Plan) -> dict[str, Any]:
    """Weights are compared with what they are rounded to."""
    return {'select': method_lib.select_quantized(plan)}

  def encode(self, plan: planner.Plan, state: Any) -> artifact_lib.Artifact:
    """What the file of a state holds."""
    found = sharding.to_host(self._encode(state.opt_state, state.params))
    variables = sharding.to_host(state.variables)
    paths = planner.with_encoding(plan, 'int8')
    int8 = method_lib.quantize_int8(paths, variables)
    return self.make_artifact(variables, found, int8)

  def _find_encodings(self, paths: Sequence[str]) -> dict[str, str]:
    config = self.config.quantizer
    try:
      return size_prediction.encode_all(paths, config.name, config.int8)
    except ValueError as error:
      raise config_lib.with_field(
        error, 'config.quantizer.', config_lib.Quantizer
      ) from error

  @functools.cached_property
  def _encode(self) -> Callable[[Any, Any], Any]:
    quantizer = self.make_quantizer()
    return jax.jit(
      lambda opt_state, params: transforms.encode(opt_state, params, quantizer)
    )

  def export(self, plan: planner.Plan, state: Any) -> artifact_lib.Artifact:
    """That of `encode`: it has the size that it has."""
    return self.encode(plan, state)

  def adapt(
    self,
    plan: planner.Plan,
    state: Any,
    exported: artifact_lib.Artifact,
    data: bytes,
  ) -> tuple[Any, dict[str, float]]:
    """The state as it is."""
    del plan, exported, data
    return state, {}


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
