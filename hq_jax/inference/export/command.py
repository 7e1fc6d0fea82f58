"""The command that converts a file: the formats and their options."""

from collections.abc import Callable, Mapping
import os
import pathlib
from typing import Any, NamedTuple

from hq_jax.inference.export import conversions
from hq_jax.inference.web import export as web_export
from hq_jax.runtime import atomic_write


class _Format(NamedTuple):
  """What a format is called, takes, and is written by.

  `write` takes a model's path, that of the output, and the options; it returns
  what is to be said.
  """

  ending: str
  write: Callable[..., str]
  options: tuple[str, ...] = ()
  is_folder: bool = False


def _write_file(
  convert: Callable[..., bytes], describe: Callable[[bytes], str] | None = None
) -> Callable[..., str]:
  def write(model: str, path: str, **options: Any) -> str:
    content = convert(model, **options)
    atomic_write.write_bytes(path, content)
    size = os.path.getsize(model)
    said = (
      f'{path}: {len(content):,} bytes, {len(content) / size:.2f} times the'
      f' {size:,} of {model}'
    )
    return f'{said}\n{describe(content)}' if describe else said

  return write


def _describe_kernels(content: bytes) -> str:
  """Says in a line which kernels are of another type than most."""
  groups = conversions.list_kernels(content)
  most = max(groups, key=lambda name: len(groups[name]))
  texts = [f'{len(groups.pop(most))} in {most}']
  texts += [f'{", ".join(layers)} in {name}' for name, layers in groups.items()]
  return f'kernels: {"; ".join(texts)}'


def _write_web(model: str, path: str, **options: Any) -> str:
  return web_export.format_sizes(
    path, web_export.export(model, path, **options)
  )


_FORMATS = {
  'onnx': _Format(
    '.onnx',
    _write_file(conversions.to_onnx, _describe_kernels),
    ('weights', 'activations', 'calibrate', 'raw_input'),
  ),
  'torch': _Format('.safetensors', _write_file(conversions.to_safetensors)),
  'stablehlo': _Format('.stablehlo', _write_file(conversions.to_stablehlo)),
  'web': _Format('.web', _write_web, ('runtime',), is_folder=True),
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
  """Writes a file or a folder beside a file, and says how large it is.

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
  if form.is_folder and force:
    raise ValueError(f'force is given, but --to {to} replaces no folder')
  if not form.is_folder:
    _check_output(path, model, force)
  return form.write(model, path, **options)


def _check_output(path: str, model: str, force: bool) -> None:
  if not os.path.lexists(path):
    return
  if os.path.exists(model) and os.path.samefile(path, model):
    raise ValueError(f'output is {path}, wanted another file than the model')
  if not force:
    raise ValueError(f'output is {path}, which exists; --force replaces it')
  if not os.path.isfile(path):
    raise ValueError(f'output is {path}, which is no file')
