"""From a target file size to the sparsity and the encoding of each kernel."""

from hq_jax.planner.planning import ALLOCATIONS as ALLOCATIONS
from hq_jax.planner.planning import plan as plan
from hq_jax.planner.planning import predict as predict
from hq_jax.planner.plans import describe as describe
from hq_jax.planner.plans import LayerPlan as LayerPlan
from hq_jax.planner.plans import Plan as Plan
from hq_jax.planner.plans import sparsities as sparsities
from hq_jax.planner.plans import with_encoding as with_encoding
from hq_jax.planner.prices import entropy_bytes as entropy_bytes
from hq_jax.planner.probes import find_kernels as find_kernels
