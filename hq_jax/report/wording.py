"""Wording of the report, by the quantizer of the run."""

from collections.abc import Mapping, Sequence
from typing import Any

from hq_jax import config as config_lib


def get_quantizer(config: Mapping[str, Any]) -> str:
  """What the weights became, as a config calls it."""
  return config.get('quantizer', {}).get('name', config_lib.OURS)


def clean_history(
  history: Sequence[Mapping[str, Any]], quantizer: str
) -> list[dict[str, Any]]:
  """Leaves out the distances that say nothing.

  Dense weights have a distance to the ternary point that they will go to, at
  the sparsity that is known before. To those of another quantizer they have
  none: what the network computes with are the latent weights.
  """
  rows = [dict(row) for row in history]
  for row in rows:
    if quantizer != config_lib.OURS and row['phase'] == 'dense':
      row['cosine_distance'] = dict.fromkeys(row['cosine_distance'])
  return rows


def describe_origin(quantizer: str) -> str:
  """A sentence about what made the file."""
  method = "Hyperspherical Quantization from the paper's abstract"
  if quantizer == config_lib.OURS:
    return f'Made by a reconstruction of {method}.'
  return (
    f'Made with the quantizer `{quantizer}`, to be compared with a'
    f' reconstruction of {method}.'
  )


def describe_epochs(report: Mapping[str, Any]) -> str:
  """A sentence about how long the two networks that are compared were trained.

  The compressed network goes on from the dense one, and has more epochs. It is
  empty where the history is.
  """
  phases = [row['phase'] for row in report['history']]
  if not phases:
    return ''
  dense = phases.count('dense')
  more = len(phases) - dense
  pretrained = report['config'].get('pretrained')
  begin = ' from pretrained weights' if pretrained else ''
  return (
    f'The dense network had {dense} epoch{"s" * (dense != 1)}{begin}, the'
    f' one in the file those and {more} more; after all {dense + more} the'
    ' dense one may be more accurate.'
  )


def describe_target(report: Mapping[str, Any]) -> str:
  """A sentence where the file misses its target or leaves bytes of it unused.

  It is empty otherwise.
  """
  target, num_bytes = report.get('target_bytes'), report['file_bytes']
  if target is None:
    return ''
  if num_bytes > target:
    return (
      f'The file does not fit its target of {target:,} bytes: it has'
      f' {num_bytes - target:,} more.'
    )
  unused = target - num_bytes
  if unused > 0.01 * num_bytes:
    return f'The target leaves {unused:,} bytes that are not used.'
  return ''


def describe_layers(quantizer: str) -> str:
  """What the columns of the table of layers are."""
  code, when = 'code or index', ', at the end of training (end)'
  if quantizer == config_lib.OURS:
    code = 'code'
    when = (
      ' at the final sparsity, at the end of the dense phase (start) and of'
      ' training (end)'
    )
  return (
    f'Entropy: order 0, bits per {code}. Cosine distance: mean over channels of'
    f' 1 - cos between the latent kernel and its {quantizer} projection{when}.'
  )
