"""Post-training compression: an artifact in one call, without training.

What training reaches at the same size is better; this needs no data.
"""

from collections.abc import Mapping
import functools
import re
from typing import Any
import warnings

import jax
import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.artifact import model as model_lib
from hq_jax.compression import known_networks
from hq_jax.compression import nesting
from hq_jax.compression import planner
from hq_jax.compression import rate_control
from hq_jax.compression.planner import allocation
from hq_jax.compression.planner import overhead
from hq_jax.compression.planner import size_prediction
from hq_jax.core import qtensors
from hq_jax.core import ternary
from hq_jax.core import thresholds
from hq_jax.core import trees

# Without a target, a kernel with less than this share of all kernels' weights
# is int8: it adds less than 0.5% to the file.
_SMALL_FRACTION = 1e-3

_MIN_FILL = 0.99  # of the bytes that a target leaves


def compress(
  variables: Any,
  *,
  target_ratio: float | None = None,
  sparsity: float | Mapping[str, float] | None = None,
  select: trees.Selector = trees.kernels,
  channel_axis: trees.ChannelAxis = trees.channel_axis,
  layer_axes: trees.LayerAxes | None = None,
  max_error: float = 1e-3,
  model: str = '',
  model_arguments: Mapping[str, Any] = {},
  input_shape: tuple[int, ...] = (1,),
  preprocessing: Mapping[str, Any] = {},
  class_names: tuple[str, ...] = (),
  norms: Mapping[str, float] | None = None,
  pairs: Mapping[str, str] | None = None,
) -> artifact_lib.Artifact:
  """Makes the kernels of a trained network ternary, or int8.

  A ternary kernel becomes `r_j t_j / sqrt(k_j)` in each output channel `j`, of
  the norm `r_j` that it had, with `t_j` the signs of its `k_j` largest weights:

  - without a target, those of least angle, `ternary.angular_optimum`; a kernel
    with less than 0.1% of all kernels' weights becomes int8;
  - with a `sparsity`, the largest of the whole kernel, or of each layer that is
    stacked in it, as in training (`thresholds`, scope 'layer', by unit norm);
  - with a `target_ratio`, at the sparsities and in the encodings that
    `planner.plan` finds for these very weights, corrected until the file that
    is written has at most the target's bytes and 99% of them at least, unless
    no encoding would use them, which a warning says.

  >>> kernel = np.random.default_rng(0).normal(size=(256, 128))
  >>> found = compress({'a': {'kernel': kernel}}, target_ratio=25.0)
  >>> data = artifact_lib.dumps(found)
  >>> 25.0 <= kernel.size * 4 / len(data) <= 25.3
  True
  >>> weights = artifact_lib.to_variables(artifact_lib.loads(data))['params']
  >>> weights['a']['kernel'].shape
  (256, 128)

  Args:
    variables: a Flax model's, `{'params': .., 'batch_stats': ..}`, or any tree
      of parameters alone; of finite arrays.
    target_ratio: float32 bytes of all variables over the bytes of the file,
      above 1.
    sparsity: the fraction of zeros, in [0, 1): one for all kernels, or by path
      or regular expression; see `sparsity_distributions.resolve`.
    select: which parameters are kernels, by path; see `trees.select`.
    channel_axis: where their output channels are; see `trees.find_axes`.
    layer_axes: along which axes layers are stacked in them; see
      `trees.find_axes`. Where it is by path, other tensors may match, too: each
      of their layers is within `max_error`. None for those of the model.
    max_error: the largest relative error, `||x - x'|| / ||x||`, of each tensor
      that is no such kernel: it becomes int8, float16 or float32, the shortest
      within it (norms and statistics no int8).
    model: the name of a network of `models`, whose variables these are: then
      the next three are needed, and `hq_jax.load` uses the file. With another
      name or none, it is a file of weights, and all of them are taken down.
    model_arguments: the network's, as `models.build` takes them; plain JSON.
    input_shape: of one example: of an image (height, width, channels).
    preprocessing: what is done to an image, plain JSON: 'mean' and 'std' of the
      pixels, for each channel, and what else `docs/format.md` lists.
    class_names: by label; none for numbers.
    norms: path of each batch norm inside params that is to be folded to one
      scale and one bias, and its epsilon; None for those of the model.
    pairs: path of such a norm, and that of the module whose output it takes,
      unchanged: the scale of its kernel is folded, too; None for those of the
      model.

  Returns:
    An artifact, for `artifact.write` or `artifact.to_variables`.

  Raises:
    ValueError: with the field and its value; where the variables are not those
      of the model; where the ratio cannot be reached, with the reason in bytes.
  """
  if target_ratio is not None and sparsity is not None:
    raise ValueError(
      f'sparsity is {sparsity!r:.40} and target_ratio {target_ratio!r:.40},'
      ' wanted one of them at most'
    )
  if not max_error >= 0:
    raise ValueError(f'max_error is {max_error!r:.40}, wanted 0 or more')
  variables = overhead.collect(variables)
  nested = nesting.find(variables)
  for path, leaf in trees.flatten(variables).items():
    if not hasattr(leaf, '__array__'):
      raise ValueError(
        f'variables: {path} is of type {type(leaf).__name__}, wanted an array'
      )
  header = {
    'model': model,
    'model_args': dict(model_arguments),
    'input_shape': tuple(input_shape),
    'preprocessing': dict(preprocessing),
    'class_names': tuple(class_names),
  }
  known = known_networks.find(variables, header)
  layer_axes = known.layer_axes if layer_axes is None else layer_axes
  make_artifact = functools.partial(
    _make_artifact,
    header=header | {'nesting': nested},
    norms=known.norms if norms is None else norms,
    pairs=known.pairs if pairs is None else pairs,
    max_error=max_error,
    layer_axes=_find_stacks(variables['params'], layer_axes),
  )
  if target_ratio is not None:
    allocation.check_target(target_ratio)
    network = overhead.measure(
      variables,
      select=select,
      channel_axis=channel_axis,
      layer_axes=layer_axes,
      make_artifact=make_artifact,
      draw=False,
    )
    return _reach(network, target_ratio)
  params = variables['params']
  axes = trees.flatten(
    trees.find_axes(params, select, channel_axis, layer_axes)
  )
  kernels = overhead.read_kernels(params, axes)
  if sparsity is None:
    return make_artifact(variables, *_find_optima(kernels, axes))
  zeros = size_prediction.resolve_sparsity(sparsity, list(kernels))
  encoded = {
    path: _ternarize(kernels[path], s, axes[path]) for path, s in zeros.items()
  }
  return make_artifact(variables, encoded, {})


def _find_stacks(
  params: Any, layer_axes: trees.LayerAxes
) -> dict[str, tuple[int, ...]]:
  """The layer axes that are given by path, of all that matches."""
  if not isinstance(layer_axes, Mapping):
    return {}
  found: dict[str, tuple[int, ...]] = {}
  for path in trees.flatten(params):
    for pattern, axes in layer_axes.items():
      if re.fullmatch(pattern, path):
        axes = (axes,) if isinstance(axes, int) else tuple(axes)
        found.setdefault(f'params/{path}', axes)
  return found


def _reach(
  network: overhead.Network, target_ratio: float
) -> artifact_lib.Artifact:
  """Plans for a size, looks at the file that results, and plans again."""
  wanted = int(network.dense_bytes / target_ratio)
  plan = lambda budget: allocation.allocate(network, max(0, int(budget)))
  encode = lambda budget: _encode(network, plan(budget))
  found, num_bytes = rate_control.fit(encode, wanted, wanted, _MIN_FILL)
  if num_bytes > wanted:
    found = encode(0)
    num_bytes = len(artifact_lib.dumps(found))
  if num_bytes > wanted:
    least = plan(0)
    num_bytes = max(num_bytes, least.predicted_bytes)
    least = least._replace(predicted_bytes=num_bytes, target_bytes=wanted)
    raise ValueError(allocation.explain(least, target_ratio))
  if num_bytes < _MIN_FILL * wanted:
    warnings.warn(
      f'target_ratio is {target_ratio:g}, whose {wanted:,} bytes are not all'
      f' used: the file has {num_bytes:,}, and no plan that was tried has more',
      stacklevel=3,  # the caller of `compress`
    )
  return found


def _encode(
  network: overhead.Network, plan: planner.Plan
) -> artifact_lib.Artifact:
  zeros = planner.sparsities(plan)
  codes = {
    path: _ternarize(network.kernels[path], s, network.axes[path])
    for path, s in zeros.items()
  }
  int8 = {
    path: artifact_lib.quantize_int8(network.kernels[path])
    for path in planner.with_encoding(plan, 'int8')
  }
  return network.make_artifact(network.variables, codes, int8)


def _find_optima(
  kernels: Mapping[str, np.ndarray], axes: Mapping[str, trees.Axes]
) -> tuple[dict[str, qtensors.TernaryTensor], dict[str, qtensors.Int8Tensor]]:
  """The codes of least angle, and eight bits for what is small."""
  least = _SMALL_FRACTION * sum(kernel.size for kernel in kernels.values())
  codes, int8 = {}, {}
  for path, kernel in kernels.items():
    if kernel.size < least:
      int8[path] = artifact_lib.quantize_int8(kernel)
    else:
      found = _angular_optimum(kernel, axis=axes[path].kept)
      codes[path] = jax.tree.map(np.asarray, found)
  return codes, int8


_angular_optimum = jax.jit(ternary.angular_optimum, static_argnames='axis')


def _ternarize(
  kernel: np.ndarray, sparsity: float, axes: trees.Axes
) -> qtensors.TernaryTensor:
  """The largest of the whole kernel, exactly as in training."""
  return jax.tree.map(np.asarray, _ternarize_jitted(kernel, sparsity, axes))


@functools.partial(jax.jit, static_argnums=2)
def _ternarize_jitted(kernel, sparsity, axes):
  found = thresholds.get_thresholds(
    {'kernel': kernel}, sparsity, axes={'kernel': axes}
  )
  return ternary.ternarize(kernel, found['kernel'], axes=axes)


def _make_artifact(
  variables: Mapping[str, Any],
  codes: Mapping[str, qtensors.TernaryTensor],
  int8: Mapping[str, qtensors.Int8Tensor],
  *,
  header: Mapping[str, Any],
  norms: Mapping[str, float],
  pairs: Mapping[str, str],
  max_error: float,
  layer_axes: Mapping[str, tuple[int, ...]],
) -> artifact_lib.Artifact:
  folded, folded_norms = artifact_lib.fold(
    trees.flatten(variables),
    trees.in_params(codes),
    pairs,
    norms,
    _get_scale_dtype(codes),
    int8=trees.in_params(int8),
    max_error=max_error,
    layer_axes=layer_axes,
  )
  found = artifact_lib.Artifact(
    **header, tensors=folded, folded_norms=folded_norms
  )
  model_lib.validate(found)
  return found


def _get_scale_dtype(codes: Mapping[str, qtensors.TernaryTensor]) -> type:
  """float16, unless a scale is so small that it would be rounded."""
  for tensor in codes.values():
    rounded = tensor.scale.astype(np.float16).astype(np.float32)
    if np.any(rounded != tensor.scale):
      return np.float32
  return np.float16
