"""The policy of which steps stay on the disk."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

from orbax.checkpoint import checkpoint_managers


@dataclasses.dataclass(frozen=True)
class KeepPolicy(checkpoint_managers.PreservationPolicy):
  """Keeps the newest steps, some for good, and the best.

  Attributes:
    newest: how many of the newest steps stay.
    every: steps that are multiples of it stay; None for none.
    get_score: from a step to what can be compared, the best step has the
      greatest; None for a step that does not compete. Without it none does.
  """

  newest: int
  every: int | None = None
  get_score: Callable[[int], Any] | None = None

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    """Says of each step whether it stays."""
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    kept = set(sorted(steps)[-self.newest :])
    if self.every is not None:
      kept |= {step for step in steps if step % self.every == 0}
    if self.get_score is not None:
      scores = {step: self.get_score(step) for step in steps}
      competing = [step for step in steps if scores[step] is not None]
      kept |= set(sorted(competing, key=scores.__getitem__)[-1:])
    return [step in kept for step in steps]
