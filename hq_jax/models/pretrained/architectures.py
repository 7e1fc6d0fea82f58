"""The networks whose weights are known, with their names elsewhere."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from hq_jax.core import torch_names as names
from hq_jax.models import mobilenet
from hq_jax.models import resnet
from hq_jax.models import vit


class Architecture(NamedTuple):
  """A network, and the names of its modules elsewhere."""

  build: Callable[[int], nn.Module]  # from the number of classes
  namings: tuple[names.Naming, ...]  # of its weights, torchvision's first
  is_transformer: bool = False  # its blocks are a stack, and elsewhere are not


_RESNET_NAMINGS = (names.torchvision_resnet, names.hugging_face_resnet)
_VIT_NAMINGS = (
  names.timm_vit,
  names.hugging_face_vit,
  names.hugging_face_vit_5,
)


def _make_vit(**arguments: Any) -> Architecture:
  return Architecture(
    functools.partial(vit.ViT, **arguments), _VIT_NAMINGS, is_transformer=True
  )


ARCHITECTURES = {
  **{
    f'resnet{depth}': Architecture(
      functools.partial(resnet.ResNet, depth=depth), _RESNET_NAMINGS
    )
    for depth in (18, 34, 50, 101)
  },
  'mobilenet_v2': Architecture(
    mobilenet.MobileNetV2, (names.torchvision_mobilenet, names.timm_mobilenet)
  ),
  'vit': _make_vit(),
  **{
    f'vit_{size}16': _make_vit(
      patch_size=16, width=64 * num, depth=12, num_heads=num
    )
    for size, num in (('ti', 3), ('s', 6), ('b', 12))
  },
}


def get(architecture: str) -> Architecture:
  """Looks up a network."""
  if architecture not in ARCHITECTURES:
    raise ValueError(
      f'architecture is {architecture!r}, wanted one of:'
      f' {", ".join(ARCHITECTURES)}'
    )
  return ARCHITECTURES[architecture]


@functools.cache
def get_shapes(architecture: str, num_classes: int) -> chex.ArrayTree:
  """The shapes of a network's variables; computes nothing."""
  model = get(architecture).build(num_classes)
  return jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
  )
