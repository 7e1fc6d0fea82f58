"""A layer as engines see it, and what appends layers to a list.

Plain data, without JAX.
"""

from typing import NamedTuple

# The name of the images that go in: `[n, height, width, channels]`, normalized.
INPUT = 'input'
# Of every batch norm whose file has its mean and its variance.
NORM_EPSILON = 1e-5
# Of every layer norm.
LAYER_NORM_EPSILON = 1e-6


class Layer(NamedTuple):
  """One layer: what it computes from the outputs of layers before it.

  Attributes:
    name: of a layer with weights, the path of its module, as
      'stage1_block1/conv1': its tensors are `params/<name>/kernel` and so on,
      unless `module` says otherwise.
    op: of images: 'conv' (kernel `[size, size, channels in / groups, out]`),
      'norm' (a scale and a bias per channel), 'max_pool', 'mean' (over height
      and width), 'flatten' (height, width, channels, the last fastest),
      'tokens' (one for each pixel, row by row). Of tokens: 'class_token' (one
      that is learnt, before them), 'position' (a vector for each is added),
      'layer_norm', 'attention' (of queries, keys and values), 'gelu' (the exact
      one), 'layer_scale' (a factor per channel), 'first_token', 'mean_tokens'.
      Of several of them: 'dense' (kernel `[in, out]`), 'relu', 'relu6'
      (`min(max(x, 0), 6)`), 'add'.
    inputs: the names of the layers it takes, or `INPUT`.
    shape: of its output, of one example: an image (height, width, channels),
      tokens (number, width), or (width,).
    size: of a convolution or pooling, along both axes; of tokens that are
      pooled, their number.
    stride: the same.
    padding: at each of the four sides; zeros, and for a maximum -infinity.
    groups: of a convolution: 1, or the number of its channels.
    num_heads: of an attention; heads lie one after the other in the width.
    kernel: its shape in the file, which splits a width by heads into two axes.
    bias: the same; () where there is none.
    module: the path of its tensors, where that is not its name.
    place: the number on the first axis of its tensors, where they hold those of
      several layers.
  """

  name: str
  op: str
  inputs: tuple[str, ...]
  shape: tuple[int, ...]
  size: int = 1
  stride: int = 1
  padding: int = 0
  groups: int = 1
  num_heads: int = 1
  kernel: tuple[int, ...] = ()
  bias: tuple[int, ...] = ()
  module: str = ''
  place: int | None = None


def is_tokens(layer: Layer) -> bool:
  """Whether its output is tokens, not an image or a vector."""
  return len(layer.shape) == 2


def list_tensors(layer: Layer) -> dict[str, tuple[int, ...]]:
  """The shapes of a layer's tensors, by what follows its path.

  >>> list_tensors(Layer('head', 'dense', ('mean',), (3,), kernel=(8, 3)))
  {'/kernel': (8, 3)}
  """
  width = layer.shape[-1:]
  if layer.op in ('norm', 'layer_norm'):
    return {'/scale': width, '/bias': width}
  own = {
    'class_token': (1, 1, *width),
    'position': (1, *layer.shape),
    'layer_scale': width,
  }
  found = {
    '/kernel': layer.kernel,
    '/bias': layer.bias,
    '': own.get(layer.op, ()),
  }
  return {leaf: shape for leaf, shape in found.items() if shape}


class Builder:
  """Appends layers; each takes the one before it, unless told otherwise."""

  def __init__(self, input_shape: tuple[int, ...]):
    self.layers: list[Layer] = []
    self._shapes = {INPUT: input_shape}
    self.last = INPUT

  def shape(self, name: str) -> tuple[int, ...]:
    """The shape of what a layer puts out."""
    return self._shapes[name]

  def append(self, name: str, op: str, shape, inputs=None, **fields) -> str:
    """Appends a layer and returns its name."""
    inputs = inputs or (self.last,)
    self.layers.append(Layer(name, op, inputs, tuple(shape), **fields))
    self._shapes[name] = tuple(shape)
    self.last = name
    return name

  def conv(self, name, width, size, stride, source=None, groups=1) -> str:
    """A convolution without bias, half of its size padded at each side."""
    source = source or self.last
    sides = self._slide(source, size, stride)
    channels = self.shape(source)[-1]
    return self.append(
      name,
      'conv',
      (*sides, width),
      (source,),
      size=size,
      stride=stride,
      padding=size // 2,
      groups=groups,
      kernel=(size, size, channels // groups, width),
    )

  def max_pool(self, name, size, stride) -> str:
    """The largest values, padded as convolutions are."""
    sides = self._slide(self.last, size, stride)
    channels = self.shape(self.last)[-1]
    return self.append(
      name,
      'max_pool',
      (*sides, channels),
      size=size,
      stride=stride,
      padding=size // 2,
    )

  def same(self, name, op, *others: str) -> str:
    """A layer that keeps the shape."""
    inputs = (self.last, *others)
    return self.append(name, op, self.shape(self.last), inputs)

  def dense(self, name, width, has_bias=False) -> str:
    """A dense layer of the values, or of each token."""
    *lead, num_inputs = self.shape(self.last)
    bias = (width,) if has_bias else ()
    kernel = num_inputs, width
    return self.append(name, 'dense', (*lead, width), kernel=kernel, bias=bias)

  def conv_norm(
    self, prefix, suffix, width, size, stride, relu=None, source=None, groups=1
  ) -> str:
    """A convolution, its norm, and a rectifier where one is named."""
    self.conv(f'{prefix}conv{suffix}', width, size, stride, source, groups)
    self.same(f'{prefix}norm{suffix}', 'norm')
    if relu:
      self.same(f'{prefix}norm{suffix}/relu', relu)
    return self.last

  def _slide(self, source: str, size: int, stride: int) -> tuple[int, int]:
    height, width, _ = self.shape(source)
    slide = lambda n: (n + 2 * (size // 2) - size) // stride + 1
    return slide(height), slide(width)
