"""Plans: the sparsity and the encoding of each kernel for a file size."""

from hq_jax.compression.planner.allocation import ALLOCATIONS as ALLOCATIONS
from hq_jax.compression.planner.allocation import plan as plan
from hq_jax.compression.planner.overhead import find_kernels as find_kernels
from hq_jax.compression.planner.records import describe as describe
from hq_jax.compression.planner.records import LayerPlan as LayerPlan
from hq_jax.compression.planner.records import Plan as Plan
from hq_jax.compression.planner.records import sparsities as sparsities
from hq_jax.compression.planner.records import with_encoding as with_encoding
from hq_jax.compression.planner.size_prediction import predict as predict
from hq_jax.compression.rate_control import entropy_bytes as entropy_bytes

__all__ = [
  'ALLOCATIONS',
  'LayerPlan',
  'Plan',
  'describe',
  'entropy_bytes',
  'find_kernels',
  'plan',
  'predict',
  'sparsities',
  'with_encoding',
]
