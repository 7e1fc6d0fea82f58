"""The methods of compression: what each of them does, and the library's own.

Those to compare with are in `baselines`.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import functools
from typing import Any, Protocol

import jax
import optax

from hq_jax import artifact as artifact_lib
from hq_jax import config as config_lib
from hq_jax import models
from hq_jax import transforms
from hq_jax.compression import planner
from hq_jax.compression import rate_control
from hq_jax.compression.planner import size_prediction
from hq_jax.core import qtensors
from hq_jax.core import sparsity_distributions
from hq_jax.core import trees
from hq_jax.runtime import distributed
from hq_jax.runtime import sharding

MakeArtifact = Callable[..., artifact_lib.Artifact]

_UNTRAINED = ('int8', 'float16')  # encodings of kernels that stay dense


class Method(Protocol):
  """What compresses the kernels of a network while it is trained.

  It is made from a config alone; what it decides for given weights is a plan.
  A state is one of training, with `params`, `opt_state` and `variables`.
  """

  def plan(self, variables: Any) -> planner.Plan:
    """What becomes of each kernel, from weights or from their shapes."""

  def transformation(
    self,
    plan: planner.Plan,
    inner: optax.GradientTransformation,
    schedule: optax.Schedule,
  ) -> optax.GradientTransformationExtraArgs:
    """What trains quantized weights around an optimizer of that schedule."""

  def on_sphere(self, plan: planner.Plan) -> Callable[[str, Any], bool]:
    """Which leaves keep their radius: weight decay would do nothing there."""

  def watched(self, plan: planner.Plan) -> dict[str, Any]:
    """The kernels to watch, and how: for `diagnostics.kernel_diagnostics`."""

  def encode(self, plan: planner.Plan, state: Any) -> artifact_lib.Artifact:
    """What the file of a state holds."""

  def export(self, plan: planner.Plan, state: Any) -> artifact_lib.Artifact:
    """What the file of the last state holds: no more than its target."""

  def adapt(
    self,
    plan: planner.Plan,
    state: Any,
    exported: artifact_lib.Artifact,
    data: bytes,
  ) -> tuple[Any, dict[str, float]]:
    """The state whose next file is nearer to its target, and what to log.

    The data are the bytes of what is exported now.
    """


def select_quantized(plan: planner.Plan) -> Callable[[str, Any], bool]:
  """Selects the kernels of a plan that are trained as quantized weights."""
  paths = {
    path
    for path, layer in plan.layers.items()
    if layer.encoding not in _UNTRAINED
  }
  return lambda path, leaf: path in paths


def quantize_int8(
  paths: Iterable[str], variables: Any
) -> dict[str, qtensors.Int8Tensor]:
  """The kernels that are int8 in the file, by path."""
  leaves = trees.flatten(variables['params'])
  return {path: artifact_lib.quantize_int8(leaves[path]) for path in paths}


def find_layers(plan: planner.Plan) -> trees.LayerAxes:
  """Along which axes layers are stacked in the kernels of a plan."""
  return lambda path, leaf: plan.layers[path].layer_axes


@dataclasses.dataclass(frozen=True)
class Hyperspherical:
  """Hyperspherical quantization, by the recipe of a config.

  Attributes:
    config: validated.
    steps_per_epoch: that the recipe's epochs have.
    make_artifact: `to_artifact.make_artifact` with a header.
  """

  config: config_lib.Config
  steps_per_epoch: int
  make_artifact: MakeArtifact

  @property
  def _target_ratio(self) -> float | None:
    """None where the sparsity is given."""
    is_given = self.config.recipe.sparsity is not None
    return None if is_given else self.config.target_ratio

  @property
  def _filled_ratio(self) -> float | None:
    """The ratio that the ternary phase fills; None where it fills none."""
    is_filled = self.config.fill_target and self.config.recipe.straight_through
    return self._target_ratio if is_filled else None

  def plan(self, variables: Any) -> planner.Plan:
    """Finds the sparsities: the config's own, or those of its target ratio."""
    recipe = self.config.recipe
    if recipe.distribution not in planner.ALLOCATIONS:
      raise ValueError(
        f'config.recipe.distribution is {recipe.distribution!r}, wanted one of:'
        f' {", ".join(planner.ALLOCATIONS)}'
      )
    target_ratio = self._target_ratio
    if target_ratio is None:
      return self._predict(variables)
    try:
      plan = planner.plan(
        variables,
        target_ratio,
        allocation=recipe.distribution,
        layer_axes=models.find_layer_axes(variables['params']),
        make_artifact=self.make_artifact,
        int8=self.config.quantizer.int8,
      )
    except ValueError as error:
      raise _name_field(error) from error
    if not planner.sparsities(plan):
      raise ValueError(
        f'config.target_ratio is {target_ratio:g}, which is reached without a'
        ' ternary kernel, wanted a higher one'
      )
    return plan

  def _predict(self, variables: Any) -> planner.Plan:
    recipe = self.config.recipe
    sparsity: Any = recipe.sparsity
    params = variables['params']
    layer_axes = models.find_layer_axes(params)
    if recipe.distribution in sparsity_distributions.DISTRIBUTIONS:
      sparsity = sparsity_distributions.distribute(
        recipe.distribution,
        {
          path: kernel.shape
          for path, kernel in trees.flatten_selected(params).items()
          if not size_prediction.is_named(path, self.config.quantizer.int8)
        },
        sparsity,
        layer_axes,
      )
    return planner.predict(
      variables,
      sparsity,
      layer_axes=layer_axes,
      make_artifact=self.make_artifact,
      int8=self.config.quantizer.int8,
    )

  def make_recipe(self, plan: planner.Plan) -> transforms.Recipe:
    """The recipe of the config, in steps, with the sparsities of a plan."""
    config, num_steps = self.config, self.steps_per_epoch
    sparsities = planner.sparsities(plan)
    values = set(sparsities.values())
    fields = config_lib.to_dict(config)['recipe'] | {
      # One number where one will do: some scopes have room for no other.
      'sparsity': values.pop() if len(values) == 1 else sparsities,
      'distribution': 'uniform',  # They are allocated already.
      'prune_steps': config.prune.epochs * num_steps,
      'end_step': (config.prune.epochs + config.ternary.epochs) * num_steps,
    }
    try:
      return transforms.Recipe(**fields)
    except ValueError as error:
      of_steps = ''
      if 'prune_steps' in str(error):
        of_steps = f', which is config.prune.epochs times {num_steps} batches'
      raise ValueError(f'config.recipe.{error}{of_steps}') from None

  def transformation(
    self,
    plan: planner.Plan,
    inner: optax.GradientTransformation,
    schedule: optax.Schedule,
  ) -> optax.GradientTransformationExtraArgs:
    """The transformation of the recipe; it has no rate of its own."""
    del schedule
    return transforms.hq(
      inner,
      self.make_recipe(plan),
      select_quantized(plan),
      layer_axes=find_layers(plan),
    )

  def on_sphere(self, plan: planner.Plan) -> Callable[[str, Any], bool]:
    """Those that become ternary, where the recipe projects."""
    if not self.config.recipe.project:
      return lambda path, leaf: False
    return select_quantized(plan)

  def watched(self, plan: planner.Plan) -> dict[str, Any]:
    """Compared with their codes, as the recipe ranks them at its end."""
    recipe = self.make_recipe(plan)
    return {
      'select': select_quantized(plan),
      'layer_axes': find_layers(plan),
      'sparsity': recipe.sparsity,
      'scope': recipe.scope,
      'unit_norm': recipe.project,
    }

  def encode(self, plan: planner.Plan, state: Any) -> artifact_lib.Artifact:
    """What the file of a state holds: its codes, as they are."""
    return self._encode(plan, state, self.make_recipe(plan))

  def _encode(
    self,
    plan: planner.Plan,
    state: Any,
    recipe: transforms.Recipe,
    *,
    requantize: bool = False,
  ) -> artifact_lib.Artifact:
    finalized = sharding.to_host(
      _finalize(
        state.opt_state,
        state.params,
        recipe,
        tuple((p, layer.layer_axes) for p, layer in plan.layers.items()),
        requantize=requantize,
      )
    )
    variables = sharding.to_host(state.variables)
    return self.make_artifact(
      variables,
      transforms.flatten_quantized(finalized),
      quantize_int8(planner.with_encoding(plan, 'int8'), variables),
    )

  def export(self, plan: planner.Plan, state: Any) -> artifact_lib.Artifact:
    """That of `encode`, without as many of its smallest weights as must go."""
    recipe = self.make_recipe(plan)
    exported = self._encode(plan, state, recipe)
    target_ratio = self._filled_ratio
    if target_ratio is None:
      return exported
    data = artifact_lib.dumps(exported)
    most_bytes = plan.dense_bytes / target_ratio
    if len(data) <= most_bytes:
      return exported

    def encode(budget: float) -> artifact_lib.Artifact:
      scale = _find_density_scale(plan, exported, data, budget)
      scaled = _scale_density(recipe, scale)
      return self._encode(plan, state, scaled, requantize=True)

    wanted = rate_control.get_wanted_bytes(plan.dense_bytes, target_ratio)
    return rate_control.fit(encode, most_bytes, wanted)[0]

  def adapt(
    self,
    plan: planner.Plan,
    state: Any,
    exported: artifact_lib.Artifact,
    data: bytes,
  ) -> tuple[Any, dict[str, float]]:
    """More weights live, or fewer, where the file is to fill its target."""
    target_ratio = self._filled_ratio
    if target_ratio is None:
      return state, {}
    wanted = rate_control.get_wanted_bytes(plan.dense_bytes, target_ratio)
    scale = _find_density_scale(plan, exported, data, wanted)
    opt_state = transforms.with_density_scale(state.opt_state, scale)
    return state.replace(opt_state=opt_state), {'density_scale': scale}


def _name_field(error: ValueError) -> ValueError:
  found = config_lib.with_field(
    error, 'config.quantizer.', config_lib.Quantizer
  )
  return config_lib.with_field(found, 'config.', config_lib.Config)


@functools.partial(jax.jit, static_argnums=(2, 3), static_argnames='requantize')
def _finalize(opt_state, params, recipe, layer_axes, *, requantize):
  return transforms.finalize(
    opt_state,
    params,
    recipe,
    requantize=requantize,
    layer_axes=lambda path, leaf: dict(layer_axes)[path],
  )


def _find_density_scale(
  plan: planner.Plan,
  exported: artifact_lib.Artifact,
  data: bytes,
  wanted_bytes: float,
) -> float:
  found = rate_control.find_density_scale(
    exported, data, planner.sparsities(plan), wanted_bytes
  )
  return distributed.gather(found)[0]  # One for all, to the last bit.


def _scale_density(
  recipe: transforms.Recipe, scale: float
) -> transforms.Recipe:
  scaled = lambda value: float(
    sparsity_distributions.scale_density(value, scale)
  )
  sparsity: Any = recipe.sparsity
  if isinstance(sparsity, Mapping):
    found: Any = {path: scaled(s) for path, s in sparsity.items()}
  else:
    found = scaled(sparsity)
  return dataclasses.replace(recipe, sparsity=found)
