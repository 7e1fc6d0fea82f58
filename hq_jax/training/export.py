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

_MOST_ROUNDS = 4  # until a file that was steered too far fits its target


def ship(
  job: setup_lib.Job, state: train_state.TrainState, *, is_last: bool = False
) -> artifact_lib.Artifact:
  """What the file of a state holds.

  Args:
    job: with the plan that the state is trained by.
    state: of the compression stage.
    is_last: whether training has ended. The file then has at most the bytes of
      its target: where it was steered a little beyond, the smallest weights
      become zero.

  Returns:
    An artifact, on the host.
  """
  if job.quantizer is not None:
    return to_artifact.artifact_of_quantizer(state, job.quantizer, **job.header)
  assert job.recipe is not None  # Where there is no quantizer.
  make = lambda recipe, rerank: to_artifact.artifact_of_state(
    state,
    recipe,
    int8_kernels=job.int8_kernels,
    rerank=rerank,
    **job.header,
  )
  shipped = make(job.recipe, False)
  if not is_last or job.wanted_bytes is None:
    return shipped
  wanted = job.wanted_bytes
  assert job.config.target_ratio is not None
  most = job.plan.dense_bytes / job.config.target_ratio
  for _ in range(_MOST_ROUNDS):
    data = artifact_lib.dumps(shipped)
    if len(data) <= most:
      break
    factor = rate_control.find_kept_factor(
      shipped, data, planner.sparsities(job.plan), wanted
    )
    factor = distributed.gather(factor)[0]  # One for all, to the last bit.
    wanted -= job.plan.dense_bytes // 500  # Less, if it has to come again.
    shipped = make(_scale_kept(job.recipe, factor), True)
  return shipped


def _scale_kept(recipe: transforms.Recipe, factor: float) -> transforms.Recipe:
  scale = lambda value: max(0.0, 1 - (1 - value) * factor)
  sparsity = recipe.sparsity
  if isinstance(sparsity, Mapping):
    return dataclasses.replace(
      recipe, sparsity={path: scale(s) for path, s in sparsity.items()}
    )
  return dataclasses.replace(recipe, sparsity=scale(sparsity))
