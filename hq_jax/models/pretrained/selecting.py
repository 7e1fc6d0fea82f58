"""Selection of a network's weights among all that a file holds."""

from collections.abc import Collection, Iterator, Mapping, Sequence
import re
from typing import NamedTuple

import numpy as np

from hq_jax.core import torch_names as names
from hq_jax.models.pretrained import words

State = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]

_UNUSED = 'num_batches_tracked'
# What an average of weights is called.
_AVERAGE = re.compile(r'(?<![a-z])(ema|swa|averaged?)(?![a-z])', re.IGNORECASE)
# Beside the weights in a `torch.optim.swa_utils.AveragedModel`.
_COUNT, _AVERAGED = 'n_averaged', 'module.'
# Of `torch.nn.utils.prune`.
_ORIGINAL, _MASK = '_orig', '_mask'
# The modules before a name: more are those of no network.
_MAX_DEPTH = 32


class Selection(NamedTuple):
  """The weights of a network.

  Attributes:
    state: by the network's own names, and what else is among them.
    naming: of these names.
    note: where in the file they are, and what there is left out, in words.
  """

  state: State
  naming: names.Naming
  note: str


def get_head_root(naming: names.Naming) -> str:
  """The name under which all layers of a head are: `classifier` for `.1`."""
  return naming('head').partition('.')[0]


def select(
  state: Mapping[str, np.ndarray],
  wanted: Sequence[tuple[names.Naming, Shapes]],
  *,
  new_head: bool,
) -> Selection:
  """Selects what fits the network best.

  The names of a network may all begin with any prefix, such as `module.` or
  `state_dict.model.`: the one is taken under which most of them are there, in
  the network's shapes. Of equal ones a moving average goes first, then what
  comes first in the file. A head may stand outside of it.

  Args:
    state: all arrays of a file.
    wanted: the shapes of a network by its names under each naming.
    new_head: whether the head is left out, of however many layers.

  Returns:
    The weights; of a network that is not there, as they are.
  """
  state, num_masked = _apply_masks(state)
  state = {n: x for n, x in state.items() if n.rpartition('.')[2] != _UNUSED}
  prefix, naming, shapes = _find(state, wanted)
  root = get_head_root(naming)
  is_head = lambda name: name.partition('.')[0] == root
  found = {
    name.removeprefix(prefix): name for name in state if name.startswith(prefix)
  }
  if new_head:
    found = {n: there for n, there in found.items() if not is_head(n)}
  elif not any(map(is_head, found)):
    found |= _find_head(state, prefix, [n for n in shapes if is_head(n)])
  left = [name for name in state if name not in set(found.values())]
  notes = []
  if left and prefix:
    average = ' (a moving average)' if _is_average(state, prefix) else ''
    notes.append(f'those under {words.quote(prefix[:-1])}{average}')
  if num_masked:
    notes.append(f'{num_masked} pruned tensors times their masks')
  if left:
    groups = _group(left, prefix, f'{prefix}{root}')
    notes.append(f'left out: {words.list_some(groups)}')
  return Selection(
    {name: state[there] for name, there in found.items()},
    naming,
    '; '.join(notes),
  )


def _find(
  state: State, wanted: Sequence[tuple[names.Naming, Shapes]]
) -> tuple[str, names.Naming, Shapes]:
  """The prefix and the naming under which most of a network is there."""
  hits: dict[tuple[str, int], list[int]] = {}
  for index, (naming, shapes) in enumerate(wanted):
    root = get_head_root(naming)
    for name, array in state.items():
      for prefix in _list_prefixes(name):
        inside = name[len(prefix) :]
        if inside in shapes and inside.partition('.')[0] != root:
          count = hits.setdefault((prefix, index), [0, 0])
          count[0] += np.shape(array) == shapes[inside]
          count[1] += 1
  prefix, index = max(
    hits,
    key=lambda key: (*hits[key], _is_average(state, key[0])),
    default=('', 0),
  )
  return prefix, *wanted[index]


def _list_prefixes(name: str) -> Iterator[str]:
  yield ''
  for match in list(re.finditer(r'\.', name[:1000]))[:_MAX_DEPTH]:
    yield name[: match.end()]


def _is_average(state: Collection[str], prefix: str) -> bool:
  """Whether weights under a prefix are a moving average of others."""
  if _AVERAGE.search(prefix):
    return True
  return (
    prefix.endswith(_AVERAGED)
    and f'{prefix.removesuffix(_AVERAGED)}{_COUNT}' in state
  )


def _find_head(
  state: State, prefix: str, head: Sequence[str]
) -> dict[str, str]:
  """A head beside the rest of the network, in one of the modules around it."""
  while prefix:
    prefix = re.sub(r'[^.]*\.$', '', prefix)
    if any(f'{prefix}{name}' in state for name in head):
      return {n: f'{prefix}{n}' for n in head if f'{prefix}{n}' in state}
  return {}


def _group(left: Sequence[str], prefix: str, head: str) -> list[str]:
  """What was left out, by the outermost modules that hold nothing else."""
  groups: dict[str, int] = {}
  around = [*_list_prefixes(prefix)]
  for name in left:
    shared = max((x for x in around if name.startswith(x)), key=len)
    inner = name[len(shared) :].partition('.')[0]
    groups[f'{shared}{inner}'] = groups.get(f'{shared}{inner}', 0) + 1
  return [
    f'{"the head " if name == head else ""}{words.quote(name)}'
    f' ({count} tensor{"s" * (count > 1)})'
    for name, count in groups.items()
  ]


def _apply_masks(state: Mapping[str, np.ndarray]) -> tuple[State, int]:
  """Weights of `torch.nn.utils.prune`, times their masks; how many."""
  pairs = {
    f'{base}{_ORIGINAL}': f'{base}{_MASK}'
    for base in (n.removesuffix(_ORIGINAL) for n in state)
    if {f'{base}{_ORIGINAL}', f'{base}{_MASK}'} <= state.keys()
    and state[f'{base}{_ORIGINAL}'].shape == state[f'{base}{_MASK}'].shape
  }
  masks = set(pairs.values())
  found = {
    name.removesuffix(_ORIGINAL) if name in pairs else name: (
      array * state[pairs[name]] if name in pairs else array
    )
    for name, array in state.items()
    if name not in masks
  }
  return found, len(pairs)
