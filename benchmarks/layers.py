"""Which form of a convolution is the fastest on a CPU, by its shapes.

  python -m benchmarks.layers [--rounds=5] [--only=layers]

Value and gradient of single layers, in each form of `core.convolutions`, and of
whole training steps, in the forms that it chooses over XLA's own convolutions
and pooling. Processor time of one core, by turns in one process: medians, and
the median of the ratios within a round. Prints Markdown tables, and as its last
line a JSON object.
"""

import argparse
from collections.abc import Callable, Iterator
import contextlib
import json
import os
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tabulate

from benchmarks import compile_cost
from hq_jax import models
from hq_jax.core import convolutions
from hq_jax.runtime import provenance

# Images, pixels of a side, channels, output channels, size, stride, groups.
_LAYERS = (
  (64, 1, 256, 256, 3, 1, 1),
  (64, 2, 128, 128, 3, 1, 1),
  (16, 2, 512, 512, 3, 1, 1),
  (16, 3, 512, 512, 3, 1, 1),
  (64, 4, 64, 64, 3, 1, 1),
  (16, 4, 256, 512, 3, 2, 1),
  (16, 6, 256, 256, 3, 1, 1),
  (64, 7, 64, 64, 3, 1, 1),
  (16, 8, 256, 256, 3, 1, 1),
  (64, 8, 32, 32, 3, 1, 1),
  (16, 12, 128, 128, 3, 1, 1),
  (64, 14, 32, 32, 3, 1, 1),
  (16, 16, 64, 64, 1, 1, 1),
  (16, 28, 96, 96, 3, 1, 96),
  (16, 14, 384, 384, 3, 2, 384),
)
_FORMS = {
  'XLA': convolutions.convolve_plainly,
  'sum of products': convolutions.sum_products,
  'shifted products': convolutions.shift_and_add,
}
# Of a step: network, pixels, batch, channels, arguments.
_STEPS = {
  'digits': (
    'small_resnet',
    *(8, 64, 1),
    {'widths': [32, 64, 128], 'num_blocks': [1, 1, 1]},
  ),
  'resnet18_64px': ('resnet18', 64, 16, 3, {}),
  'resnet18_96px': ('resnet18', 96, 16, 3, {}),
  'mobilenet_v2_96px': ('mobilenet_v2', 96, 16, 3, {}),
}


def time_all(
  calls: dict[str, Callable[[], Any]], num_rounds: int
) -> dict[str, np.ndarray]:
  """Processor seconds of each call in each round; a first one is not timed."""
  seconds: dict[str, list[float]] = {name: [] for name in calls}
  for i in range(num_rounds + 1):
    for name in list(calls) if i % 2 else reversed(calls):
      started = time.process_time()
      jax.block_until_ready(calls[name]())
      if i:
        seconds[name].append(time.process_time() - started)
  return {name: np.array(values) for name, values in seconds.items()}


def measure_layer(
  layer: tuple[int, ...], num_rounds: int
) -> dict[str, dict[str, float]]:
  """Milliseconds of value and gradient in each form, and over XLA's."""
  num, side, channels, out, size, stride, groups = layer
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(num, side, side, channels)), jnp.float32)
  kernel = jnp.asarray(
    rng.normal(size=(size, size, channels // groups, out)), jnp.float32
  )
  padding = size // 2

  def make(name):
    form = _FORMS[name]
    more = (groups,) if name == 'XLA' else ()
    loss = lambda x, w: jnp.sum(jnp.sin(form(x, w, stride, padding, *more)))
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    return lambda: compiled(x, kernel)

  names = [
    name
    for name in _FORMS
    if name == 'XLA' or (groups > 1) == (name == 'shifted products')
  ]
  seconds = time_all({name: make(name) for name in names}, num_rounds)
  return {
    name: {
      'milliseconds': 1e3 * float(np.median(values)),
      'over_xla': float(np.median(values / seconds['XLA'])),
    }
    for name, values in seconds.items()
  }


def find_chosen(layer: tuple[int, ...]) -> str:
  """The name of the form that is chosen for a layer."""
  num, side, channels, out, size, stride, groups = layer
  form = convolutions.choose_form(
    (num, side, side, channels),
    (size, size, channels // groups, out),
    *(stride, size // 2, groups),
  )
  return next((name for name in _FORMS if _FORMS[name] is form), 'XLA')


@contextlib.contextmanager
def without_choice() -> Iterator[None]:
  """All convolutions and pooling that are traced within are XLA's own."""
  kept = convolutions.by_platform
  convolutions.by_platform = lambda cpu, plain, *args: plain(*args)
  try:
    yield
  finally:
    convolutions.by_platform = kept


def measure_step(name: str, num_rounds: int) -> dict[str, float]:
  """Seconds of a training step, ours and XLA's, and of compiling it."""
  network, side, num, channels, arguments = _STEPS[name]
  model = models.build(network, num_classes=10, arguments=arguments)
  rng = np.random.default_rng(0)
  images = jnp.asarray(
    rng.normal(size=(num, side, side, channels)), jnp.float32
  )
  batch = images, jnp.asarray(rng.integers(0, 10, num))
  variables = jax.jit(model.init)(jax.random.key(0), images)
  tx = optax.sgd(0.1)
  params, batch_stats = variables['params'], variables['batch_stats']
  carry = params, batch_stats, tx.init(params)
  step = compile_cost.make_step(model, tx)
  found, calls = {}, {}
  for form in ('ours', 'xla'):
    inside = without_choice() if form == 'xla' else contextlib.nullcontext()
    started = time.process_time()
    with inside:
      # A function of its own: what was traced before is not taken.
      compiled = (
        jax.jit(lambda carry, batch: step(carry, batch))
        .lower(carry, batch)
        .compile()
      )
    found[f'{form}_compile_seconds'] = time.process_time() - started
    calls[form] = lambda compiled=compiled: compiled(carry, batch)
  seconds = time_all(calls, num_rounds)
  for form, values in seconds.items():
    found[f'{form}_seconds'] = float(np.median(values))
  return found | {'over': float(np.median(seconds['ours'] / seconds['xla']))}


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--only', choices=('layers', 'steps'))
  arguments = parser.parse_args()
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
  result: dict[str, Any] = {}
  if arguments.only != 'steps':
    rows = []
    for layer in _LAYERS:
      found = measure_layer(layer, arguments.rounds)
      chosen = find_chosen(layer)
      num, side, channels, out, size, stride, groups = layer
      best = min(found, key=lambda name: found[name]['milliseconds'])
      cells = [f'{num}x{side}x{side}x{channels}', f'{size}x{size}', str(out)]
      cells += [str(stride), str(groups), f'{found["XLA"]["milliseconds"]:.1f}']
      for name in list(_FORMS)[1:]:
        row = found.get(name)
        cells.append(
          f'{row["milliseconds"]:.1f} ({row["over_xla"]:.2f})' if row else ''
        )
      rows.append([*cells, chosen, best])
    heads = ['images', 'kernel', 'to', 'stride', 'groups', 'XLA, ms']
    heads += ['sum of products (over XLA)', 'shifted products (over XLA)']
    heads += ['chosen', 'fastest']
    print(tabulate.tabulate(rows, heads, 'github', disable_numparse=True))
    right = [row[-1] == row[-2] for row in rows]
    result['chosen_is_fastest'] = sum(right) / len(right)
  if arguments.only != 'layers':
    steps = {name: measure_step(name, arguments.rounds) for name in _STEPS}
    rows = [
      [name, *(f'{found[key]:.3f}' for key in _COLUMNS)]
      for name, found in steps.items()
    ]
    heads = ['step', *_COLUMNS.values()]
    print(tabulate.tabulate(rows, heads, 'github', disable_numparse=True))
    for name, found in steps.items():
      result[f'{name}_step_over_lax'] = found['over']
    result['steps'] = steps
  result['commit'] = provenance.get_commit()
  result['hardware'] = provenance.get_hardware()
  print(json.dumps(result, sort_keys=True))


_COLUMNS = {
  'ours_seconds': 'ours, s',
  'xla_seconds': "XLA's own, s",
  'over': 'ratio',
  'ours_compile_seconds': 'ours compiled in, s',
  'xla_compile_seconds': "XLA's own compiled in, s",
}


if __name__ == '__main__':
  main()
