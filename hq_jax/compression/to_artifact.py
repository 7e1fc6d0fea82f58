"""Contents of a file, from trained variables and quantized tensors."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax import models
from hq_jax.core import qtensors
from hq_jax.core import trees


def make_artifact(
  variables: Mapping[str, Any],
  quantized: Mapping[str, qtensors.TernaryTensor | qtensors.CodebookTensor],
  int8: Mapping[str, qtensors.Int8Tensor] = {},
  *,
  max_error: float | None = None,
  model: str,
  model_arguments: Mapping[str, Any],
  input_shape: tuple[int, ...],
  preprocessing: Mapping[str, Any],
  class_names: tuple[str, ...],
  activation_ranges: tuple[float, ...] = (),
) -> artifact_lib.Artifact:
  """Folds the batch norms and collects what the file holds."""
  variables = jax.tree.map(np.asarray, dict(variables))
  params = variables['params']
  folded, norms = artifact_lib.fold(
    variables,
    trees.in_params(jax.tree.map(np.asarray, dict(quantized))),
    models.pair_norms(params),
    models.find_norms(params),
    int8=trees.in_params(jax.tree.map(np.asarray, dict(int8))),
    max_error=max_error,
    layer_axes=trees.in_params(models.find_layer_axes(params)),
  )
  return artifact_lib.Artifact(
    model=model,
    model_args=dict(model_arguments),
    input_shape=tuple(input_shape),
    preprocessing=dict(preprocessing),
    class_names=tuple(class_names),
    tensors=folded,
    folded_norms=norms,
    activation_ranges=activation_ranges,
  )
