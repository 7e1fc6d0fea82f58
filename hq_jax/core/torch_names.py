"""The names of our networks' modules in other libraries.

A naming maps the path of a Flax module to the name of a PyTorch one:

  >>> torchvision_resnet('stage2_block1/conv_proj')
  'layer2.0.downsample.0'
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import re

Naming = Callable[[str], str]

_RESNET_BLOCK = re.compile(r'stage(\d+)_block(\d+)/(conv|norm)(\d+|_proj)')
_MOBILENET_BLOCK = re.compile(
  r'block(\d+)/(conv|norm)_(expand|depthwise|project)'
)

_MLP_LAYER = re.compile(r'(dense|norm)(\d+)')
_VIT_LAYERS = {
  'norm1': 'norm1',
  'attention/query': 'attn.qkv',
  'attention/key': 'attn.qkv',
  'attention/value': 'attn.qkv',
  'attention/out': 'attn.proj',
  'layer_scale1': 'ls1.gamma',
  'norm2': 'norm2',
  'mlp/up': 'mlp.fc1',
  'mlp/down': 'mlp.fc2',
  'layer_scale2': 'ls2.gamma',
}
_VIT_LAYER = re.compile(rf'blocks/(\d+)/({"|".join(_VIT_LAYERS)})')

# The first block of each stage of MobileNetV2; timm counts within stages.
_MOBILENET_STAGES = (1, 2, 4, 7, 11, 14, 17)

_LEAVES = {
  'params/kernel': 'weight',
  'params/scale': 'weight',
  'params/bias': 'bias',
  'batch_stats/mean': 'running_mean',
  'batch_stats/var': 'running_var',
}


def _match(pattern: re.Pattern[str], module: str) -> re.Match[str]:
  match = pattern.fullmatch(module)
  if match is None:
    raise ValueError(
      f'module {module!r} has no name, wanted one of the network'
    )
  return match


def torchvision_resnet(module: str) -> str:
  """The names of torchvision's and timm's residual networks.

  Our smaller ones, which they do not have, are named alike.
  """
  top = {'conv_stem': 'conv1', 'norm_stem': 'bn1', 'head': 'fc'}
  if module in top:
    return top[module]
  stage, block, kind, place = _match(_RESNET_BLOCK, module).groups()
  parent = f'layer{stage}.{int(block) - 1}'
  if place == '_proj':
    return f'{parent}.downsample.{int(kind == "norm")}'
  return f'{parent}.{"bn" if kind == "norm" else "conv"}{place}'


def hugging_face_resnet(module: str) -> str:
  """The names of Hugging Face's residual networks, without `resnet.` before."""
  words = {'conv': 'convolution', 'norm': 'normalization'}
  if module == 'head':
    return 'classifier.1'
  if module in ('conv_stem', 'norm_stem'):
    return f'embedder.embedder.{words[module[:4]]}'
  stage, block, kind, place = _match(_RESNET_BLOCK, module).groups()
  inside = 'shortcut' if place == '_proj' else f'layer.{int(place) - 1}'
  parent = f'encoder.stages.{int(stage) - 1}.layers.{int(block) - 1}'
  return f'{parent}.{inside}.{words[kind]}'


def torchvision_mobilenet(module: str) -> str:
  """The names of torchvision's MobileNetV2."""
  top = {
    'conv_stem': 'features.0.0',
    'norm_stem': 'features.0.1',
    'conv_last': 'features.18.0',
    'norm_last': 'features.18.1',
    'head': 'classifier.1',
  }
  if module in top:
    return top[module]
  block, kind, place = _match(_MOBILENET_BLOCK, module).groups()
  index = ['expand', 'depthwise', 'project'].index(place)
  # The first block has no expansion.
  index -= block == '1'
  norm = int(kind == 'norm')
  # The last convolution and its norm stand beside the pairs, not in one.
  inside = index + norm if place == 'project' else f'{index}.{norm}'
  return f'features.{block}.conv.{inside}'


def timm_mobilenet(module: str) -> str:
  """The names of timm's MobileNetV2 (`mobilenetv2_100`)."""
  top = {
    'conv_stem': 'conv_stem',
    'norm_stem': 'bn1',
    'conv_last': 'conv_head',
    'norm_last': 'bn2',
    'head': 'classifier',
  }
  if module in top:
    return top[module]
  block, kind, place = _match(_MOBILENET_BLOCK, module).groups()
  number = int(block)
  stage, first = max(x for x in enumerate(_MOBILENET_STAGES) if x[1] <= number)
  # The first block has no expansion: its projection is an ordinary pointwise
  # convolution, and the last one of the others a linear one.
  convs = ['conv_pw', 'conv_dw', 'conv_pwl']
  index = ['expand', 'depthwise', 'project'].index(place)
  if number == 1:
    convs, index = ['conv_dw', 'conv_pw'], index - 1
  inside = f'bn{index + 1}' if kind == 'norm' else convs[index]
  return f'blocks.{stage}.{number - first}.{inside}'


def mlp(module: str) -> str:
  """The names of perceptrons: `fc1`, `bn1`, `fc2`, .., `fc` the last."""
  if module == 'head':
    return 'fc'
  kind, number = _match(_MLP_LAYER, module).groups()
  return f'{"fc" if kind == "dense" else "bn"}{number}'


def timm_vit(module: str) -> str:
  """The names of timm's vision transformers, for the layers of each block.

  Queries, keys and values are one layer there.

  >>> timm_vit('blocks/0/attention/query')
  'blocks.0.attn.qkv'
  """
  top = {
    'patch_embed': 'patch_embed.proj',
    'class_token': 'cls_token',
    'position_embedding': 'pos_embed',
    'norm': 'norm',
    'head': 'head',
  }
  if module in top:
    return top[module]
  number, inside = _match(_VIT_LAYER, module).groups()
  return f'blocks.{number}.{_VIT_LAYERS[inside]}'


_HUGGING_FACE_VIT = {
  'norm1': 'layernorm_before',
  'attention/query': 'attention.attention.query',
  'attention/key': 'attention.attention.key',
  'attention/value': 'attention.attention.value',
  'attention/out': 'attention.output.dense',
  'norm2': 'layernorm_after',
  'mlp/up': 'intermediate.dense',
  'mlp/down': 'output.dense',
}
# As transformers has them in memory since its version 5; its files do not.
_HUGGING_FACE_VIT_5 = _HUGGING_FACE_VIT | {
  'attention/query': 'attention.q_proj',
  'attention/key': 'attention.k_proj',
  'attention/value': 'attention.v_proj',
  'attention/out': 'attention.o_proj',
  'mlp/up': 'mlp.fc1',
  'mlp/down': 'mlp.fc2',
}


def _name_hugging_face_vit(
  module: str, blocks: str, inside: Mapping[str, str]
) -> str:
  top = {
    'patch_embed': 'embeddings.patch_embeddings.projection',
    'class_token': 'embeddings.cls_token',
    'position_embedding': 'embeddings.position_embeddings',
    'norm': 'layernorm',
    'head': 'classifier',
  }
  if module in top:
    return top[module]
  number, layer = _match(_VIT_LAYER, module).groups()
  # They have no layer scale: its name is that of nothing.
  return f'{blocks}.{number}.{inside.get(layer, layer)}'


def hugging_face_vit(module: str) -> str:
  """The names of Hugging Face's ViT, without `vit.` before."""
  return _name_hugging_face_vit(module, 'encoder.layer', _HUGGING_FACE_VIT)


def hugging_face_vit_5(module: str) -> str:
  """Those that its modules have since version 5 of transformers."""
  return _name_hugging_face_vit(module, 'layers', _HUGGING_FACE_VIT_5)


def get_naming(model: str) -> Naming:
  """The naming of a network for PyTorch: that of others, or one alike."""
  if model.startswith('vit'):
    return timm_vit
  if model == 'mlp':
    return mlp
  return torchvision_mobilenet if 'mobilenet' in model else torchvision_resnet


def name_leaves(paths: Iterable[str], naming: Naming) -> dict[str, str]:
  """The names of arrays in a PyTorch state dictionary."""
  names = {}
  for path in paths:
    collection, _, inside = path.partition('/')
    module, _, leaf = inside.rpartition('/')
    kind = _LEAVES.get(f'{collection}/{leaf}')
    if kind is None:
      raise ValueError(
        f'{path} is no leaf of these networks, wanted one of:'
        f' {", ".join(_LEAVES)}'
      )
    names[path] = f'{naming(module)}.{kind}'
  return names


def find_naming(
  found: Iterable[str],
  paths: Iterable[str],
  namings: Sequence[Naming],
) -> Naming:
  """The naming under which most of a network's weights are there."""
  found = set(found)
  count = lambda naming: len(
    found.intersection(name_leaves(paths, naming).values())
  )
  return max(namings, key=count)
