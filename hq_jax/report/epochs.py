"""Plots over the epochs of a run: phases, and what one epoch looks like."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib import axes as axes_lib
from matplotlib import ticker

from hq_jax import config as config_lib

_COLOURS = {'dense': '#EEEEEE', 'prune': '#DCEAF5', 'ternary': '#FCEBD2'}


class Phase(NamedTuple):
  """A run of epochs of one kind.

  Attributes:
    name: dense, prune or ternary.
    start: the epoch after which it began, from 0.
    end: its last epoch.
  """

  name: str
  start: float
  end: float


def find_phases(history: Sequence[Mapping[str, Any]]) -> list[Phase]:
  """The runs of epochs with the same phase."""
  phases: list[Phase] = []
  for row in history:
    if phases and phases[-1].name == row['phase']:
      phases[-1] = phases[-1]._replace(end=row['epoch'])
    else:
      start = phases[-1].end if phases else row['epoch'] - 1
      phases.append(Phase(row['phase'], start, row['epoch']))
  return phases


def shade_phases(
  axes: axes_lib.Axes,
  history: Sequence[Mapping[str, Any]],
  labels: bool = True,
  quantizer: str = config_lib.OURS,
) -> None:
  """Shades the phases behind a plot over epochs, and names them above it."""
  axes.set_xlabel('epoch')
  if not history:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(
      0.5,
      0.5,
      'no epoch was recorded',
      transform=axes.transAxes,
      ha='center',
      bbox={'facecolor': 'white', 'linewidth': 0},
    )
    return
  phases = find_phases(history)
  first, last = phases[0].start, phases[-1].end
  axes.set_xlim(first, last)
  axes.xaxis.set_major_locator(_locator())
  raised = False
  for phase in phases:
    axes.axvspan(
      phase.start,
      phase.end,
      color=_COLOURS[phase.name],
      linewidth=0,
      zorder=0,
    )
    # Two short phases side by side: their names would touch.
    raised = phase.end - phase.start < 0.12 * (last - first) and not raised
    if labels:
      axes.annotate(
        quantizer if phase.name == 'ternary' else phase.name,
        ((phase.start + phase.end) / 2, 1),
        xycoords=axes.get_xaxis_transform(),
        xytext=(0, 14 if raised else 3),
        textcoords='offset points',
        ha='center',
        fontsize=9,
        color='#444444',
      )


def get_marker(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """How to draw what a single epoch would leave without a line."""
  return {'marker': 'o', 'clip_on': False} if len(history) == 1 else {}


def _locator() -> ticker.Locator:
  return ticker.MaxNLocator('auto', steps=[1, 2, 5, 10], integer=True)
