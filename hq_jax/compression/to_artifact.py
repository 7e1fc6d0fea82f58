"""From the state of training to the model that is shipped.

In the ternary phase, evaluation runs on what is made here: what is evaluated
is what the file holds.
"""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax import models
from hq_jax import transforms
from hq_jax.core import qtensors
from hq_jax.core import trees
from hq_jax.runtime import sharding


def make_artifact(
  variables: Mapping[str, Any],
  ternary: Mapping[str, qtensors.TernaryTensor | qtensors.CodebookTensor],
  int8: Mapping[str, qtensors.Int8Tensor] = {},
  *,
  max_error: float | None = None,
  model: str,
  model_arguments: Mapping[str, Any],
  input_shape: tuple[int, ...],
  preprocessing: Mapping[str, Any],
  class_names: tuple[str, ...],
) -> artifact_lib.Artifact:
  """Folds the batch norms and collects what the file holds.

  Args:
    variables: `params` and `batch_stats`, arrays that NumPy can view.
    ternary: codes and scales by the kernel's path in `params`; or indices,
      codewords and scales.
    int8: the same of kernels that become int8.
    max_error: the largest relative error of every other tensor, which becomes
      int8, float16 or float32: the shortest within it (norms no int8); None for
      float16.
    model: a name in `models`.
    model_arguments: what it is built with, besides the number of classes.
    input_shape: of one image.
    preprocessing: from pixels to the model's input.
    class_names: by label.

  Returns:
    An artifact, on the host.

  Raises:
    ValueError: where a value is not finite.
  """
  variables = jax.tree.map(np.asarray, dict(variables))
  params = variables['params']
  to_host = lambda found: {
    f'params/{path}': jax.tree.map(np.asarray, tensor)
    for path, tensor in found.items()
  }
  folded, norms = artifact_lib.fold(
    variables,
    to_host(ternary),
    models.pair_norms(params),
    models.find_norms(params),
    int8=to_host(int8),
    max_error=max_error,
  )
  return artifact_lib.Artifact(
    model=model,
    model_args=dict(model_arguments),
    input_shape=tuple(input_shape),
    preprocessing=dict(preprocessing),
    class_names=tuple(class_names),
    tensors=folded,
    folded_norms=norms,
  )


_finalize = jax.jit(
  transforms.finalize, static_argnums=2, static_argnames='rerank'
)


def artifact_of_state(
  state: Any,
  recipe: transforms.Recipe,
  *,
  int8_kernels: Collection[str] = (),
  rerank: bool = False,
  **arguments: Any,
) -> artifact_lib.Artifact:
  """The artifact of a state whose optimizer is `transforms.hq`.

  Args:
    state: at any step.
    recipe: of its optimizer.
    int8_kernels: paths of kernels in `params` that become int8.
    rerank: see `transforms.finalize`.
    **arguments: the keyword arguments of `make_artifact`.

  Returns:
    An artifact, on the host.
  """
  finalized = sharding.to_host(
    _finalize(state.opt_state, state.params, recipe, rerank=rerank)
  )
  variables = sharding.to_host(state.variables)
  codes = transforms.flatten_records(finalized)
  leaves = trees.flatten(variables['params'])
  int8 = {
    path: artifact_lib.quantize_int8(leaves[path]) for path in int8_kernels
  }
  return make_artifact(variables, codes, int8, **arguments)


def artifact_of_quantizer(
  state: Any,
  quantizer: transforms.Quantizer,
  **arguments: Any,
) -> artifact_lib.Artifact:
  """The artifact of a state whose optimizer is `transforms.straight_through`.

  Args:
    state: at any step.
    quantizer: of its optimizer, with an `encode`.
    **arguments: the keyword arguments of `make_artifact`.

  Returns:
    An artifact, on the host.
  """
  encode = lambda state: transforms.encode(
    state.opt_state, state.params, quantizer
  )
  records = sharding.to_host(jax.jit(encode)(state))
  return make_artifact(sharding.to_host(state.variables), records, **arguments)
