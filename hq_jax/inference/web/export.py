"""A folder that any web server can serve: the page, the file, the engine."""

from collections.abc import Sequence
import json
import os
import pathlib
import secrets
import shlex
import shutil
from typing import Any

from hq_jax import artifact as artifact_lib
from hq_jax.artifact import inspect
from hq_jax.artifact import reader
from hq_jax.data import normalization
from hq_jax.inference import folded_layers
from hq_jax.inference import layer as layer_lib
from hq_jax.inference import network
from hq_jax.inference import onnx_model
from hq_jax.inference.web import runtime as runtime_lib

PAGE = pathlib.Path(__file__).with_name('page')
MODEL, GRAPH = 'model.hq', 'network.onnx'


def export(
  path: str | os.PathLike[str],
  folder: str | os.PathLike[str],
  *,
  runtime: str | None = None,
) -> dict[str, int]:
  """Writes a folder that classifies pictures in the browser.

  It is made beside its place, and takes it once it is whole.

  Args:
    path: of an .hq file.
    folder: to be made; it must not exist.
    runtime: a folder with the npm package onnxruntime-web, or its `dist`; None
      to have npm download it.

  Returns:
    Bytes by what they are for: 'model.hq', 'page', 'network' (the graph without
    weights), 'onnxruntime-web'.

  Raises:
    ValueError: the file is no good one or takes no pictures, the folder exists,
      or there is no onnxruntime-web; one line.
  """
  target = os.path.abspath(folder)
  parent = os.path.dirname(target)
  if os.path.lexists(target):
    raise ValueError(
      f'output is {folder}, which exists, wanted a folder that does not'
    )
  if not os.path.isdir(parent):
    raise FileNotFoundError(f'{folder}: its folder does not exist')
  data = reader.read_bytes(path)
  with reader.naming(os.fspath(path)):
    graph, description = _describe(data, pathlib.Path(path).stem)
  temporary = os.path.join(parent, f'.hq-{secrets.token_hex(8)}.tmp')
  os.mkdir(temporary)
  try:
    sizes = _write(temporary, data, graph, description, runtime)
    os.rename(temporary, target)
  except BaseException:
    shutil.rmtree(temporary, ignore_errors=True)
    raise
  return sizes


def format_sizes(folder: str, sizes: dict[str, int]) -> str:
  """Says in lines what a visitor downloads."""
  width = max(map(len, sizes))
  lines = [f'{name:{width}}  {size:>12,} bytes' for name, size in sizes.items()]
  return '\n'.join(
    [
      *lines,
      f'{folder}: python -m http.server --directory {shlex.quote(folder)}, then'
      ' open http://localhost:8000',
    ]
  )


def _describe(data: bytes, name: str) -> tuple[bytes, dict[str, Any]]:
  """The graph of a file's network, and what the page needs to know."""
  artifact = artifact_lib.loads(data)
  normalization.check(artifact.preprocessing, artifact.input_shape)
  channels = artifact.input_shape[-1]
  if channels not in (1, 3):
    raise ValueError(
      f'input_shape is {artifact.input_shape}, wanted 1 or 3 channels: a'
      ' browser has pictures'
    )
  layers = network.read_layers(artifact)
  description = inspect.describe(data, MODEL) | {
    'name': name,
    'engine': 'browser',
    'weights': _list_weights(artifact, layers),
  }
  graph = onnx_model.make_onnx(artifact, external='weights')
  return graph, description


def _list_weights(
  artifact: artifact_lib.Artifact, layers: Sequence[layer_lib.Layer]
) -> list[dict[str, Any]]:
  """What the graph's weights are made of, in their order.

  Of a layer with a kernel, its shape and the paths of the three, null where
  there is none; of others, the path of each tensor. Where a tensor holds those
  of several layers, `place` says which.
  """
  folded = folded_layers.fold_layers(artifact, layers)
  norms = {
    layer.inputs[0]: network.get_path(layer, '')
    for layer in layers
    if layer.op == 'norm'
  }
  found: list[dict[str, Any]] = []
  for layer in layers:
    tensors = layer_lib.list_tensors(layer)
    if layer.name in folded:
      bias = network.get_path(layer, '/bias') if layer.bias else None
      part = {
        'kernel': network.get_path(layer, '/kernel'),
        'shape': folded[layer.name].codes.shape,
        'bias': bias,
        'norm': norms.get(layer.name),
      }
      found.append(part | {'place': layer.place})
    elif layer.op != 'norm':
      for leaf in tensors:
        path = network.get_path(layer, leaf)
        found.append({'values': path, 'place': layer.place})
  return found


def _write(folder, data, graph, description, runtime) -> dict[str, int]:
  shutil.copytree(PAGE, folder, dirs_exist_ok=True)
  engine = os.path.join(folder, 'runtime')
  os.mkdir(engine)
  runtime_lib.copy(engine, runtime)
  sizes = {
    MODEL: len(data),
    'page': _count_bytes(PAGE),
    'network': len(graph),
    'onnxruntime-web': _count_bytes(engine),
  }
  text = json.dumps(description | {'downloads': sizes}, sort_keys=True)
  for name, content in (
    (MODEL, data),
    (GRAPH, graph),
    ('model.json', text.encode()),
  ):
    with open(os.path.join(folder, name), 'wb') as file:
      file.write(content)
  return sizes


def _count_bytes(folder: str | os.PathLike[str]) -> int:
  paths = pathlib.Path(folder).rglob('*')
  return sum(path.stat().st_size for path in paths if path.is_file())
