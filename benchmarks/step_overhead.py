"""What a training step costs with `transforms.hq`, over plain optax SGD.

  python -m benchmarks.step_overhead
  python -m benchmarks.step_overhead --only=compile

ResNet-18 for 1,000 classes on 96-pixel images, batch 32, SGD with Nesterov
momentum, everything in one process: a round runs each variant once, in an order
that turns around every other round, and a ratio is taken within the round.
Variants: plain optax; ours in the dense phase and in the ternary one, of which
pruning is a part; with `prune_gradients='masked'`, in the prune phase; and
plain optax on the same network with its weights fake-quantized to int2 by Qwix.
The steps that find thresholds, one in 50, are measured apart, and their share
is added to the ratio of their phase. Of each step: the seconds that it takes,
those that it took to trace and to compile, and its temporary memory.

Also counts the bytes by which the optimizer's state grows; what ResNet-50's
update and its whole step cost to trace and to compile, over clip + AdamW (see
`compile_cost`); what eager updates compile; and what seeds cost under `vmap`.
Prints Markdown tables, and as its last line a JSON object.
"""

import argparse
from collections.abc import Callable
import json
import time
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tabulate
import tqdm

from benchmarks import compile_cost
from benchmarks import many_seeds
from hq_jax import transforms
from hq_jax.core import trees
from hq_jax.models import resnet
from hq_jax.runtime import provenance

PHASES = ('dense', 'prune', 'ternary')
_REFRESH_STEPS = 50
# Long enough that no phase ends while it is measured.
_LONG_STEPS = 1_000_000
_NAMES = {
  'plain': 'plain optax',
  'qwix': 'Qwix fake quantization, int2 weights',
  'dense': 'dense phase',
  'prune': 'prune phase, masked gradients',
  'prune_refresh': 'prune phase, masked gradients, finds thresholds',
  'ternary': 'ternary phase',
  'ternary_refresh': 'ternary phase, finds thresholds',
}
_SHORT_STEPS = 4


class Variant(NamedTuple):
  """What is measured, ready to run.

  Attributes:
    step: from the carry to the next, which it consumes.
    carry: parameters, batch statistics and optimizer state.
    compile_seconds: until there was an executable.
    temporary_bytes: of a step, besides what it is given and gives.
  """

  step: Callable[[Any], Any]
  carry: Any
  compile_seconds: float
  temporary_bytes: int


def make_recipe(phase: str, refresh_steps: int) -> transforms.Recipe:
  """A recipe whose steps, after a warm-up, all belong to one phase."""
  begin, prune = {
    'dense': (_LONG_STEPS, _SHORT_STEPS),
    'prune': (0, _LONG_STEPS),
    'ternary': (0, _SHORT_STEPS),
  }[phase]
  return transforms.Recipe(
    sparsity=0.85,
    begin_step=begin,
    prune_steps=prune,
    prune_gradients='masked' if phase == 'prune' else 'straight_through',
    refresh_steps=refresh_steps,
  )


def make_optimizer() -> optax.GradientTransformation:
  """The optimizer of every variant."""
  return optax.sgd(1e-2, momentum=0.9, nesterov=True)


def make_variant(
  model: nn.Module,
  tx: optax.GradientTransformation,
  variables: Any,
  batch: tuple[jax.Array, jax.Array],
  warmup_steps: int,
) -> Variant:
  """Compiles a training step and takes a few."""
  step = compile_cost.make_step(model, tx)
  params, batch_stats = jax.tree.map(
    jnp.copy, (variables['params'], variables['batch_stats'])
  )
  carry = (params, batch_stats, jax.jit(tx.init)(params))
  started = time.perf_counter()
  compiled = (
    jax.jit(lambda carry: step(carry, batch), donate_argnums=0)
    .lower(carry)
    .compile()
  )
  seconds = time.perf_counter() - started
  memory: Any = compiled.memory_analysis()
  for _ in range(warmup_steps):
    carry = jax.block_until_ready(compiled(carry))
  return Variant(compiled, carry, seconds, memory.temp_size_in_bytes)


def quantize_with_qwix(model: nn.Module) -> nn.Module:
  """The same network with int2 weights by Qwix, and float activations."""
  try:
    import qwix
  except ImportError:
    raise SystemExit(
      "qwix is not installed, wanted for comparison: pip install -e '.[test]'"
    ) from None
  rules = [qwix.QtRule(module_path='.*', weight_qtype='int2')]
  return qwix.quantize_model(model, qwix.QtProvider(rules))


def measure(
  variants: dict[str, Variant], num_rounds: int
) -> dict[str, np.ndarray]:
  """Times every variant once a round."""
  carries = {name: variant.carry for name, variant in variants.items()}
  seconds: dict[str, list[float]] = {name: [] for name in variants}
  for i in tqdm.trange(num_rounds, unit='round', disable=None):
    order = list(variants)
    for name in order if i % 2 == 0 else reversed(order):
      started = time.perf_counter()
      carries[name] = jax.block_until_ready(variants[name].step(carries[name]))
      seconds[name].append(time.perf_counter() - started)
  return {name: np.array(values) for name, values in seconds.items()}


def summarize(
  seconds: dict[str, np.ndarray],
  variants: dict[str, Variant],
  refresh_steps: int,
) -> dict[str, Any]:
  """Median ratios over the plain step of the same round, and medians.

  A phase costs `ordinary + (refreshing - ordinary) / refresh_steps`.
  """
  ratio = {
    name: float(np.median(values / seconds['plain']))
    for name, values in seconds.items()
  }
  plain = variants['plain']
  steps = {
    name: {
      'seconds': float(np.median(values)),
      'over_plain': ratio[name],
      'compile_seconds': variants[name].compile_seconds,
      'compile_over_plain': variants[name].compile_seconds
      / plain.compile_seconds,
      'temporary_bytes': variants[name].temporary_bytes,
      'temporaries_over_plain': variants[name].temporary_bytes
      / plain.temporary_bytes,
    }
    for name, values in seconds.items()
  }
  phases = {}
  for phase in PHASES:
    ordinary = ratio[phase]
    refreshing = ratio.get(f'{phase}_refresh', ordinary)
    phases[phase] = {
      'over_plain': ordinary + (refreshing - ordinary) / refresh_steps,
      'ordinary_over_plain': ordinary,
      'refreshing_over_plain': refreshing,
    }
  worst = lambda key, *left_out: max(
    step[key]
    for name, step in steps.items()
    if not name.startswith(('plain', 'qwix', *left_out))
  )
  return {
    'ours_over_plain': max(phase['over_plain'] for phase in phases.values()),
    'ordinary_over_plain': max(
      phase['ordinary_over_plain'] for phase in phases.values()
    ),
    'refresh_over_ordinary': max(
      phase['refreshing_over_plain'] / phase['ordinary_over_plain']
      for phase in phases.values()
    ),
    'compile_over_plain': worst('compile_over_plain', 'prune'),
    'masked_compile_over_plain': worst('compile_over_plain'),
    'temporaries_over_plain': worst('temporaries_over_plain'),
    'qwix_over_plain': ratio.get('qwix'),
    'phases': phases,
    'steps': steps,
    'plain_seconds': float(np.median(seconds['plain'])),
    'pairs': len(seconds['plain']),
  }


def count_state(params: Any) -> dict[str, int]:
  """Bytes by which the state grows, and what one copy of the weights takes."""
  num_bytes = lambda tree: sum(
    leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
  )
  plain = jax.eval_shape(make_optimizer().init, params)
  recipe = make_recipe('prune', _REFRESH_STEPS)
  ours = jax.eval_shape(transforms.hq(make_optimizer(), recipe).init, params)
  weights = sum(leaf.size for leaf in trees.flatten_selected(params).values())
  return {
    'state_growth_bytes': num_bytes(ours) - num_bytes(plain),
    'one_copy_bytes': 4 * weights,
    'one_bit_per_weight_bytes': weights // 8,
  }


def make_table(result: dict[str, Any]) -> str:
  """A Markdown table with a row for each step."""
  rows = [
    [
      _NAMES[name],
      *(f'{step["seconds"]:.3f}', f'{step["over_plain"]:.3f}'),
      *(f'{step["compile_seconds"]:.1f}', f'{step["compile_over_plain"]:.2f}'),
      f'{step["temporary_bytes"] / 1e6:.0f}',
      f'{step["temporaries_over_plain"]:.2f}',
    ]
    for name, step in result['steps'].items()
  ]
  heads = ['step', 'seconds', 'over plain', 'compiled in, s', 'over plain']
  heads += ['temporaries, MB', 'over plain']
  return tabulate.tabulate(rows, heads, 'github', disable_numparse=True)


def run(
  model: nn.Module,
  *,
  image_size: int,
  batch_size: int,
  num_rounds: int,
  with_qwix: bool = True,
) -> dict[str, Any]:
  """Builds every variant and measures."""
  rng = np.random.default_rng(0)
  shape = (batch_size, image_size, image_size, 3)
  images = jnp.asarray(rng.normal(size=shape), jnp.float32)
  batch = images, jnp.asarray(rng.integers(0, 1000, batch_size))
  variables = jax.jit(model.init)(jax.random.key(0), images[:1])
  make = lambda tx, model=model, steps=1: make_variant(
    model, tx, variables, batch, steps
  )
  variants = {'plain': make(make_optimizer())}
  if with_qwix:
    variants['qwix'] = make(make_optimizer(), quantize_with_qwix(model))
  for phase in PHASES:
    # The ternary phase begins behind a short pruning, with a first threshold.
    steps = _SHORT_STEPS + 1 if phase == 'ternary' else 1
    variants[phase] = make(
      transforms.hq(make_optimizer(), make_recipe(phase, _LONG_STEPS)),
      steps=steps,
    )
    if phase != 'dense':
      variants[f'{phase}_refresh'] = make(
        transforms.hq(make_optimizer(), make_recipe(phase, 1)), steps=steps
      )
  return (
    summarize(measure(variants, num_rounds), variants, _REFRESH_STEPS)
    | count_state(variables['params'])
    | {
      'network': type(model).__name__,
      'image_size': image_size,
      'batch_size': batch_size,
    }
  )


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--depth', type=int, default=18)
  parser.add_argument('--image_size', type=int, default=96)
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument('--rounds', type=int, default=21)
  parser.add_argument('--compile_rounds', type=int, default=5)
  parser.add_argument('--only', choices=('step', 'compile', 'seeds'))
  arguments = parser.parse_args()
  result = {}
  if arguments.only in (None, 'step'):
    result |= run(
      resnet.ResNet(num_classes=1000, depth=arguments.depth),
      image_size=arguments.image_size,
      batch_size=arguments.batch_size,
      num_rounds=arguments.rounds,
    )
    result['depth'] = arguments.depth
    size = arguments.image_size
    result[f'ours_over_plain_{size}px'] = result['ours_over_plain']
    print(make_table(result), end='\n\n')
  if arguments.only in (None, 'compile'):
    model = resnet.ResNet(num_classes=1000, depth=50)
    result |= compile_cost.measure(
      model,
      quantize_with_qwix(model),
      image_size=arguments.image_size,
      batch_size=arguments.batch_size,
      update_rounds=arguments.compile_rounds,
      step_rounds=2,
    )
    result['eager_compilations'] = compile_cost.measure_eager()
    print(compile_cost.make_table(result), end='\n\n')
  if arguments.only in (None, 'seeds'):
    result['seeds'] = many_seeds.measure()
    rows = [[name, f'{value:.2f}'] for name, value in result['seeds'].items()]
    print(tabulate.tabulate(rows, ['seeds', 'ratio'], 'github'), end='\n\n')
  result['commit'] = provenance.get_commit()
  result['hardware'] = provenance.get_hardware()
  print(json.dumps(result, sort_keys=True))


if __name__ == '__main__':
  main()
