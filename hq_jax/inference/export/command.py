"""The command that converts a file: the formats and their options."""

from collections.abc import Callable, Mapping
import os
import pathlib
from typing import Any, NamedTuple

from hq_jax.inference.export import conversions
from hq_jax.runtime import atomic_write


class _Format(NamedTuple):
  """What a format is called, takes, and is made by."""

  ending: str
  convert: Callable[..., bytes]
  options: tuple[str, ...] = ()


_FORMATS = {
  'onnx': _Format(
    '.onnx',
    conversions.to_onnx,
    ('weights', 'activations', 'calibrate', 'raw_input'),
  ),
  'torch': _Format('.safetensors', conversions.to_safetensors),
  'stablehlo': _Format('.stablehlo', conversions.to_stablehlo),
}
NAMES = tuple(_FORMATS)


def export_file(
  model: str,
  to: str,
  *,
  output: str | None = None,
  force: bool = False,
  options: Mapping[str, Any],
) -> str:
  """Writes a file beside another, and says how large it is.

  `options` holds those that were given.
  """
  if to not in _FORMATS:
    raise ValueError(f'to is {to!r}, wanted one of: {", ".join(_FORMATS)}')
  form = _FORMATS[to]
  for name, value in options.items():
    if name not in form.options:
      takes = ', '.join(form.options) or 'none'
      raise ValueError(
        f'{name} is {value!r:.80}, but --to {to} takes no such option; wanted'
        f' one of: {takes}'
      )
  path = output or os.fspath(pathlib.Path(model).with_suffix(form.ending))
  _check_output(path, model, force)
  content = form.convert(model, **options)
  atomic_write.write_bytes(path, content)
  size = os.path.getsize(model)
  return (
    f'{path}: {len(content):,} bytes, {len(content) / size:.2f} times the'
    f' {size:,} of {model}'
  )


def _check_output(path: str, model: str, force: bool) -> None:
  if not os.path.lexists(path):
    return
  if os.path.exists(model) and os.path.samefile(path, model):
    raise ValueError(f'output is {path}, wanted another file than the model')
  if not force:
    raise ValueError(f'output is {path}, which exists; --force replaces it')
  if not os.path.isfile(path):
    raise ValueError(f'output is {path}, which is no file')
