"""From the state of training to the model that is exported.

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
  """Folds the batch norms and collects what the file holds."""
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
  transforms.finalize, static_argnums=2, static_argnames='requantize'
)


def artifact_of_state(
  state: Any,
  recipe: transforms.Recipe,
  *,
  int8_kernels: Collection[str] = (),
  requantize: bool = False,
  **arguments: Any,
) -> artifact_lib.Artifact:
  """The artifact of a state whose optimizer is `transforms.hq`."""
  finalized = sharding.to_host(
    _finalize(state.opt_state, state.params, recipe, requantize=requantize)
  )
  variables = sharding.to_host(state.variables)
  codes = transforms.flatten_quantized(finalized)
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
  """The artifact of a state of `transforms.straight_through`."""
  encode = lambda state: transforms.encode(
    state.opt_state, state.params, quantizer
  )
  quantized = sharding.to_host(jax.jit(encode)(state))
  return make_artifact(
    sharding.to_host(state.variables), quantized, **arguments
  )
