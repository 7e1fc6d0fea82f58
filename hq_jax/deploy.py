"""From the state of training to the model that is shipped.

In the ternary phase, evaluation runs on what is made here: what is evaluated
is what the file holds.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax import models
from hq_jax import tensors
from hq_jax import train_state
from hq_jax import transforms
from hq_jax import trees


def make_artifact(
  variables: Mapping[str, Any],
  ternary: Mapping[str, tensors.TernaryTensor],
  *,
  model: str,
  model_arguments: Mapping[str, Any],
  input_shape: tuple[int, ...],
  preprocessing: Mapping[str, Any],
  class_names: tuple[str, ...],
) -> artifact_lib.Artifact:
  """Folds the batch norms and collects what the file holds.

  Args:
    variables: `params` and `batch_stats`, arrays that NumPy can view.
    ternary: codes and scales by the kernel's path in `params`.
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
  folded, norms = artifact_lib.fold(
    variables,
    {
      f'params/{path}': jax.tree.map(np.asarray, tensor)
      for path, tensor in ternary.items()
    },
    models.pair_norms(params),
    models.find_norms(params),
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


_finalize = jax.jit(transforms.finalize, static_argnums=2)


def artifact_of_state(
  state: train_state.TrainState, recipe: transforms.Recipe, **header: Any
) -> artifact_lib.Artifact:
  """The artifact of a state whose optimizer is `transforms.hq`.

  Args:
    state: at any step.
    recipe: of its optimizer.
    **header: the keyword arguments of `make_artifact`.

  Returns:
    An artifact, on the host.
  """
  finalized = _finalize(state.opt_state, state.params, recipe)
  is_tensor = lambda node: isinstance(node, tensors.TernaryTensor)
  codes = {
    path: node
    for path, node in trees.flatten(finalized, is_leaf=is_tensor).items()
    if is_tensor(node)
  }
  return make_artifact(state.variables, codes, **header)
