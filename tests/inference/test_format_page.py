"""The networks as docs/format.md has them, computed in NumPy.

Written from that page alone: it shares no code with the library.
"""

import math

import numpy as np
import pytest

from hq_jax import artifact as artifact_lib
from tests.inference import drawn_files
from tests.inference import networks

_WIDTHS = {'resnet20': [16, 32, 64], 'resnet56': [16, 32, 64]}
_NUM_BLOCKS = {
  **{'resnet20': [3, 3, 3], 'resnet56': [9, 9, 9], 'resnet18': [2, 2, 2, 2]},
  **{'resnet34': [3, 4, 6, 3], 'resnet50': [3, 4, 6, 3]},
  'resnet101': [3, 4, 23, 3],
}
# Expansion, channels, stride of the first, for each block.
_MOBILENET = [
  *([(1, 16, 1)] * 1 + [(6, 24, 2)] * 2 + [(6, 32, 2)] * 3),
  *([(6, 64, 2)] * 4 + [(6, 96, 1)] * 3 + [(6, 160, 2)] * 3 + [(6, 320, 1)]),
]


def _relu(x):
  return np.maximum(x, 0)


def _relu6(x):
  return np.minimum(np.maximum(x, 0), 6)


def _layer_norm(x, scale, bias):
  x = x - x.mean(-1, keepdims=True)
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale + bias


def _attention(x, get, num_heads):
  q, k, v = (
    np.einsum('ti,ihe->the', x, get(f'attention/{name}/kernel'))
    + get(f'attention/{name}/bias')
    for name in ('query', 'key', 'value')
  )
  assert q.shape[1] == num_heads
  a = np.exp(np.einsum('the,she->hts', q, k) / q.shape[-1] ** 0.5)
  z = np.einsum('hts,she->the', a / a.sum(-1, keepdims=True), v)
  y = np.einsum('the,heo->to', z, get('attention/out/kernel'))
  return y + get('attention/out/bias')


class _Net:
  """A network by its tensors, `params` of a file."""

  def __init__(self, params):
    self.params = params

  def get(self, name):
    node = self.params
    for part in name.split('/'):
      node = node[part]
    return node

  def slide(self, x, k, s, outside):
    """For each u, v < k: the pixels `x[s i + u - p, s j + v - p]`."""
    p, (height, width) = k // 2, x.shape[:2]
    x = np.pad(x, ((p, p), (p, p), (0, 0)), constant_values=outside)
    rows = (height + 2 * p - k) // s + 1
    columns = (width + 2 * p - k) // s + 1
    for u in range(k):
      for v in range(k):
        down, right = s * np.arange(rows) + u, s * np.arange(columns) + v
        yield u, v, x[down][:, right]

  def conv(self, x, name, k, s, n):
    kernel = self.get(f'{name}/kernel')
    assert kernel.shape == (k, k, x.shape[-1], n)
    return sum(y @ kernel[u, v] for u, v, y in self.slide(x, k, s, 0))

  def depthwise(self, x, name, s):
    kernel = self.get(f'{name}/kernel')
    assert kernel.shape == (3, 3, 1, x.shape[-1])
    return sum(y * kernel[u, v, 0] for u, v, y in self.slide(x, 3, s, 0))

  def norm(self, x, name):
    return x * self.get(f'{name}/scale') + self.get(f'{name}/bias')

  def max_pool(self, x):
    found = [y for _, _, y in self.slide(x, 3, 2, -np.inf)]
    return np.max(found, axis=0)

  def head(self, x):
    return x @ self.get('head/kernel') + self.get('head/bias')

  def block(self, x, name, s, width, bottleneck):
    convs = [(3, s, width), (3, 1, width)]
    if bottleneck:
      convs = [(1, 1, width), (3, s, width), (1, 1, 4 * width)]
    y = x
    for number, (k, step, n) in enumerate(convs, 1):
      y = self.conv(y, f'{name}/conv{number}', k, step, n)
      y = self.norm(y, f'{name}/norm{number}')
      if number < len(convs):
        y = _relu(y)
    if x.shape != y.shape:
      x = self.conv(x, f'{name}/conv_proj', 1, s, y.shape[-1])
      x = self.norm(x, f'{name}/norm_proj')
    return _relu(x + y)

  def stages(self, x, widths, num_blocks, bottleneck=False):
    for i, (width, number) in enumerate(
      zip(widths, num_blocks, strict=True), 1
    ):
      for j in range(1, number + 1):
        s = 2 if i > 1 and j == 1 else 1
        x = self.block(x, f'stage{i}_block{j}', s, width, bottleneck)
    return self.head(x.mean((0, 1)))

  def mlp(self, x, widths):
    x = x.reshape(-1)
    for number in range(1, len(widths) + 1):
      x = x @ self.get(f'dense{number}/kernel')
      x = _relu(self.norm(x, f'norm{number}'))
    return self.head(x)

  def small_resnet(self, x, widths, num_blocks):
    x = self.conv(x, 'conv_stem', 3, 1, widths[0])
    return self.stages(_relu(self.norm(x, 'norm_stem')), widths, num_blocks)

  def resnet(self, x, num_blocks, bottleneck):
    x = self.conv(x, 'conv_stem', 7, 2, 64)
    x = self.max_pool(_relu(self.norm(x, 'norm_stem')))
    return self.stages(x, [64, 128, 256, 512], num_blocks, bottleneck)

  def mobilenet_v2(self, x):
    x = _relu6(self.norm(self.conv(x, 'conv_stem', 3, 2, 32), 'norm_stem'))
    before = None
    for i, (t, n, stride) in enumerate(_MOBILENET, 1):
      s = stride if (t, n, stride) != before else 1
      before, name, y = (t, n, stride), f'block{i}', x
      if t > 1:
        y = self.conv(y, f'{name}/conv_expand', 1, 1, t * x.shape[-1])
        y = _relu6(self.norm(y, f'{name}/norm_expand'))
      y = self.depthwise(y, f'{name}/conv_depthwise', s)
      y = _relu6(self.norm(y, f'{name}/norm_depthwise'))
      y = self.conv(y, f'{name}/conv_project', 1, 1, n)
      y = self.norm(y, f'{name}/norm_project')
      x = x + y if s == 1 and x.shape[-1] == n else y
    x = _relu6(self.norm(self.conv(x, 'conv_last', 1, 1, 1280), 'norm_last'))
    return self.head(x.mean((0, 1)))

  def vit(
    self,
    x,
    patch_size,
    width,
    depth,
    num_heads,
    pool='token',
    layer_scale=False,
  ):
    p, (height, columns, channels) = patch_size, x.shape
    x = x.reshape(height // p, p, columns // p, p, channels)
    kernel = self.get('patch_embed/kernel')
    assert kernel.shape == (p, p, channels, width)
    x = np.einsum('iujvc,uvco->ijo', x, kernel).reshape(-1, width)
    x = x + self.get('patch_embed/bias')
    if pool == 'token':
      x = np.concatenate([self.get('class_token')[0], x])
    x = x + self.get('position_embedding')[0]
    for i in range(depth):
      get = lambda name, i=i: self.get(f'blocks/{name}')[i]
      scale = lambda name, get=get: get(name) if layer_scale else 1
      y = _layer_norm(x, get('norm1/scale'), get('norm1/bias'))
      y = _attention(y, get, num_heads)
      x = x + y * scale('layer_scale1')
      y = _layer_norm(x, get('norm2/scale'), get('norm2/bias'))
      y = y @ get('mlp/up/kernel') + get('mlp/up/bias')
      y = y * (1 + np.vectorize(math.erf)(y / 2**0.5)) / 2
      y = y @ get('mlp/down/kernel') + get('mlp/down/bias')
      x = x + y * scale('layer_scale2')
    x = _layer_norm(x, self.get('norm/scale'), self.get('norm/bias'))
    return self.head(x[0] if pool == 'token' else x.mean(0))

  def run(self, x, name, arguments):
    if name == 'vit':
      return self.vit(x, **arguments)
    if name == 'mlp':
      return self.mlp(x, **arguments)
    if name == 'mobilenet_v2':
      return self.mobilenet_v2(x)
    if name == 'small_resnet':
      return self.small_resnet(x, **arguments)
    if name in _WIDTHS:
      return self.small_resnet(x, _WIDTHS[name], _NUM_BLOCKS[name])
    is_bottleneck = name in ('resnet50', 'resnet101')
    return self.resnet(x, _NUM_BLOCKS[name], is_bottleneck)


@pytest.mark.parametrize(
  ('name', 'arguments', 'shape'), networks.list_params('resnet18')
)
def test_the_page_is_enough(name, arguments, shape):
  artifact = drawn_files.make(name, arguments, shape)
  (image,) = drawn_files.draw_images(artifact, 1)
  (wanted,) = drawn_files.apply_flax(artifact, image[None])
  net = _Net(artifact_lib.to_variables(artifact)['params'])
  found = net.run(image, name, arguments)
  largest = np.abs(wanted).max()
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * largest)
