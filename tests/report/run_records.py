"""What a run would hand over, made with NumPy and the real writer."""

import os

import numpy as np

from hq_jax import artifact
from hq_jax import report
from hq_jax.core import qtensors
from hq_jax.report import results

SHAPES = {
  'conv_stem/kernel': (3, 3, 1, 16),
  'head/kernel': (64, 10),
  'stage1_block1/conv1/kernel': (3, 3, 16, 16),
  'stage1_block1/conv2/kernel': (3, 3, 16, 16),
  'stage2_block1/conv1/kernel': (3, 3, 16, 32),
  'stage2_block1/conv2/kernel': (3, 3, 32, 32),
  'stage2_block1/conv_proj/kernel': (1, 1, 16, 32),
  'stage3_block1/conv1/kernel': (3, 3, 32, 64),
  'stage3_block1/conv2/kernel': (3, 3, 64, 64),
  'stage3_block1/conv_proj/kernel': (1, 1, 32, 64),
}
PHASES = {'dense': 20, 'prune': 15, 'ternary': 25}


def _make_history(rng, paths, phases):
  rows, distance = [], 0.2
  spread = rng.uniform(0.8, 1.2, len(paths))
  names = [name for name, epochs in phases.items() for _ in range(epochs)]
  for epoch, phase in enumerate(names, 1):
    distance *= 0.75 if phase == 'prune' else 1.0
    distance += 0.004 if phase == 'ternary' else 0.0
    loss = 2.0 / epoch + 0.02 * rng.random()
    spread += rng.normal(0, 0.01, len(paths))
    rows.append(
      {
        'phase': phase,
        'step': 25 * epoch,
        'epoch': epoch,
        'train_loss': loss,
        'train_accuracy': 1 - 0.2 * loss,
        'test_loss': 1.1 * loss,
        'test_accuracy': 1 - 0.22 * loss,
        'learning_rate': 1e-3,
        'sparsity': dict.fromkeys(paths, 0.8 if phase != 'dense' else 0.0),
        'cosine_distance': dict(
          zip(paths, (distance * spread).tolist(), strict=True)
        ),
        'seconds': 1.5,
      }
    )
  return rows


def _make_codes(rng, shape):
  return (rng.choice(3, shape, p=[0.1, 0.8, 0.1]) - 1).astype(np.int8)


def make_inputs(folder, shapes=SHAPES, phases=PHASES, **fields):
  """Inputs with a file of 80% zeros; `fields` take the place of others."""
  rng = np.random.default_rng(5)
  found, dense, latent = {}, {}, {}
  for path, shape in shapes.items():
    codes = _make_codes(rng, shape)
    scale = np.full([1] * (len(shape) - 1) + [shape[-1]], 0.5, np.float16)
    found[f'params/{path}'] = qtensors.TernaryTensor(codes, scale)
    dense[path] = rng.normal(0, 0.1, shape).astype(np.float32)
    latent[path] = (codes + rng.normal(0, 0.2, shape)).astype(np.float32)
    bias = path.replace('kernel', 'bias')
    found[f'params/{bias}'] = rng.normal(0, 1, shape[-1:]).astype(np.float16)
  num_weights = sum(k.size for k in dense.values()) + sum(
    shape[-1] for shape in shapes.values()
  )
  path = os.path.join(folder, 'model.hq')
  names = tuple('0123456789')
  artifact.write(
    path, artifact.Artifact('small_resnet', {}, (8, 8, 1), {}, names, found, {})
  )
  inputs = report.Inputs(
    dense_kernels=dense,
    latent_kernels=latent,
    file_path=path,
    dense_bytes=4 * num_weights,
    num_weights=num_weights,
    dense={'accuracy': 0.986, 'loss': 0.05, 'num_examples': 500},
    ternary={'accuracy': 0.974, 'loss': 0.08, 'num_examples': 500},
    file={'accuracy': 0.974, 'loss': 0.08, 'num_examples': 500},
    history=_make_history(rng, list(shapes), phases),
    config={'seed': 3, 'model': {'widths': [16, 32, 64]}},
    seed=3,
    commit='0123abc',
    hardware={'device': '1 x cpu'},
  )
  return inputs._replace(**fields)


def make_tiny(folder, **fields):
  """One kernel whose numbers can be worked out by hand.

  Channel 0 is (1, 0), channel 1 is (0, -1): half of the codes are zeros, a
  quarter +1, a quarter -1: 1.5 bits. In memory: 4 codes and 2 float16.
  """
  codes = np.array([[1, 0], [0, -1]], np.int8)
  kernel = qtensors.TernaryTensor(codes, np.array([[1, 0.5]], np.float16))
  path = os.path.join(folder, 'tiny.hq')
  num_bytes = artifact.write(
    path,
    artifact.Artifact(
      'net', {}, (2,), {}, ('a', 'b'), {'params/k': kernel}, {}
    ),
  )
  rng = np.random.default_rng(0)
  weights = {'k': np.array([[1.0, 0.5], [0.25, -1.0]], np.float32)}
  inputs = report.Inputs(
    dense_kernels=weights,
    latent_kernels=weights,
    file_path=path,
    dense_bytes=40 * num_bytes,
    num_weights=2 * num_bytes,
    dense={'accuracy': 0.75, 'loss': 0.5, 'num_examples': 8},
    ternary={'accuracy': 0.625, 'loss': 1.0, 'num_examples': 8},
    file={'accuracy': 0.5, 'loss': 1.25, 'num_examples': 8},
    history=_make_history(rng, ['k'], {'dense': 2, 'prune': 1, 'ternary': 1}),
    config={},
    seed=7,
    commit='abc',
    hardware={},
  )
  return inputs._replace(**fields)


def make_odd(folder, name):
  """Inputs that are right, and rare."""
  nan_row = {'train_loss': float('nan'), 'test_loss': float('inf')}
  full = make_inputs(folder)
  worse = {'accuracy': 0.1, 'loss': 2.3, 'num_examples': 500}
  better = {'accuracy': 1.0, 'loss': 0.0, 'num_examples': 500}
  with_phases = lambda **phases: lambda: make_inputs(folder, phases=phases)
  deep = {f'block{i}/conv/kernel': (3, 3, 4, 4) for i in range(54)}
  return {
    'usual': lambda: full,
    'no_prune': with_phases(dense=5, ternary=5),
    'no_dense': with_phases(prune=4, ternary=4),
    'short_phases': with_phases(dense=90, prune=2, ternary=2),
    'one_epoch': with_phases(ternary=1),
    'no_epoch': with_phases(),
    'one_kernel': lambda: make_tiny(folder),
    'many_kernels': lambda: make_inputs(folder, shapes=deep),
    'nan_loss': lambda: full._replace(
      history=[*full.history[:-1], full.history[-1] | nan_row]
    ),
    'zero_kernels': lambda: full._replace(
      latent_kernels={k: 0 * w for k, w in full.latent_kernels.items()}
    ),
    'chance': lambda: full._replace(file=worse),
    'better': lambda: full._replace(file=better),
  }[name]()


def summarize(inputs):
  """The numbers of a report, and the artifact that they are about."""
  with open(inputs.file_path, 'rb') as file:
    data = file.read()
  found = artifact.loads(data)
  return results.make(inputs, data, found), found
