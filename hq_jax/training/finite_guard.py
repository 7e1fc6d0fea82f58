"""Numbers that go wrong: found in the step, reported by the name of a layer."""

import collections
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from hq_jax.core import finite as finite_lib
from hq_jax.core import trees

_NUM_SHOWN = 3  # Names in a message.
_NUM_BEHIND = 2  # Steps that may be under way while older ones are looked at.


def find_finite(loss: jax.Array, grads: chex.ArrayTree) -> jax.Array:
  """What of a step is finite, inside `jit`."""
  flags = [finite_lib.is_finite(leaf) for leaf in trees.flatten(grads).values()]
  return jnp.stack([finite_lib.is_finite(loss), *flags])


def get_names(params: chex.ArrayTree) -> tuple[str, ...]:
  """What the flags of `find_finite` are of."""
  return 'loss', *(f'gradient of {path}' for path in trees.flatten(params))


def find_broken(state: Any) -> list[str]:
  """Parameters, statistics and latent weights that are not finite."""
  watched = state.variables
  latents = optax.tree.get(state.opt_state, 'latents')
  if latents is not None:
    watched = watched | {'latents': latents}
  found = jax.device_get(_are_finite(trees.flatten(watched)))
  return [path for path, finite in found.items() if not finite]


@jax.jit
def _are_finite(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
  return {path: finite_lib.is_finite(leaf) for path, leaf in leaves.items()}


class Guard:
  """Looks at every step, a few steps later, so that none is waited for.

  Args:
    names: of `get_names`.
    max_skipped: so many steps in a row may be skipped; 0 for none.

  Attributes:
    num_skipped: the steps that were skipped since this was last set to 0.
  """

  def __init__(self, names: Sequence[str], max_skipped: int):
    self._names = names
    self._max_skipped = max_skipped
    self._in_a_row = 0
    self._pending: collections.deque[tuple[int, jax.Array]] = (
      collections.deque()
    )
    self.num_skipped = 0

  def add(self, step: int, finite: jax.Array) -> None:
    """Takes what a step found, and looks at that of a step before."""
    self._pending.append((step, finite))
    while len(self._pending) > _NUM_BEHIND:
      self._look()

  def finish(self) -> None:
    """Looks at all steps so far."""
    while self._pending:
      self._look()

  def _look(self) -> None:
    step, flags = self._pending.popleft()
    finite = np.asarray(flags)
    if finite.all():
      self._in_a_row = 0
      return
    self.num_skipped += 1
    self._in_a_row += 1
    if self._in_a_row <= self._max_skipped:
      return
    broken = [
      name for name, ok in zip(self._names, finite, strict=True) if not ok
    ]
    more = len(broken) - _NUM_SHOWN
    raise FloatingPointError(
      f'step {step}: not finite: {", ".join(broken[:_NUM_SHOWN])}'
      f'{f" and {more} more" if more > 0 else ""}'
    )
