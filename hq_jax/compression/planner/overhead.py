"""The bytes of a file besides its kernels, measured on one that is built.

The layout of a file (header, scales, norms, container) depends on shapes and
encodings and hardly on values: a file with random ones is as long.
"""

from collections.abc import Callable, Iterable, Mapping
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.compression import rate_control
from hq_jax.compression.planner import costs
from hq_jax.core import qtensors
from hq_jax.core import trees

# At which the scales of known weights are taken, where none is given.
_USUAL_SPARSITY = 0.9

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
  return Network(
    variables,
    kernels,
    axes,
    {
      path: costs.measure(kernel, axes[path])
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
        kernel = np.asarray(kernel).astype(np.float32)
      if not np.isfinite(kernel).all():
        raise ValueError(
          f'variables: {path} holds NaN, infinity or a number beyond float32,'
          ' wanted finite ones'
        )
    kernels[path] = kernel
  return kernels


def fixed_bytes(
  network: Network,
  encodings: Mapping[str, str],
  sparsities: Mapping[str, float] = {},
) -> int:
  """The bytes of the file besides its kernels': header, scales, norms.

  `len(file) - sum(what the kernels cost)`, of a file of this very layout with
  random ternary codes, half of them zero, whose cost is their entropy; the
  other encodings' is that of `Network.costs`. Values that are drawn differ
  more in size than those of a trained network, so that they compress less and
  the file that results is no larger. A network of stacked layers has so many
  that are folded into no norm, scales as well, that its own are taken, if they
  are known, and have left their initial values.
  """
  rng = np.random.default_rng(0)
  is_stacked = any(axes.layer for axes in network.axes.values())
  plain = trees.in_params(
    {
      path: kernel
      for path, kernel in network.kernels.items()
      if encodings[path] != 'ternary'
    }
  )

  def fill(key_path, leaf):
    path = trees.path_string(key_path)
    if path in plain:
      plain[path] = _get_values(plain[path], rng)
      return plain[path]
    if not network.draw or (is_stacked and _is_varied(leaf)):
      return np.asarray(leaf)
    return np.exp2(2 * rng.standard_normal(leaf.shape)).astype('f4')

  variables = jax.tree_util.tree_map_with_path(fill, network.variables)
  ternary, int8, kernel_bytes = {}, {}, 0.0
  for path, kernel in network.kernels.items():
    cost = network.costs[path]
    if encodings[path] == 'ternary':
      axes = network.axes[path]
      ternary[path], num_bytes = _draw_codes(kernel.shape, axes, rng)
      kernel_bytes += num_bytes
    elif encodings[path] == 'int8':
      int8[path] = artifact_lib.quantize_int8(plain[f'params/{path}'])
      kernel_bytes += round(cost.int8.num_bytes)
    else:
      kernel_bytes += round(cost.float16.num_bytes)
  built = network.make_artifact(variables, ternary, int8)
  scales = trees.in_params(_find_scales(network, sparsities))
  found = {
    path: _draw_scale(x, scales.get(path), rng)
    for path, x in built.tensors.items()
  }
  data = artifact_lib.dumps(built._replace(tensors=found))
  return len(data) - int(kernel_bytes)


def _is_varied(leaf: Any) -> bool:
  """Whether values are known and not, as at the beginning, a few alone."""
  if not hasattr(leaf, '__array__'):
    return False
  return 2 * len(np.unique(leaf)) >= leaf.size


def _find_scales(
  network: Network, sparsities: Mapping[str, float]
) -> dict[str, np.ndarray]:
  """Those of stacked layers, where weights are known."""
  found = {}
  for path, kernel in network.kernels.items():
    axes = network.axes[path]
    if not axes.layer or not hasattr(kernel, '__array__'):
      continue
    every = set(range(kernel.ndim))
    summed = tuple(every.difference(axes.kept))
    squares = np.square(kernel, dtype=np.float64)
    norms = np.sqrt(squares.sum(summed, keepdims=True))
    unit = np.abs(kernel) / np.where(norms > 0, norms, 1)
    least = np.quantile(
      unit,
      sparsities.get(path, _USUAL_SPARSITY),
      tuple(every.difference(axes.layer)),
      keepdims=True,
    )
    counts = np.sum(unit > least, summed, keepdims=True)
    found[path] = norms / np.sqrt(np.maximum(counts, 1)) * (counts > 0)
  return found


def _draw_scale(
  tensor: artifact_lib.Tensor,
  known: np.ndarray | None,
  rng: np.random.Generator,
) -> artifact_lib.Tensor:
  """Another scale, where it was folded into no norm."""
  if not isinstance(tensor, qtensors.TernaryTensor) or tensor.scale is None:
    return tensor
  drawn = np.exp2(rng.standard_normal(tensor.scale.shape))
  drawn = drawn if known is None else known
  return tensor._replace(scale=drawn.astype(tensor.scale.dtype))


def _draw_codes(
  shape: tuple[int, ...], axes: trees.Axes, rng: np.random.Generator
) -> tuple[qtensors.TernaryTensor, float]:
  """Half of those of each layer zero, and their entropy in bytes."""
  first = [shape[axis] for axis in axes.layer]
  num_layers = math.prod(first)
  size = math.prod(shape) // num_layers
  pattern = np.tile(np.array([0, 1, 0, -1], np.int8), -(-size // 4))[:size]
  drawn = np.stack([rng.permutation(pattern) for _ in range(num_layers)])
  rest = [n for axis, n in enumerate(shape) if axis not in axes.layer]
  codes = np.moveaxis(
    drawn.reshape(*first, *rest), range(len(first)), axes.layer
  )
  scale = [n if axis in axes.kept else 1 for axis, n in enumerate(shape)]
  num_nonzero = int(np.count_nonzero(pattern))
  num_bytes = num_layers * rate_control.entropy_bytes(size, num_nonzero)
  return qtensors.TernaryTensor(codes, np.ones(scale, 'f4')), num_bytes


def _get_values(kernel: Any, rng: np.random.Generator) -> np.ndarray:
  """A kernel's own weights, or Gaussian ones where only its shape is known."""
  if hasattr(kernel, '__array__'):
    return kernel
  fan_in = max(1, math.prod(kernel.shape[:-1]))
  values = rng.standard_normal(kernel.shape, np.float32)
  return values / np.float32(fan_in) ** 0.5
