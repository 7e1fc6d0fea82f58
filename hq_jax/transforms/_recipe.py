"""When `hq` does what."""

from collections.abc import Mapping
import dataclasses
import numbers

import chex
import numpy as np
import optax

from hq_jax.core import recipe_fields
from hq_jax.core import schedules
from hq_jax.core import sparsity_distributions
from hq_jax.core import thresholds
from hq_jax.core import trees

_PRUNE_GRADIENTS = ('masked', 'straight_through')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(recipe_fields.RecipeFields):
  """When `hq` does what, counted in optimizer steps.

  From `begin_step` the sparsity rises from `initial_sparsity` to `sparsity`
  over `prune_steps`, in `num_stages` equal stages, and at each stage's end the
  weights are reinitialized. Meanwhile weights are pruned and stay zero, and
  from `begin_step + prune_steps` the parameters are ternary; or, where pruning
  is straight-through, they are ternary from `begin_step` on, with more and more
  zeros, and every latent weight goes on moving. Before `begin_step` they are
  dense, on the sphere.

  >>> Recipe(sparsity=0.85, begin_step=100, prune_steps=100).ternary_begin_step
  100

  What has to do with no step is described in `core.recipe_fields`:
  `distribution` (here 'uniform' or 'erdos_renyi_kernel'), `scope`,
  `initial_sparsity`, `ramp`, `num_stages`, `reinit_strength`, `refresh_steps`,
  and the parts of the method that can be left out, `tangent`, `project`,
  `prune`, `prune_gradients`, `reinit` and `straight_through`.

  Attributes:
    sparsity: the fraction of zeros at the end, in [0, 1): one for all kernels
      together, allocated as `distribution` says, or a map from paths or
      regular expressions (see `sparsity_distributions.resolve`) to the
      fraction of each kernel. At least one weight of every kernel is kept
      whenever thresholds are found.
    begin_step: the first step that prunes.
    prune_steps: how long pruning takes; 0 for ternary at once.
    end_step: the number of steps in all, where it is known: thresholds are
      exact after the last one.
  """

  sparsity: float | Mapping[str, float] = 0.85
  begin_step: int = 0
  prune_steps: int = 0
  end_step: int | None = None

  def __post_init__(self):
    self._check_sparsity()
    _check_fraction('initial_sparsity', self.initial_sparsity)
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
      value = getattr(self, name)
      if not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(
          f'{name} is {value}, wanted an int of at least {least}'
        )
    prune_end_step = self.begin_step + self.prune_steps
    if self.end_step is not None and self.end_step < prune_end_step:
      raise ValueError(
        f'end_step is {self.end_step}, wanted at least begin_step +'
        f' prune_steps = {prune_end_step}'
      )
    if self.prune_gradients not in _PRUNE_GRADIENTS:
      raise ValueError(
        f'prune_gradients is {self.prune_gradients!r}, wanted one of:'
        f' {", ".join(_PRUNE_GRADIENTS)}'
      )
    in_stages = self.reinit or self.ramp == 'staged'
    if in_stages and 0 < self.prune_steps < self.num_stages:
      raise ValueError(
        f'num_stages is {self.num_stages}, wanted at most prune_steps ='
        f' {self.prune_steps}'
      )

  def _check_sparsity(self):
    for name, table in (
      ('distribution', sparsity_distributions.DISTRIBUTIONS),
      ('ramp', schedules.RAMPS),
    ):
      if getattr(self, name) not in table:
        raise ValueError(
          f'{name} is {getattr(self, name)!r}, wanted one of:'
          f' {", ".join(table)}'
        )
    group = thresholds.parse_scope(self.scope)
    by_path = isinstance(self.sparsity, Mapping)
    if isinstance(self.sparsity, Mapping):
      values = list(self.sparsity.values())
      if not values:
        raise ValueError('sparsity is {}, wanted a number or a map of them')
      # A copy: the caller's own may change.
      object.__setattr__(self, 'sparsity', dict(self.sparsity))
    else:
      values = [self.sparsity]
    for value in values:
      _check_fraction('sparsity', value)
      if group and abs(value - (1 - group[0] / group[1])) > 1e-6:
        raise ValueError(
          f'sparsity is {value}, wanted {1 - group[0] / group[1]:g}, that of'
          f' scope {self.scope}'
        )
    shares = by_path or self.distribution != 'uniform'
    if shares and (group or self.scope == 'tree'):
      raise ValueError(
        f'scope is {self.scope!r}, wanted layer or channel where kernels have'
        ' sparsities of their own'
      )
    if by_path and self.distribution != 'uniform':
      raise ValueError(
        f'distribution is {self.distribution!r}, wanted uniform with a'
        ' sparsity by path'
      )

  def __hash__(self):
    # A recipe can be a static argument of `jit`, with a map in it too.
    values = dataclasses.asdict(self)
    return hash(tuple((name, str(values[name])) for name in values))

  @property
  def is_ramp_ternary(self) -> bool:
    """Whether parameters are ternary while their sparsity rises."""
    straight_through = self.prune_gradients == 'straight_through'
    is_ramp = self.prune and self.prune_steps > 0
    return is_ramp and self.straight_through and straight_through

  @property
  def ternary_begin_step(self) -> int:
    """The first step whose parameters are ternary."""
    return self.begin_step + (0 if self.is_ramp_ternary else self.prune_steps)

  def get_ramp(self, sparsity: float) -> optax.Schedule:
    """The sparsity by step, of what ends at the one given."""
    return schedules.RAMPS[self.ramp](
      min(self.initial_sparsity, sparsity),
      sparsity,
      self.begin_step,
      self.prune_steps,
      self.num_stages,
    )

  def get_sparsity(
    self, kernels: chex.ArrayTree, axes: chex.ArrayTree = None
  ) -> float | dict[str, float]:
    """The sparsity at the end: one for all kernels, or one by path.

    Args:
      kernels: the selected leaves, by path or in a masked tree.
      axes: what their axes are (see `trees.find_axes`), likewise; None where no
        layers are stacked.

    Returns:
      What `thresholds.get_thresholds` takes.

    Raises:
      ValueError: where the recipe's map does not fit the kernels.
    """
    shapes = {
      path: np.shape(leaf) for path, leaf in trees.flatten(kernels).items()
    }
    if isinstance(self.sparsity, Mapping):
      return sparsity_distributions.resolve(self.sparsity, list(shapes))
    if self.distribution == 'uniform':
      return self.sparsity
    return sparsity_distributions.distribute(
      self.distribution,
      shapes,
      self.sparsity,
      {path: a.layer for path, a in trees.flatten(axes).items()},
    )


def _check_fraction(name: str, value: float) -> None:
  if not isinstance(value, numbers.Real) or not 0.0 <= value < 1.0:
    raise ValueError(f'{name} is {value!r}, wanted a fraction in [0, 1)')
