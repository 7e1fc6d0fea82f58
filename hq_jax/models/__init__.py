"""Models in plain Flax; they know nothing of quantization."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
from flax import linen as nn
import jax.numpy as jnp

from hq_jax.core import trees
from hq_jax.models import layers
from hq_jax.models import mlp
from hq_jax.models import mobilenet
from hq_jax.models import resnet
from hq_jax.models import small
from hq_jax.models import vit

__all__ = [
  'NAMES',
  'build',
  'find_layer_axes',
  'find_norms',
  'pair_norms',
]


class _Entry(NamedTuple):
  make: type[nn.Module]
  fixed: Mapping[str, Any] = {}
  # What else it takes, besides `dtype`.
  arguments: tuple[str, ...] = ()


_CIFAR_WIDTHS = (16, 32, 64)
_VIT_OPTIONS = ('pool', 'layer_scale')

_MODELS = {
  'mlp': _Entry(mlp.MLP, arguments=('widths',)),
  'small_resnet': _Entry(small.SmallResNet, arguments=('widths', 'num_blocks')),
  # Networks for 32x32 pixels of 6n + 2 layers; a convolution, not zeros, where
  # the number of channels changes.
  'resnet20': _Entry(
    small.SmallResNet, {'widths': _CIFAR_WIDTHS, 'num_blocks': (3, 3, 3)}
  ),
  'resnet56': _Entry(
    small.SmallResNet, {'widths': _CIFAR_WIDTHS, 'num_blocks': (9, 9, 9)}
  ),
  'resnet18': _Entry(resnet.ResNet, {'depth': 18}),
  'resnet34': _Entry(resnet.ResNet, {'depth': 34}),
  'resnet50': _Entry(resnet.ResNet, {'depth': 50}),
  'resnet101': _Entry(resnet.ResNet, {'depth': 101}),
  'mobilenet_v2': _Entry(mobilenet.MobileNetV2),
  'vit': _Entry(
    vit.ViT,
    arguments=('patch_size', 'width', 'depth', 'num_heads', *_VIT_OPTIONS),
  ),
  # DeiT-Ti, -S and -B.
  **{
    f'vit_{size}16': _Entry(
      vit.ViT,
      {'patch_size': 16, 'width': 64 * num, 'depth': 12, 'num_heads': num},
      _VIT_OPTIONS,
    )
    for size, num in (('ti', 3), ('s', 6), ('b', 12))
  },
}
NAMES = tuple(_MODELS)
_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}

# In all stages together: a file that asks for more is not traced, which takes
# milliseconds for each block.
_MOST = {'widths': 100_000, 'num_blocks': 1_000}
_LEAST = {'widths': 1, 'num_blocks': 0}
# Of a single number.
_MOST_SINGLE = {
  'patch_size': 1_000,
  'width': 100_000,
  'depth': 1_000,
  'num_heads': 1_000,
}


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
    arguments: the model's own arguments; lists stand for tuples, and what is
      None takes the model's default.

  Returns:
    A Flax module.

  Raises:
    ValueError: for an unknown name or arguments that do not fit.
  """
  if name not in _MODELS:
    raise ValueError(
      f'model.name is {name!r}, wanted one of: {", ".join(_MODELS)}'
    )
  entry = _MODELS[name]
  kwargs = {key: x for key, x in arguments.items() if x is not None}
  known = (*entry.arguments, 'dtype')
  for key, value in kwargs.items():
    if key not in known:
      raise ValueError(
        f'model.{key} is {value!r:.80}, but {name} takes no such argument;'
        f' wanted one of: {", ".join(known)}'
      )
  if 'dtype' in kwargs:
    if kwargs['dtype'] not in tuple(_DTYPES):
      raise ValueError(
        f'model.dtype is {kwargs["dtype"]!r}, wanted one of:'
        f' {", ".join(_DTYPES)}'
      )
    kwargs['dtype'] = _DTYPES[kwargs['dtype']]
  for key, most in _MOST.items():
    if key in kwargs:
      kwargs[key] = _check_counts(
        f'model.{key}', kwargs[key], _LEAST[key], most
      )
  for key, most in _MOST_SINGLE.items():
    value = kwargs.get(key, 1)
    if type(value) is not int or not 1 <= value <= most:
      raise ValueError(
        f'model.{key} is {value!r:.80}, wanted an int from 1 to {most}'
      )
  if type(kwargs.get('layer_scale', False)) is not bool:
    raise ValueError(
      f'model.layer_scale is {kwargs["layer_scale"]!r:.80}, wanted a bool'
    )
  counts = [key for key in _MOST if key in entry.arguments]
  if len({len(kwargs.get(key, ())) for key in counts}) > 1:
    raise ValueError(
      f'model.widths is {kwargs.get("widths")} and model.num_blocks'
      f' {kwargs.get("num_blocks")}, wanted the same length'
    )
  return entry.make(num_classes=num_classes, **entry.fixed, **kwargs)


def _check_counts(
  name: str, value: Any, least: int, most: int
) -> tuple[int, ...]:
  """A tuple of ints in a range, or an error: a file may say anything."""
  counts = tuple(value) if isinstance(value, list | tuple) else ()
  if not counts or not all(type(x) is int and x >= least for x in counts):
    raise ValueError(
      f'{name} is {value!r:.80}, wanted ints of at least {least}'
    )
  if sum(counts) > most:
    raise ValueError(f'{name} is {value!r:.80}, wanted at most {most} in all')
  return counts


def pair_norms(params: chex.ArrayTree) -> dict[str, str]:
  """Which batch norm follows which convolution or dense layer directly.

  In these models such a pair carries the same name but for `norm` and `conv` or
  `dense`, and its layer has no bias: `stem/norm1` follows `stem/conv1`.

  >>> pair_norms({'conv_a': {'kernel': 0}, 'norm_a': {'scale': 0}})
  {'norm_a': 'conv_a'}

  Args:
    params: the parameters of one of these models.

  Returns:
    The path of the layer by that of the norm.
  """
  paths = trees.flatten(params)
  pairs = {}
  for path in paths:
    module, _, leaf = path.rpartition('/')
    parent, slash, name = module.rpartition('/')
    if leaf != 'scale' or not name.startswith('norm'):
      continue
    for kind in ('conv', 'dense'):
      layer = f'{parent}{slash}{kind}{name.removeprefix("norm")}'
      if f'{layer}/kernel' in paths and f'{layer}/bias' not in paths:
        pairs[module] = layer
  return pairs


def find_norms(params: chex.ArrayTree) -> dict[str, float]:
  """The epsilon of every batch norm, by its path.

  >>> find_norms({'norm_a': {'scale': 0, 'bias': 0}})
  {'norm_a': 1e-05}

  A transformer has none: its norms are layer norms, which do not fold.

  Args:
    params: the parameters of one of these models.

  Returns:
    Epsilons by path.
  """
  if _is_transformer(params):
    return {}
  return {
    path.removesuffix('/scale'): layers.NORM_EPSILON
    for path in trees.flatten(params)
    if path.endswith('/scale')
  }


def find_layer_axes(params: chex.ArrayTree) -> dict[str, tuple[int, ...]]:
  """The axes along which layers are stacked, of each leaf that has some.

  >>> find_layer_axes({'position_embedding': 0,
  ...                  'blocks': {'mlp': {'up': {'kernel': 0}}}})
  {'blocks/mlp/up/kernel': (0,)}
  >>> find_layer_axes({'conv_a': {'kernel': 0}})
  {}

  Args:
    params: the parameters of one of these models.

  Returns:
    Axes by path: the first one in the blocks of a transformer, whose other
    leaves have none, and neither have those of other models.
  """
  if not _is_transformer(params):
    return {}
  return {
    path: (0,) for path in trees.flatten(params) if path.startswith('blocks/')
  }


def _is_transformer(params: chex.ArrayTree) -> bool:
  return isinstance(params, Mapping) and 'position_embedding' in params
