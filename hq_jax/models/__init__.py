"""Models in plain Flax; they know nothing of quantization."""

from collections.abc import Mapping
from typing import Any

import chex
from flax import linen as nn
import jax.numpy as jnp

from hq_jax import trees
from hq_jax.models import small

_MODELS: dict[str, type[nn.Module]] = {'small_resnet': small.SmallResNet}
_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}

# In all stages together: a file that asks for more is not traced, which takes
# milliseconds for each block.
_MOST = {'widths': 100_000, 'num_blocks': 1_000}

# Of every batch norm in these models.
NORM_EPSILON = 1e-5


def build(
  name: str, *, num_classes: int, arguments: Mapping[str, Any]
) -> nn.Module:
  """Builds a model from plain values, as a config or a file holds them.

  >>> build('small_resnet', num_classes=10, arguments={'widths': [8],
  ...       'num_blocks': [2], 'dtype': 'float32'}).widths
  (8,)

  Args:
    name: a name in the table of models.
    num_classes: how many logits.
    arguments: the model's own arguments; lists stand for tuples.

  Returns:
    A Flax module.

  Raises:
    ValueError: for an unknown name or arguments that do not fit.
  """
  if name not in _MODELS:
    raise ValueError(
      f'model.name is {name!r}, wanted one of: {", ".join(_MODELS)}'
    )
  kwargs = dict(arguments)
  if 'dtype' in kwargs:
    if kwargs['dtype'] not in tuple(_DTYPES):
      raise ValueError(
        f'model.dtype is {kwargs["dtype"]!r}, wanted one of:'
        f' {", ".join(_DTYPES)}'
      )
    kwargs['dtype'] = _DTYPES[kwargs['dtype']]
  for key, most in _MOST.items():
    if key in kwargs:
      kwargs[key] = _check_counts(f'model.{key}', kwargs[key], most)
  if len({len(kwargs.get(key, ())) for key in ('widths', 'num_blocks')}) > 1:
    raise ValueError(
      f'model.widths is {kwargs.get("widths")} and model.num_blocks'
      f' {kwargs.get("num_blocks")}, wanted the same length'
    )
  try:
    return _MODELS[name](num_classes=num_classes, **kwargs)
  except TypeError as error:
    raise ValueError(
      f'model {name} cannot be built from {dict(arguments)}: {error}'
    ) from None


def _check_counts(name: str, value: Any, most: int) -> tuple[int, ...]:
  """A tuple of positive ints, or an error: a file may say anything."""
  counts = tuple(value) if isinstance(value, list | tuple) else ()
  if not counts or not all(type(x) is int and x >= 1 for x in counts):
    raise ValueError(f'{name} is {value!r:.80}, wanted ints of at least 1')
  if sum(counts) > most:
    raise ValueError(f'{name} is {value!r:.80}, wanted at most {most} in all')
  return counts


def pair_norms(params: chex.ArrayTree) -> dict[str, str]:
  """Which batch norm follows which convolution directly.

  In these models such a pair carries the same name but for `norm` and `conv`,
  and its convolution has no bias: `stem/norm1` follows `stem/conv1`.

  >>> pair_norms({'conv_a': {'kernel': 0}, 'norm_a': {'scale': 0}})
  {'norm_a': 'conv_a'}

  Args:
    params: the parameters of one of these models.

  Returns:
    The path of the convolution by that of the norm.
  """
  paths = trees.flatten(params)
  pairs = {}
  for path in paths:
    module, _, leaf = path.rpartition('/')
    parent, slash, name = module.rpartition('/')
    if leaf != 'scale' or not name.startswith('norm'):
      continue
    conv = f'{parent}{slash}conv{name.removeprefix("norm")}'
    if f'{conv}/kernel' in paths and f'{conv}/bias' not in paths:
      pairs[module] = conv
  return pairs


def find_norms(params: chex.ArrayTree) -> dict[str, float]:
  """The epsilon of every batch norm, by its path.

  >>> find_norms({'norm_a': {'scale': 0, 'bias': 0}})
  {'norm_a': 1e-05}

  Args:
    params: the parameters of one of these models.

  Returns:
    Epsilons by path.
  """
  return {
    path.removesuffix('/scale'): NORM_EPSILON
    for path in trees.flatten(params)
    if path.endswith('/scale')
  }
