"""What a transformation costs to trace and to compile, over another one.

Equations are counted in the traced function, those of every sub-jaxpr at each
place where it is called: a function that is called twice counts twice.
Compiling is timed as a user waits for it, from the call of an untraced function
to the executable, with nothing cached. A round compiles each function once, in
an order that turns around every other round, and a ratio is taken within the
round. Everything is abstract: no weight is allocated.
"""

from collections.abc import Callable, Iterable, Iterator
import logging
import time
from typing import Any

from flax import linen as nn
import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.extend import core
import jax.numpy as jnp
import numpy as np
import optax
import tabulate
import tqdm

from hq_jax import transforms

# What is traced or compiled: a function and its arguments or their shapes.
Call = tuple[Callable[..., Any], tuple[Any, ...]]

_COMPILED = 'Finished XLA compilation'


def count_equations(jaxpr: core.Jaxpr) -> int:
  """The equations of a traced function, through all that it calls.

  >>> double = jax.jit(lambda x: x + x)
  >>> jaxpr = jax.make_jaxpr(lambda x: double(double(x)))(1.0)
  >>> count_equations(jaxpr.jaxpr)  # two calls, and an addition in each
  4
  """
  return sum(
    1 + sum(map(count_equations, _find_jaxprs(equation.params.values())))
    for equation in jaxpr.eqns
  )


def _find_jaxprs(values: Iterable[Any]) -> Iterator[core.Jaxpr]:
  """The jaxprs among the parameters of an equation."""
  for value in values:
    if isinstance(value, core.ClosedJaxpr):
      yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
      yield value
    elif isinstance(value, tuple | list):
      yield from _find_jaxprs(value)


def count_all_equations(calls: dict[str, Call]) -> dict[str, int]:
  """The equations of each function."""
  return {
    name: count_equations(jax.make_jaxpr(function)(*arguments).jaxpr)
    for name, (function, arguments) in calls.items()
  }


def time_compiling(
  calls: dict[str, Call], num_rounds: int
) -> dict[str, np.ndarray]:
  """Seconds that each function takes to trace and compile, for every round."""
  seconds: dict[str, list[float]] = {name: [] for name in calls}
  for i in tqdm.trange(num_rounds, unit='round', disable=None):
    for name in list(calls) if i % 2 == 0 else reversed(calls):
      seconds[name].append(_compile_once(*calls[name]))
  return {name: np.array(values) for name, values in seconds.items()}


def _compile_once(function: Callable[..., Any], arguments: tuple) -> float:
  """Seconds until there is an executable, from cold caches."""
  cached = jax.config.jax_enable_compilation_cache
  jax.config.update('jax_enable_compilation_cache', False)
  # Whether there is a persistent cache is looked up once, and remembered.
  compilation_cache.reset_cache()
  jax.clear_caches()
  try:
    started = time.perf_counter()
    jax.jit(lambda *args: function(*args)).lower(*arguments).compile()
    return time.perf_counter() - started
  finally:
    jax.config.update('jax_enable_compilation_cache', cached)
    compilation_cache.reset_cache()


def make_updates(params: Any) -> dict[str, Call]:
  """The `tx.update` of clip + AdamW, and of `hq` with a ramp around it."""
  updates = {}
  for name, tx in _make_transformations().items():
    state = jax.eval_shape(tx.init, params)
    updates[name] = (tx.update, (params, state, params))
  return updates


def _make_transformations() -> dict[str, optax.GradientTransformation]:
  plain = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(learning_rate=1e-3)
  )
  recipe = transforms.Recipe(
    sparsity=0.85, begin_step=10, prune_steps=100, end_step=200
  )
  return {'adamw': plain, 'ours': transforms.hq(plain, recipe)}


def make_steps(
  model: nn.Module, quantized: nn.Module | None, variables: Any, batch: Any
) -> dict[str, Call]:
  """Gradient and update; with AdamW, with ours, and with Qwix's network.

  Qwix has no transformation, it changes the network: only whole steps compare.
  """
  transformations = _make_transformations()
  variants = {name: (model, tx) for name, tx in transformations.items()}
  if quantized is not None:
    variants['qwix'] = (quantized, transformations['adamw'])
  params, batch_stats = variables['params'], variables['batch_stats']
  steps = {}
  for name, (network, tx) in variants.items():
    state = jax.eval_shape(tx.init, params)
    step = make_step(network, tx)
    steps[name] = (step, ((params, batch_stats, state), batch))
  return steps


def make_step(
  model: nn.Module, tx: optax.GradientTransformation
) -> Callable[[Any, Any], Any]:
  """A training step: from parameters, statistics and state to the next ones."""

  def step(carry, batch):
    params, batch_stats, opt_state = carry
    images, labels = batch

    def loss_fn(params):
      logits, updated = model.apply(
        {'params': params, 'batch_stats': batch_stats},
        images,
        train=True,
        mutable=['batch_stats'],
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      return losses.mean(), updated['batch_stats']

    grads, updated = jax.grad(loss_fn, has_aux=True)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), updated, opt_state

  return step


def measure(
  model: nn.Module,
  quantized: nn.Module | None,
  *,
  image_size: int,
  batch_size: int,
  update_rounds: int,
  step_rounds: int,
) -> dict[str, Any]:
  """Equations and seconds of compiling, of updates and of whole steps."""
  shape = (batch_size, image_size, image_size, 3)
  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  updates = make_updates(variables['params'])
  steps = make_steps(model, quantized, variables, (images, labels))
  update = summarize(
    count_all_equations(updates), time_compiling(updates, update_rounds)
  )
  return {
    'equations_over_adamw': update['ours']['equations_over_adamw'],
    'compile_over_adamw': update['ours']['compile_over_adamw'],
    'update': update,
    'step': summarize(
      count_all_equations(steps), time_compiling(steps, step_rounds)
    ),
    'update_rounds': update_rounds,
    'step_rounds': step_rounds,
  }


def summarize(
  equations: dict[str, int], seconds: dict[str, np.ndarray]
) -> dict[str, dict[str, float]]:
  """Totals, and ratios over AdamW: the median of those within a round."""
  return {
    name: {
      'equations': equations[name],
      'equations_over_adamw': equations[name] / equations['adamw'],
      'compile_seconds': float(np.median(seconds[name])),
      'compile_over_adamw': float(np.median(seconds[name] / seconds['adamw'])),
    }
    for name in equations
  }


def make_table(result: dict[str, Any]) -> str:
  """A Markdown table of a result."""
  rows = [
    [
      f'{kind}, {name}',
      str(found['equations']),
      f'{found["equations_over_adamw"]:.2f}',
      f'{found["compile_seconds"]:.1f}',
      f'{found["compile_over_adamw"]:.2f}',
    ]
    for kind in ('update', 'step')
    for name, found in result[kind].items()
  ]
  heads = ['compiled', 'equations', 'over AdamW', 'seconds', 'over AdamW']
  return tabulate.tabulate(rows, heads, 'github', disable_numparse=True)


def count_eager_compilations(
  tx: optax.GradientTransformation, params: Any, num_calls: int = 3
) -> list[int]:
  """Programs that each call of `tx.update` compiles, outside of `jit`."""
  counts = []
  grads = jax.tree.map(jnp.ones_like, params)
  state = tx.init(params)
  for _ in range(num_calls):
    with _CompilationLog() as log:
      _, state = jax.block_until_ready(tx.update(grads, state, params))
    counts.append(log.count)
  return counts


class _CompilationLog(logging.Handler):
  """Counts the programs that are compiled, which JAX then does not print."""

  def __init__(self):
    super().__init__()
    self.count = 0
    self._logger = logging.getLogger('jax')

  def emit(self, record):
    self.count += record.getMessage().startswith(_COMPILED)

  def __enter__(self):
    self._log_compiles = jax.log_compiles()
    self._log_compiles.__enter__()
    self._propagate = self._logger.propagate
    self._logger.propagate = False
    self._logger.addHandler(self)
    return self

  def __exit__(self, *error):
    self._logger.removeHandler(self)
    self._logger.propagate = self._propagate
    self._log_compiles.__exit__(*error)


def measure_eager() -> dict[str, int]:
  """Programs that the third update compiles, on a small tree."""
  params = {'kernel': jnp.ones((8, 16)), 'bias': jnp.zeros(16)}
  adam = optax.adam(1e-3)
  recipe = transforms.Recipe(sparsity=0.5, prune_steps=100)
  variants = {
    'apply_if_finite(adam)': optax.apply_if_finite(adam, 3),
    'ours': transforms.hq(adam, recipe),
  }
  return {
    name: count_eager_compilations(tx, params)[-1]
    for name, tx in variants.items()
  }
