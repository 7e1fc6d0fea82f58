"""The whole method around any optax optimizer."""

import dataclasses
from typing import Any

import chex
import jax
import optax

from hq_jax import quantizers
from hq_jax import schedules
from hq_jax import ternary
from hq_jax import trees
from hq_jax.transforms import _project
from hq_jax.transforms import _prune
from hq_jax.transforms import _reinit
from hq_jax.transforms import _straight_through
from hq_jax.transforms import _tangent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
  """When `hq` does what, counted in optimizer steps.

  From `begin_step` the sparsity rises from `initial_sparsity` to `sparsity`
  over `prune_steps`, in `num_stages` equal stages, and at each stage's end the
  weights are reinitialized. From `begin_step + prune_steps` the parameters are
  ternary. Before `begin_step` they are dense, on the sphere.

  >>> Recipe(sparsity=0.85, prune_steps=100).ternary_begin_step
  100

  Attributes:
    sparsity: the fraction of zeros in each kernel at the end, in [0, 1).
    begin_step: the first step that prunes.
    prune_steps: how long pruning takes; 0 for ternary at once.
    initial_sparsity: where the ramp begins, in [0, 1); at most `sparsity` is
      used.
    num_stages: how many reinitializations, evenly over the pruning.
    reinit_strength: how far each moves the weights, in [0, 1].
    refresh_steps: steps between two exact thresholds.
    end_step: the number of steps in all, where it is known: thresholds are
      exact after the last one.
    tangent: whether gradients are projected onto the tangent of the sphere.
    project: whether weights are put back on the sphere after each step;
      without it, `abs(w)` is ranked instead of `abs(u)`.
    prune: whether weights are pruned before they become ternary.
    reinit: whether they are reinitialized.
    straight_through: whether training ends with ternary weights; without it
      they are rounded after training, by `finalize`.
  """

  sparsity: float = 0.85
  begin_step: int = 0
  prune_steps: int = 0
  initial_sparsity: float = 0.3
  num_stages: int = 4
  reinit_strength: float = 0.5
  refresh_steps: int = 50
  end_step: int | None = None
  tangent: bool = True
  project: bool = True
  prune: bool = True
  reinit: bool = True
  straight_through: bool = True

  def __post_init__(self):
    if not 0.0 <= self.sparsity < 1.0:
      raise ValueError(
        f'sparsity is {self.sparsity}, wanted a fraction in [0, 1)'
      )
    if not 0.0 <= self.initial_sparsity < 1.0:
      raise ValueError(
        f'initial_sparsity is {self.initial_sparsity}, wanted a fraction in'
        ' [0, 1)'
      )
    if not 0.0 <= self.reinit_strength <= 1.0:
      raise ValueError(
        f'reinit_strength is {self.reinit_strength}, wanted a fraction in'
        ' [0, 1]'
      )
    for name, least in (
      ('begin_step', 0),
      ('prune_steps', 0),
      ('num_stages', 1),
      ('refresh_steps', 1),
    ):
      if getattr(self, name) < least:
        raise ValueError(
          f'{name} is {getattr(self, name)}, wanted at least {least}'
        )
    if self.end_step is not None and self.end_step < self.ternary_begin_step:
      raise ValueError(
        f'end_step is {self.end_step}, wanted at least begin_step +'
        f' prune_steps = {self.ternary_begin_step}'
      )
    if self.reinit and 0 < self.prune_steps < self.num_stages:
      raise ValueError(
        f'num_stages is {self.num_stages}, wanted at most prune_steps ='
        f' {self.prune_steps}'
      )

  @property
  def ternary_begin_step(self) -> int:
    """The first step whose parameters are ternary."""
    return self.begin_step + self.prune_steps

  def get_ramp(self) -> optax.Schedule:
    """The sparsity by step."""
    return schedules.sparsity_ramp(
      min(self.initial_sparsity, self.sparsity),
      self.sparsity,
      begin_step=self.begin_step,
      # The last pruning step is at the full sparsity.
      ramp_steps=max(self.prune_steps - 1, 0),
    )


def hq(
  inner: optax.GradientTransformation,
  recipe: Recipe,
  *,
  select: trees.Selector = trees.kernels,
) -> optax.GradientTransformationExtraArgs:
  """Hyperspherical Quantization (reconstruction) around any optimizer.

  An alias: `straight_through(chain(tangent, inner, prune, reinit,
  project_to_sphere), ternary)`, each part as the recipe says. The parameters
  become dense, then pruned, then ternary; the user's loop does not change.

  >>> import jax
  >>> import jax.numpy as jnp
  >>> import optax
  >>> params = {'kernel': jnp.ones((4, 2)), 'bias': jnp.zeros(2)}
  >>> tx = hq(optax.adam(1e-2), Recipe(sparsity=0.5))
  >>> grads = jax.tree.map(jnp.ones_like, params)
  >>> updates, state = tx.update(grads, tx.init(params), params)
  >>> params = optax.apply_updates(params, updates)
  >>> int((params['kernel'] != 0).sum())
  4

  Args:
    inner: any optax pipeline that ends in updates to be added.
    recipe: what is done when.
    select: which leaves are quantized; see `trees.select`.

  Returns:
    A transformation whose `update` needs `params`. Weights start from the
    parameters given to `init`, whose radii are kept.

  Raises:
    ValueError: where `select` matches nothing, or `params` is missing.
  """
  pruned = recipe.prune_steps > 0
  unit_norm = recipe.project
  parts = [inner]
  if recipe.tangent:
    parts.insert(0, _tangent.tangent(select=select))
  if recipe.prune and pruned:
    parts.append(
      _prune.prune(
        recipe.get_ramp(),
        begin_step=recipe.begin_step,
        end_step=recipe.ternary_begin_step,
        refresh_steps=recipe.refresh_steps,
        unit_norm=unit_norm,
        select=select,
      )
    )
  if recipe.reinit and pruned:
    parts.append(
      _reinit.reinit(
        schedules.stage_ends(
          recipe.begin_step, recipe.prune_steps, recipe.num_stages
        ),
        recipe.reinit_strength,
        recipe.get_ramp(),
        unit_norm=unit_norm,
        select=select,
      )
    )
  if recipe.project:
    parts.append(_project.project_to_sphere(select=select))
  quantizer = quantizers.identity()
  if recipe.straight_through:
    quantizer = quantizers.ternary(
      recipe.sparsity,
      begin_step=recipe.ternary_begin_step,
      end_step=recipe.end_step,
      refresh_steps=recipe.refresh_steps,
      unit_norm=unit_norm,
    )
  return _straight_through.straight_through(
    optax.chain(*parts), quantizer, select=select
  )


def latents(opt_state: Any, params: chex.ArrayTree) -> chex.ArrayTree:
  """The latent weights, with the other parameters as they are.

  >>> import jax.numpy as jnp
  >>> import optax
  >>> params = {'kernel': jnp.ones((2, 2)), 'bias': jnp.zeros(2)}
  >>> tx = hq(optax.sgd(0.1), Recipe())
  >>> sorted(latents(tx.init(params), params))
  ['bias', 'kernel']

  Args:
    opt_state: a state that holds one of `straight_through`, at any depth.
    params: the parameters.

  Returns:
    A tree with the structure of `params`.

  Raises:
    ValueError: where the state holds no latents.
  """
  found = optax.tree.get(opt_state, 'latents')
  if found is None:
    raise ValueError('opt_state holds no latents, wanted the state of hq')
  return trees.merge(found, params)


def finalize(
  opt_state: Any, recipe: Recipe
) -> dict[str, ternary.TernaryTensor]:
  """The exact ternary kernels, for export.

  Where the parameters are ternary already, these are their codes and scales;
  elsewhere (training was cut short, or `straight_through` is off) the latents
  are rounded at the recipe's sparsity.

  >>> import jax.numpy as jnp
  >>> import optax
  >>> params = {'kernel': jnp.arange(1., 5.).reshape(4, 1)}
  >>> recipe = Recipe(sparsity=0.5)
  >>> finalize(hq(optax.sgd(0.1), recipe).init(params), recipe)['kernel'].codes
  Array([[0],
         [0],
         [1],
         [1]], dtype=int8)

  Args:
    opt_state: a state that holds one of `hq`, at any depth.
    recipe: the one it was made with.

  Returns:
    Codes and scales by the path of the kernel.

  Raises:
    ValueError: where the state holds no latents.
  """
  found = optax.tree.get(opt_state, 'latents')
  if found is None:
    raise ValueError('opt_state holds no latents, wanted the state of hq')
  unit_norm = recipe.project
  rank = lambda: ternary.get_thresholds(
    found, recipe.sparsity, unit_norm=unit_norm
  )
  trained = optax.tree.get(opt_state, 'thresholds')
  if trained is None:
    thresholds = rank()
  else:
    count = optax.tree.get(opt_state, 'ternary_count')
    thresholds = jax.lax.cond(
      count > recipe.ternary_begin_step, lambda: trained, rank
    )
  quantized = jax.tree.map(
    lambda w, threshold: ternary.ternarize(w, threshold, unit_norm=unit_norm),
    found,
    thresholds,
  )
  is_tensor = lambda node: isinstance(node, ternary.TernaryTensor)
  leaves = jax.tree_util.tree_leaves_with_path(quantized, is_leaf=is_tensor)
  return {trees.path_string(path): tensor for path, tensor in leaves}
