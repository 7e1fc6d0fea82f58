"""Optax transformations: the parts of the method, and `hq`, all of them."""

from hq_jax.core.trees import channel_axis as channel_axis
from hq_jax.core.trees import describe as describe
from hq_jax.core.trees import flax_layer_axes as flax_layer_axes
from hq_jax.core.trees import kernels as kernels
from hq_jax.transforms._encode import encode as encode
from hq_jax.transforms._hq import finalize as finalize
from hq_jax.transforms._hq import hq as hq
from hq_jax.transforms._hq import latents as latents
from hq_jax.transforms._hq import with_density_scale as with_density_scale
from hq_jax.transforms._project import project_to_sphere as project_to_sphere
from hq_jax.transforms._project import ProjectState as ProjectState
from hq_jax.transforms._prune import prune as prune
from hq_jax.transforms._prune import PruneState as PruneState
from hq_jax.transforms._quantizer import flatten_quantized as flatten_quantized
from hq_jax.transforms._quantizer import identity as identity
from hq_jax.transforms._quantizer import Quantizer as Quantizer
from hq_jax.transforms._recipe import Recipe as Recipe
from hq_jax.transforms._reinit import reinit as reinit
from hq_jax.transforms._reinit import ReinitState as ReinitState
from hq_jax.transforms._straight_through import (
  straight_through as straight_through,
)
from hq_jax.transforms._straight_through import (
  StraightThroughState as StraightThroughState,
)
from hq_jax.transforms._tangent import tangent as tangent
from hq_jax.transforms._tangent import TangentState as TangentState
from hq_jax.transforms._ternary import ternary as ternary
from hq_jax.transforms._ternary import TernaryState as TernaryState

__all__ = [
  'ProjectState',
  'PruneState',
  'Quantizer',
  'Recipe',
  'ReinitState',
  'StraightThroughState',
  'TangentState',
  'TernaryState',
  'channel_axis',
  'describe',
  'encode',
  'finalize',
  'flatten_quantized',
  'flax_layer_axes',
  'hq',
  'identity',
  'kernels',
  'latents',
  'project_to_sphere',
  'prune',
  'reinit',
  'straight_through',
  'tangent',
  'ternary',
  'with_density_scale',
]
