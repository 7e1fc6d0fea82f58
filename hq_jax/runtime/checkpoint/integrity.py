"""Checkpoint integrity checks: against what was saved, and what is wanted."""

from collections.abc import Mapping
import hashlib
import json
from typing import Any

import chex

from hq_jax.runtime import provenance
from hq_jax.runtime import workdir as workdir_lib
from hq_jax.runtime.checkpoint import fingerprints
from hq_jax.runtime.checkpoint import orbax_io

_NUM_SHOWN = 3  # Differences in a message.


def get_digest(data: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
  """A digest of the items that hold no arrays."""
  text = json.dumps([data, meta], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def check_fingerprints(
  found: Mapping[str, list[str]], saved: Mapping[str, list[str]]
) -> None:
  """Refuses arrays with other bits than were saved."""
  changed = [path for path in saved if found[path] != saved[path]]
  if changed:
    raise orbax_io.DamagedError(
      f'has other bits than were saved in {_list(changed, ", ", " and")}'
    )


def check_like(
  name: str, theirs: Mapping[str, str], like: chex.ArrayTree
) -> None:
  """Refuses to restore arrays of other paths, shapes or types.

  Orbax would cast to another type in silence.
  """
  ours = fingerprints.describe_types(like)
  differences = [
    f'{path} is {theirs.get(path, "not there")}, wanted'
    f' {ours.get(path, "no such array")}'
    for path in dict.fromkeys([*ours, *theirs])
    if theirs.get(path) != ours.get(path)
  ]
  if differences:
    raise ValueError(f'{name}: {_list(differences, "; ", "; and")}')


def check_config(
  name: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]
) -> None:
  """Refuses to go on with another config than that of a step.

  What the step knows and is not asked for is not compared: a dense network does
  not depend on all fields, see `workdir.of_dense`.
  """
  asked = {name: value for name, value in theirs.items() if name in ours}
  differences = workdir_lib.find_differences(asked, ours)
  if differences:
    raise ValueError(
      f'{name} is of another config: {_list(differences, "; ", "; and")}'
    )


def describe_changes(theirs: Mapping[str, str]) -> str:
  """In what this machine differs from that of a step, as far as bits go."""
  ours = provenance.get_environment()
  differences = [
    f'{name} {theirs[name]}, here {ours.get(name, "none")}'
    for name in theirs
    if theirs[name] != ours.get(name)
  ]
  return _list(differences, '; ', '; and')


def _list(items: list[str], separator: str, last: str) -> str:
  shown = separator.join(items[:_NUM_SHOWN])
  more = len(items) - _NUM_SHOWN
  return f'{shown}{last} {more} more' if more > 0 else shown
