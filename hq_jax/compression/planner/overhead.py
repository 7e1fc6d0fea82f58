"""The bytes of a file besides its kernels, from shapes.

The layout of a file (header, scales, norms, container) depends on shapes and
encodings and hardly on values: with random ones it would be as long.
"""

from collections.abc import Callable, Iterable, Mapping
import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.artifact import layout
from hq_jax.artifact import lengths
from hq_jax.compression.planner import costs
from hq_jax.core import qtensors
from hq_jax.core import trees

MakeArtifact = Callable[
  [
    Mapping[str, Any],
    Mapping[str, qtensors.TernaryTensor],
    Mapping[str, qtensors.Int8Tensor],
  ],
  artifact_lib.Artifact,
]


class Network(NamedTuple):
  """A network that is to become a file.

  Attributes:
    variables: 'params' and other collections, of arrays or of shapes.
    kernels: by path inside params.
    axes: of the kernels, by path.
    costs: of the kernels, by path.
    dense_bytes: float32 bytes of all variables.
    make_artifact: from variables, ternary and int8 kernels by path inside
      params, to the artifact.
    draw: whether what is no kernel is drawn, or taken as it is.
  """

  variables: Mapping[str, Any]
  kernels: dict[str, Any]
  axes: dict[str, trees.Axes]
  costs: dict[str, costs.Costs]
  dense_bytes: int
  make_artifact: MakeArtifact
  draw: bool = True


def make_plain_artifact(
  variables: Mapping[str, Any],
  ternary: Mapping[str, qtensors.TernaryTensor],
  int8: Mapping[str, qtensors.Int8Tensor],
) -> artifact_lib.Artifact:
  """An artifact without a header, of the tensors as they are."""
  folded, _ = artifact_lib.fold(
    trees.flatten(variables),
    trees.in_params(ternary),
    {},
    {},
    int8=trees.in_params(int8),
  )
  return artifact_lib.Artifact('', {}, (1,), {}, (), folded, {})


def collect(variables: Any) -> Mapping[str, Any]:
  """Collections by name: a tree without 'params' is the parameters itself."""
  if isinstance(variables, Mapping) and 'params' in variables:
    return variables
  return {'params': variables}


def measure(
  variables: Any,
  *,
  select: trees.Selector = trees.kernels,
  channel_axis: trees.ChannelAxis = trees.channel_axis,
  layer_axes: trees.LayerAxes = (),
  make_artifact: MakeArtifact | None = None,
  draw: bool = True,
) -> Network:
  """Finds the kernels of a network and what each costs."""
  variables = collect(variables)
  params = variables['params']
  axes = trees.flatten(
    trees.find_axes(params, select, channel_axis, layer_axes)
  )
  kernels = read_kernels(params, axes)
  sizes = [math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(variables)]
  measure_shape = functools.cache(costs.measure)  # Many are alike.
  return Network(
    variables,
    kernels,
    axes,
    {
      path: costs.measure(kernel, axes[path])
      if hasattr(kernel, '__array__')
      else measure_shape(
        jax.ShapeDtypeStruct(kernel.shape, np.float32), axes[path]
      )
      for path, kernel in kernels.items()
    },
    4 * sum(sizes),
    make_artifact or make_plain_artifact,
    draw,
  )


def find_kernels(
  params: Any, select: trees.Selector = trees.kernels
) -> dict[str, Any]:
  """The kernels that a file can hold, by path.

  >>> list(find_kernels({'a': {'kernel': np.eye(4), 'bias': np.zeros(4)}}))
  ['a/kernel']

  Args:
    params: of arrays, or of shapes and types.
    select: which are kernels, by path; see `trees.select`.

  Returns:
    float32 NumPy arrays, or the shapes as they are.

  Raises:
    ValueError: where nothing is selected, a kernel cannot be quantized, or it
      is not finite.
  """
  return read_kernels(params, trees.flatten_selected(params, select))


def read_kernels(params: Any, paths: Iterable[str]) -> dict[str, Any]:
  """Kernels by path: finite float32 arrays, or shapes as they are."""
  kernels = {}
  leaves = trees.flatten(params)
  for path in paths:
    kernel = leaves[path]
    if hasattr(kernel, '__array__'):
      with np.errstate(over='ignore'):
        kernel = np.asarray(kernel).astype(np.float32, copy=False)
      if not np.isfinite([kernel.min(), kernel.max()]).all():
        raise ValueError(
          f'variables: {path} holds NaN, infinity or a number beyond float32,'
          ' wanted finite ones'
        )
    kernels[path] = kernel
  return kernels


def fixed_bytes(network: Network, encodings: Mapping[str, str]) -> int:
  """The bytes of the file besides its kernels': header, scales, norms.

  Those of a file of this layout, less what int8 and float16 kernels take by
  `Network.costs`. Its kernels are not made: a zero that is seen many times
  stands for their codes, and a part for whatever else is large. Values that are
  drawn differ more in size than those of a trained network, so that they
  compress less and the file that results is no larger. A network of stacked
  layers has so many that are folded into no norm, scales as well, that its own
  are taken, if they are known, and have left their initial values.
  """
  rng = np.random.default_rng(0)
  is_stacked = any(axes.layer for axes in network.axes.values())
  names = trees.in_params({path: path for path in network.kernels})
  get_part = lambda path: costs.get_part(
    network.kernels[path], network.axes[path], rng
  )

  def fill(key_path, leaf):
    path = names.get(trees.path_string(key_path))
    if path is None:
      return _get_values(leaf, rng, network.draw, is_stacked)
    if encodings[path] == 'float16':
      return np.resize(get_part(path), _shorten(leaf.shape))
    return np.broadcast_to(np.float32(0), leaf.shape)

  variables = jax.tree_util.tree_map_with_path(fill, network.variables)
  ternary, int8, int8_codes = {}, {}, {}
  scales = _find_scales(network)
  for path, kernel in network.kernels.items():
    zeros = np.broadcast_to(np.int8(0), kernel.shape)
    if encodings[path] == 'ternary':
      shape = _get_scale_shape(kernel.shape, network.axes[path])
      scale = scales.get(path, np.broadcast_to(np.float32(1), shape))
      ternary[path] = qtensors.TernaryTensor(zeros, scale)
    elif encodings[path] == 'int8':
      codes, scale = artifact_lib.quantize_int8(get_part(path))
      scale = np.resize(scale, kernel.shape[-1:])
      int8[path] = qtensors.Int8Tensor(zeros, scale)
      int8_codes[path] = codes.ravel()
  built = network.make_artifact(variables, ternary, int8)

  def get_values(run):
    path, tensor = names.get(run.path), built.tensors[run.path]
    if path in int8_codes and run.part == layout.VALUES:
      return int8_codes[path]
    values = layout.get_values(tensor, run.part)
    if path in ternary and path not in scales:
      drawn = rng.standard_normal(min(run.size, costs.NUM_IN_PART))
      return np.exp2(drawn).astype(values.dtype)
    return values

  num_bytes = lengths.predict(built, _get_specs(network, built), get_values)
  return num_bytes - sum(
    round(getattr(network.costs[path], encoding).num_bytes)
    for path, encoding in encodings.items()
    if encoding != 'ternary'
  )


def _get_specs(
  network: Network, built: artifact_lib.Artifact
) -> list[layout.Spec]:
  """Those of the whole tensors."""
  shapes = {
    path: np.shape(leaf)
    for path, leaf in trees.flatten(network.variables).items()
  }
  specs = []
  for path, tensor in built.tensors.items():
    spec = layout.spec_of(path, tensor)
    shape = shapes.get(path, spec.shape)
    if spec.shape == _shorten(shape):
      spec = spec._replace(shape=shape)
    specs.append(spec)
  return specs


def _shorten(shape: tuple[int, ...]) -> tuple[int, ...]:
  """That of a part: of all but the last axis as little as will do.

  >>> _shorten((3, 3, 64, 64)), _shorten((12, 1024, 512)), _shorten((1 << 20,))
  ((3, 3, 64, 64), (1, 256, 512), (1048576,))
  """
  found = list(shape)
  for axis in range(len(shape) - 1):
    others = math.prod(shape[axis + 1 :])
    found[axis] = min(found[axis], max(1, costs.NUM_IN_PART // max(1, others)))
  return tuple(found)


def _get_values(
  leaf: Any, rng: np.random.Generator, draw: bool, is_stacked: bool
) -> np.ndarray:
  """Those of a leaf that is no kernel, or others: of a large one, some."""
  shape = _shorten(np.shape(leaf))
  if not draw or (is_stacked and hasattr(leaf, '__array__')):
    values = np.asarray(leaf)[tuple(map(slice, shape))]
    # Or else they are, as at first, a few numbers alone.
    if not draw or 2 * len(np.unique(values)) >= values.size:
      return values
  return np.exp2(2 * rng.standard_normal(shape)).astype('f4')


def _get_scale_shape(
  shape: tuple[int, ...], axes: trees.Axes
) -> tuple[int, ...]:
  return tuple(n if axis in axes.kept else 1 for axis, n in enumerate(shape))


def _find_scales(network: Network) -> dict[str, np.ndarray]:
  """Those of ternary kernels which are taken as they are, not drawn."""
  found = {}
  for path, cost in network.costs.items():
    axes, shape = network.axes[path], network.kernels[path].shape
    if cost.scales is None or (network.draw and not axes.layer):
      continue
    order = (*axes.layer, *axes.channel)
    scales = cost.scales.reshape([shape[axis] for axis in order])
    # As `core.ternary` rounds them.
    significands, exponents = np.frexp(scales.transpose(np.argsort(order)))
    rounded = np.ldexp(np.rint(significands * 2**11), exponents - 11)
    found[path] = rounded.astype(np.float32).reshape(
      _get_scale_shape(shape, axes)
    )
  return found
