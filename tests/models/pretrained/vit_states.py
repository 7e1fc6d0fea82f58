"""A vision transformer in timm's names: its weights, and its logits."""

import math

import numpy as np

WIDTH, DEPTH, NUM_HEADS, PATCH, SIDE, NUM_CLASSES = 12, 3, 3, 4, 16, 5
ARGUMENTS = {
  'patch_size': PATCH,
  'width': WIDTH,
  'depth': DEPTH,
  'num_heads': NUM_HEADS,
}


def draw_state(layer_scale=False, num_tokens=1 + (SIDE // PATCH) ** 2):
  """Random weights in timm's names."""
  shapes = {
    'cls_token': (1, 1, WIDTH),
    'pos_embed': (1, num_tokens, WIDTH),
    'patch_embed.proj.weight': (WIDTH, 3, PATCH, PATCH),
    'patch_embed.proj.bias': (WIDTH,),
    'norm.weight': (WIDTH,),
    'norm.bias': (WIDTH,),
    'head.weight': (NUM_CLASSES, WIDTH),
    'head.bias': (NUM_CLASSES,),
  }
  layers = {
    'attn.qkv': (3 * WIDTH, WIDTH),
    'attn.proj': (WIDTH, WIDTH),
    'mlp.fc1': (4 * WIDTH, WIDTH),
    'mlp.fc2': (WIDTH, 4 * WIDTH),
    'norm1': (WIDTH,),
    'norm2': (WIDTH,),
  }
  for number in range(DEPTH):
    for name, shape in layers.items():
      shapes[f'blocks.{number}.{name}.weight'] = shape
      shapes[f'blocks.{number}.{name}.bias'] = shape[:1]
    if layer_scale:
      shapes |= {f'blocks.{number}.ls{i}.gamma': (WIDTH,) for i in (1, 2)}
  rng = np.random.default_rng(3)
  return {
    name: rng.normal(0, 0.5, shape).astype(np.float32)
    for name, shape in shapes.items()
  }


def compute_logits(state, images):
  """In float64, from the weights as they are named and lie in timm."""
  state = {name: np.float64(x) for name, x in state.items()}
  dense = lambda x, name: x @ state[f'{name}.weight'].T + state[f'{name}.bias']
  n = len(images)

  def norm(x, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1)[..., None] + 1e-6)
    return x * state[f'{name}.weight'] + state[f'{name}.bias']

  def attend(x, name):
    qkv = dense(x, f'{name}.qkv').reshape(
      n, -1, 3, NUM_HEADS, WIDTH // NUM_HEADS
    )
    query, key, value = qkv.transpose(2, 0, 3, 1, 4)
    scores = np.exp(query @ key.swapaxes(-1, -2) * (WIDTH // NUM_HEADS) ** -0.5)
    y = scores / scores.sum(-1, keepdims=True) @ value
    return dense(y.swapaxes(1, 2).reshape(n, -1, WIDTH), f'{name}.proj')

  def mlp(x, name):
    x = dense(x, f'{name}.fc1')
    x = x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
    return dense(x, f'{name}.fc2')

  windows = np.lib.stride_tricks.sliding_window_view(
    images, (PATCH, PATCH), (1, 2)
  )[:, ::PATCH, ::PATCH]
  x = np.einsum('nijcab,dcab->nijd', windows, state['patch_embed.proj.weight'])
  x = (x + state['patch_embed.proj.bias']).reshape(n, -1, WIDTH)
  token = np.broadcast_to(state['cls_token'], (n, 1, WIDTH))
  position = state['pos_embed']
  if position.shape[1] == x.shape[1]:  # As DeiT III has it.
    x = np.concatenate([token, x + position], 1)
  else:
    x = np.concatenate([token, x], 1) + position
  for number in range(DEPTH):
    name = f'blocks.{number}'
    y = attend(norm(x, f'{name}.norm1'), f'{name}.attn')
    x = x + y * state.get(f'{name}.ls1.gamma', 1)
    y = mlp(norm(x, f'{name}.norm2'), f'{name}.mlp')
    x = x + y * state.get(f'{name}.ls2.gamma', 1)
  return dense(norm(x, 'norm')[:, 0], 'head')
