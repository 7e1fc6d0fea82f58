"""Fields that the transformations' recipe and a config's have in common."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeFields:
  """The part of a recipe that counts no steps of a run.

  Attributes:
    distribution: how the zeros are allocated to the kernels: uniform or
      erdos_renyi_kernel; in a config with a `target_ratio`, cosine_distance
      too.
    scope: which weights compete: those of a layer, of the whole tree, of each
      channel, or of groups, as 2:4.
    initial_sparsity: where the ramp begins, in [0, 1); at most the sparsity at
      the end is used.
    ramp: how the sparsity rises: cubic, linear, staged or one_shot.
    num_stages: how many reinitializations, evenly over the pruning, and how
      many jumps of a staged ramp.
    reinit_strength: how far each reinitialization moves the weights toward
      their ternary point, in [0, 1].
    refresh_steps: steps between two exact thresholds.
    tangent: whether gradients are projected onto the tangent of the sphere.
    project: whether weights are put back on the sphere after each step; without
      it, their magnitudes are ranked as they are.
    prune: whether the sparsity rises; without it, all zeros come at once.
    prune_gradients: what a weight that is pruned gets while the sparsity rises:
      nothing (masked), or the gradient at its ternary value
      (straight_through).
    reinit: whether weights are reinitialized.
    straight_through: whether training ends with ternary weights; without it
      they are rounded after training.
  """

  distribution: str = 'uniform'
  scope: str = 'layer'
  initial_sparsity: float = 0.6
  ramp: str = 'cubic'
  num_stages: int = 4
  reinit_strength: float = 0.1
  refresh_steps: int = 20
  tangent: bool = True
  project: bool = True
  prune: bool = True
  prune_gradients: str = 'straight_through'
  reinit: bool = True
  straight_through: bool = True
