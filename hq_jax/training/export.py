"""What a job ships: the file of a state, which fits its target at the end."""

from collections.abc import Mapping
import dataclasses

from hq_jax import artifact as artifact_lib
from hq_jax import transforms
from hq_jax.compression import planner
from hq_jax.compression import rate_control
from hq_jax.compression import to_artifact
from hq_jax.runtime import distributed
from hq_jax.training import setup as setup_lib
from hq_jax.training import train_state

_MAX_ROUNDS = 4  # until a file that was steered too far fits its target


def export_model(
  job: setup_lib.Job, state: train_state.TrainState, *, is_last: bool = False
) -> artifact_lib.Artifact:
  """What the file of a state holds."""
  if job.quantizer is not None:
    return to_artifact.artifact_of_quantizer(state, job.quantizer, **job.header)
  assert job.recipe is not None  # Where there is no quantizer.
  make = lambda recipe, requantize: to_artifact.artifact_of_state(
    state,
    recipe,
    int8_kernels=job.int8_kernels,
    requantize=requantize,
    **job.header,
  )
  exported = make(job.recipe, False)
  if not is_last or job.wanted_bytes is None:
    return exported
  wanted = job.wanted_bytes
  assert job.config.target_ratio is not None
  most = job.plan.dense_bytes / job.config.target_ratio
  for _ in range(_MAX_ROUNDS):
    data = artifact_lib.dumps(exported)
    if len(data) <= most:
      break
    factor = rate_control.find_density_scale(
      exported, data, planner.sparsities(job.plan), wanted
    )
    factor = distributed.gather(factor)[0]  # One for all, to the last bit.
    wanted -= job.plan.dense_bytes // 500  # Less, if it has to come again.
    exported = make(_scale_kept(job.recipe, factor), True)
  return exported


def _scale_kept(recipe: transforms.Recipe, factor: float) -> transforms.Recipe:
  scale = lambda value: max(0.0, 1 - (1 - value) * factor)
  sparsity = recipe.sparsity
  if isinstance(sparsity, Mapping):
    return dataclasses.replace(
      recipe, sparsity={path: scale(s) for path, s in sparsity.items()}
    )
  return dataclasses.replace(recipe, sparsity=scale(sparsity))
