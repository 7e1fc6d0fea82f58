"""A classifier from its file: the network, and variables that fit it."""

from typing import Any, NamedTuple

from flax import linen as nn
import jax
import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax import models
from hq_jax.core import trees


class Classifier(NamedTuple):
  """What a file holds, ready for `model.apply(variables, images)`."""

  artifact: artifact_lib.Artifact
  model: nn.Module
  variables: dict[str, Any]


def load(path: str) -> Classifier:
  """Reads a file; its variables are those that its model has."""
  artifact = artifact_lib.read(path)
  model = models.build(
    artifact.model,
    num_classes=len(artifact.class_names),
    arguments=artifact.model_args,
  )
  variables = artifact_lib.to_variables(artifact)
  image = jax.ShapeDtypeStruct((1, *artifact.input_shape), np.float32)
  expected = jax.eval_shape(model.init, jax.random.key(0), image)
  shapes = {name: x.shape for name, x in trees.flatten(expected).items()}
  found = {name: x.shape for name, x in trees.flatten(variables).items()}
  for name in [*shapes, *found]:
    if found.get(name) != shapes.get(name):
      raise ValueError(
        f'{path}: {name} has shape {found.get(name)}, wanted {shapes.get(name)}'
      )
  return Classifier(artifact, model, variables)
