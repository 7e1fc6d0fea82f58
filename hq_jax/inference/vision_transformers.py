"""Vision transformers as lists of layers."""

from hq_jax.inference import layer as layer_lib

_BLOCKS = 'blocks'


def append_vit(
  net: layer_lib.Builder,
  patch_size: int,
  width: int,
  depth: int,
  num_heads: int,
  pool: str,
  layer_scale: bool,
) -> None:
  """Appends a vision transformer's layers but the head."""
  if width % num_heads:
    raise ValueError(
      f'num_heads is {num_heads}, wanted a divisor of width, {width}'
    )
  _append_tokens(net, patch_size, width, pool == 'token')
  for place in range(depth):
    _Block(net, place, width, num_heads, layer_scale).append()
  net.same('norm', 'layer_norm')
  number, _ = net.shape(net.last)
  op = 'first_token' if pool == 'token' else 'mean_tokens'
  net.append('pool', op, (width,), size=number)


def _append_tokens(net, size: int, width: int, has_class_token: bool) -> None:
  """A token for each patch, which does not overlap others."""
  height, columns, channels = net.shape(layer_lib.INPUT)
  if height % size or columns % size:
    raise ValueError(
      f'patch_size is {size}, wanted a divisor of the sides of images, {height}'
      f' and {columns}'
    )
  sides = height // size, columns // size
  net.append(
    'patch_embed',
    'conv',
    (*sides, width),
    size=size,
    stride=size,
    kernel=(size, size, channels, width),
    bias=(width,),
  )
  number = sides[0] * sides[1]
  net.append('tokens', 'tokens', (number, width))
  if has_class_token:
    net.append('class_token', 'class_token', (number + 1, width))
  net.same('position_embedding', 'position')


class _Block:
  """Attention, then a perceptron, each added to what goes in."""

  def __init__(self, net, place: int, width: int, num_heads: int, scaled: bool):
    self._net = net
    self._place = place
    self._width = width
    self._heads = num_heads, width // num_heads
    self._scaled = scaled
    self._shape = net.shape(net.last)

  def append(self) -> None:
    source = self._net.last
    self._layer('norm1', 'layer_norm')
    self._attention()
    source = self._add(source, 1)
    self._layer('norm2', 'layer_norm')
    self._dense('mlp/up', 4 * self._width)
    self._layer('mlp/gelu', 'gelu')
    self._dense('mlp/down', self._width)
    self._add(source, 2)

  def _attention(self) -> None:
    x = self._net.last
    projections = tuple(
      self._dense(
        f'attention/{name}',
        self._width,
        source=x,
        kernel=(self._width, *self._heads),
        bias=self._heads,
      )
      for name in ('query', 'key', 'value')
    )
    num_heads, _ = self._heads
    self._net.append(
      self._name('attention'),
      'attention',
      self._shape,
      projections,
      num_heads=num_heads,
    )
    self._dense(
      'attention/out', self._width, kernel=(*self._heads, self._width)
    )

  def _add(self, source: str, number: int) -> str:
    if self._scaled:
      self._layer(f'layer_scale{number}', 'layer_scale')
    return self._net.append(
      self._name(f'add{number}'), 'add', self._shape, (source, self._net.last)
    )

  def _dense(self, name: str, width: int, source='', kernel=(), bias=()) -> str:
    source = source or self._net.last
    *lead, num_inputs = self._net.shape(source)
    return self._layer(
      name,
      'dense',
      (*lead, width),
      (source,),
      kernel=kernel or (num_inputs, width),
      bias=bias or (width,),
    )

  def _layer(self, name, op, shape=(), inputs=None, **fields) -> str:
    """One whose tensors are those of all blocks, stacked."""
    net = self._net
    return net.append(
      self._name(name),
      op,
      shape or net.shape(net.last),
      inputs,
      module=f'{_BLOCKS}/{name}',
      place=self._place,
      **fields,
    )

  def _name(self, name: str) -> str:
    return f'{_BLOCKS}/{self._place}/{name}'
