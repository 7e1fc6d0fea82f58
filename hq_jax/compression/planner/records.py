"""The plan of a file: encodings and sparsities of its kernels."""

from typing import NamedTuple

_UNUSED_FRACTION = 0.01  # of a file: a target that leaves more is not filled


class LayerPlan(NamedTuple):
  """What becomes of one kernel.

  Attributes:
    encoding: 'ternary', 'int8' or 'float16'; or another quantizer's name.
    sparsity: the fraction of zeros that is wanted; 0 where none is.
    num_bytes: of its codes or values in the file, predicted.
    cosine_distance: between the kernel and what the file holds of it, the mean
      over its output channels.
    layer_axes: along which axes layers are stacked in it.
  """

  encoding: str
  sparsity: float
  num_bytes: int
  cosine_distance: float
  layer_axes: tuple[int, ...] = ()


class Plan(NamedTuple):
  """What a file is made of.

  `predicted_bytes = fixed_bytes + sum(layer.num_bytes)`.

  Attributes:
    layers: by path of the kernel inside params.
    predicted_bytes: of the file: with codes that are drawn independently an
      upper bound, within 1% of the file that results.
    fixed_bytes: what is no kernel: header, scales, norms, container.
    dense_bytes: float32 bytes of all parameters and statistics.
    target_bytes: that the file may have; None where there is no target.
  """

  layers: dict[str, LayerPlan]
  predicted_bytes: int
  fixed_bytes: int
  dense_bytes: int
  target_bytes: int | None = None


def sparsities(plan: Plan) -> dict[str, float]:
  """The fraction of zeros in each kernel that is to be ternary.

  >>> layers = {'a': LayerPlan('ternary', 0.5, 3, 0.2),
  ...           'b': LayerPlan('int8', 0.0, 9, 0.0)}
  >>> sparsities(Plan(layers, 20, 8, 100))
  {'a': 0.5}

  Args:
    plan: of `plan` or `predict`.

  Returns:
    Fractions by path.
  """
  return {
    path: plan.layers[path].sparsity for path in with_encoding(plan, 'ternary')
  }


def with_encoding(plan: Plan, encoding: str) -> tuple[str, ...]:
  """The kernels that are to have an encoding.

  >>> layers = {'a': LayerPlan('ternary', 0.5, 3, 0.2),
  ...           'b': LayerPlan('int8', 0.0, 9, 0.0)}
  >>> with_encoding(Plan(layers, 20, 8, 100), 'int8')
  ('b',)

  Args:
    plan: of `plan` or `predict`.
    encoding: 'ternary', 'int8' or 'float16'.

  Returns:
    Their paths, in the order of the plan.
  """
  return tuple(
    path for path, layer in plan.layers.items() if layer.encoding == encoding
  )


def describe(plan: Plan) -> str:
  """A line about a plan.

  >>> layers = {'a': LayerPlan('ternary', 0.5, 3, 0.2),
  ...           'b': LayerPlan('ternary', 0.75, 3, 0.2),
  ...           'c': LayerPlan('int8', 0.0, 9, 0.0)}
  >>> describe(Plan(layers, 4000, 8, 100_000))
  '50.0% to 75.0% zeros in 2 ternary kernels, 1 in int8; at most 4,000 of \
100,000 bytes (25.0x)'

  Args:
    plan: with a kernel or more.

  Returns:
    Text without a line break.
  """
  parts = []
  if zeros := sparsities(plan).values():
    parts = [f'{max(zeros):.1%} zeros in {len(zeros)} ternary kernels']
    if min(zeros) < max(zeros):
      parts = [f'{min(zeros):.1%} to {parts[0]}']
  others = {layer.encoding for layer in plan.layers.values()} - {'ternary'}
  for encoding in sorted(others, reverse=True):
    parts.append(f'{len(with_encoding(plan, encoding))} in {encoding}')
  text = (
    f'{", ".join(parts)}; at most {plan.predicted_bytes:,} of'
    f' {plan.dense_bytes:,} bytes'
    f' ({plan.dense_bytes / plan.predicted_bytes:.1f}x)'
  )
  unused = (plan.target_bytes or 0) - plan.predicted_bytes
  if unused > _UNUSED_FRACTION * plan.predicted_bytes:
    text += f'; the target leaves {unused:,} bytes that no kernel can use'
  return text
