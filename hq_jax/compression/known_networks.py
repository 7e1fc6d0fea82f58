"""Networks of `hq_jax.models`, from whose files images are classified."""

from collections.abc import Mapping
import importlib.util
from typing import Any, NamedTuple
import warnings

import jax
import numpy as np

from hq_jax.artifact import reader
from hq_jax.core import trees
from hq_jax.data import normalization


class Structure(NamedTuple):
  """What the parameters of a network are, by their paths.

  Attributes:
    norms: the epsilon of each batch norm.
    pairs: by a norm, the module whose output it takes.
    layer_axes: along which axes layers are stacked.
  """

  norms: Mapping[str, float] = {}
  pairs: Mapping[str, str] = {}
  layer_axes: Mapping[str, tuple[int, ...]] = {}


def find(variables: Mapping[str, Any], header: Mapping[str, Any]) -> Structure:
  """The structure of the network that a header names, if it is one of ours.

  Its file is to be used: the variables must be those of the network, and the
  header has to say what an image is.
  """
  model = header['model']
  # Without Flax there are none; what is no string is refused with the file.
  is_named = isinstance(model, str) and model
  if not is_named or not importlib.util.find_spec('flax'):
    return Structure()
  from hq_jax import models

  if model not in models.NAMES:
    warnings.warn(
      f'model is {model!r:.80}, which is no network of hq_jax.models: the file'
      ' holds its weights, and hq_jax.load cannot use it',
      stacklevel=3,  # the caller of `compress`
    )
    return Structure()
  _check_image(header)
  _check_variables(variables, header)
  params = variables['params']
  return Structure(
    models.find_norms(params),
    models.pair_norms(params),
    models.find_layer_axes(params),
  )


def _check_image(header: Mapping[str, Any]) -> None:
  shape = header['input_shape']
  if len(shape) != 3 or not all(type(x) is int and x > 0 for x in shape):
    raise ValueError(
      f'input_shape is {shape!r:.80}, wanted (height, width, channels) of the'
      f' images that {header["model"]} takes'
    )
  with reader.naming('preprocessing'):
    normalization.check(header['preprocessing'], shape)


def _check_variables(
  variables: Mapping[str, Any], header: Mapping[str, Any]
) -> None:
  from hq_jax import models

  model, class_names = header['model'], header['class_names']
  found = {path: np.shape(x) for path, x in trees.flatten(variables).items()}
  num_classes = found.get('params/head/kernel', (0,))[-1]
  if class_names and num_classes and len(class_names) != num_classes:
    raise ValueError(
      f'class_names has {len(class_names)} names, wanted {num_classes}, one for'
      ' each output of the network'
    )
  network = models.build(
    model,
    num_classes=num_classes or 1,
    arguments=header['model_args'],
  )
  image = jax.ShapeDtypeStruct((1, *header['input_shape']), np.float32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), image)
  wanted = {path: x.shape for path, x in trees.flatten(shapes).items()}
  for path in [*wanted, *found]:
    if found.get(path) != wanted.get(path):
      raise ValueError(
        f'variables: {path} has shape {found.get(path)}, wanted'
        f' {wanted.get(path)}, as model {model!r} has it with these'
        ' model_arguments and this input_shape'
      )
