"""One line in a training loop of one's own, then a file, then its answers.

  python examples/own_loop.py own_loop.hq

A perceptron on the 8x8 digits of scikit-learn, trained with optax alone. The
line that changes wraps the optimizer. Half a minute on two cores.
"""

import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

import hq_jax
from hq_jax import artifact
from hq_jax import models
from hq_jax import transforms

MODEL, ARGUMENTS = 'mlp', {'widths': [128, 128]}
STEPS, BATCH_SIZE = 1500, 64


def main(path: str) -> None:
  """Trains, writes the file, and lets it answer."""
  digits = datasets.load_digits()
  images, labels = digits.images.astype(np.uint8)[..., None], digits.target
  train, test = slice(0, 1297), slice(1297, None)
  mean, std = float(images[train].mean()), float(images[train].std())
  # What the file says of its input, so that whoever reads it does the same.
  preprocessing = {
    'pixel_min': 0.0,
    'pixel_max': 16.0,
    'mean': [mean],
    'std': [std],
  }
  inputs = jnp.asarray((images - mean) / std, jnp.float32)

  model = models.build(MODEL, num_classes=10, arguments=ARGUMENTS)
  variables = model.init(jax.random.key(0), inputs[:1])
  params, batch_stats = variables['params'], variables['batch_stats']
  recipe = transforms.Recipe(
    sparsity=0.8, begin_step=300, prune_steps=600, end_step=STEPS
  )
  tx = transforms.hq(optax.adam(2e-3), recipe)  # <- the line that changes
  opt_state = tx.init(params)

  def loss_fn(params, batch_stats, x, y):
    logits, changed = model.apply(
      {'params': params, 'batch_stats': batch_stats},
      x,
      train=True,
      mutable=['batch_stats'],
    )
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return loss, changed['batch_stats']

  @jax.jit
  def step(params, batch_stats, opt_state, x, y):
    grads, batch_stats = jax.grad(loss_fn, has_aux=True)(
      params, batch_stats, x, y
    )
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), batch_stats, opt_state

  rng = np.random.default_rng(0)
  for _ in range(STEPS):
    rows = rng.integers(0, train.stop, BATCH_SIZE)
    params, batch_stats, opt_state = step(
      params, batch_stats, opt_state, inputs[rows], labels[rows]
    )

  # The kernels are ternary by now, and `compress` keeps them as they are.
  found = hq_jax.compress(
    {'params': params, 'batch_stats': batch_stats},
    model=MODEL,
    model_arguments=ARGUMENTS,
    input_shape=images.shape[1:],
    preprocessing=preprocessing,
    class_names=tuple(map(str, digits.target_names)),
  )
  artifact.write(path, found)
  dense = 4 * sum(x.size for x in jax.tree.leaves((params, batch_stats)))
  size = os.path.getsize(path)
  print(f'{path}: {size:,} bytes, {dense / size:.1f} times smaller')

  classifier = hq_jax.load(path)
  logits = classifier.logits(list(images[test]))
  accuracy = np.mean(logits.argmax(1) == labels[test])
  trained = {'params': params, 'batch_stats': batch_stats}
  difference = np.abs(logits - model.apply(trained, inputs[test])).max()
  print(f'test accuracy of the file: {accuracy:.1%}; its logits differ from')
  print(f'those of the network that was trained by {difference:.3f} at most')
  top = classifier.predict(images[-1], top=1)
  print(
    f'the last image is a {labels[-1]}; the file says {top.classes[0]}'
    f' ({top.probabilities[0]:.0%})'
  )


if __name__ == '__main__':
  main(sys.argv[1] if len(sys.argv) > 1 else 'own_loop.hq')
