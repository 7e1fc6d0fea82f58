"""Layers in float64, and variables in which no batch norm is the identity."""

import jax
import numpy as np


def draw(model, x):
  """Random variables of a model that takes `x`."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), x)
  rng = np.random.default_rng(2)

  def draw_leaf(leaf):
    if leaf.ndim == 1:
      return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
    fan_in = leaf.size / leaf.shape[-1]
    return (rng.normal(size=leaf.shape) / fan_in**0.5).astype(np.float32)

  return jax.tree.map(draw_leaf, shapes)


def conv(x, kernel, stride=1):
  """A convolution with k // 2 zeros on either side, as sums over its taps."""
  size, pad = kernel.shape[0], kernel.shape[0] // 2
  x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  height = (x.shape[1] - size) // stride + 1
  width = (x.shape[2] - size) // stride + 1
  out = np.zeros((len(x), height, width, kernel.shape[-1]))
  for i in range(size):
    for j in range(size):
      rows = slice(i, i + stride * (height - 1) + 1, stride)
      columns = slice(j, j + stride * (width - 1) + 1, stride)
      out += x[:, rows, columns] @ kernel[i, j]
  return out


def norm(x, variables, name):
  """A batch norm by its statistics."""
  params, stats = variables['params'][name], variables['batch_stats'][name]
  x = (x - stats['mean']) / np.sqrt(stats['var'] + 1e-5)
  return x * params['scale'] + params['bias']


def conv_norm(x, variables, name, stride=1):
  """A convolution and the norm that follows it."""
  kernel = variables['params'][f'conv{name}']['kernel']
  return norm(conv(x, kernel, stride), variables, f'norm{name}')


def block(x, variables, stride):
  """A residual block of two 3x3 convolutions."""
  y = np.maximum(conv_norm(x, variables, 1, stride), 0)
  y = conv_norm(y, variables, 2)
  if 'conv_proj' in variables['params']:
    x = conv_norm(x, variables, '_proj', stride)
  return np.maximum(x + y, 0)


def inside(variables, name):
  """The variables of a module."""
  return {kind: tree[name] for kind, tree in variables.items()}


def classify(x, variables):
  """The mean over the pixels, and the head."""
  head = variables['params']['head']
  return x.mean((1, 2)) @ head['kernel'] + head['bias']
