"""The whole method around any optax optimizer."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from hq_jax.core import schedules
from hq_jax.core import ternary
from hq_jax.core import thresholds
from hq_jax.core import trees
from hq_jax.transforms import _policies
from hq_jax.transforms import _project
from hq_jax.transforms import _prune
from hq_jax.transforms import _quantizer
from hq_jax.transforms import _recipe
from hq_jax.transforms import _reinit
from hq_jax.transforms import _straight_through
from hq_jax.transforms import _tangent
from hq_jax.transforms import _ternary


def hq(
  inner: optax.GradientTransformation,
  recipe: _recipe.Recipe,
  select: trees.Selector = trees.kernels,
  *,
  channel_axis: trees.ChannelAxis = trees.channel_axis,
  layer_axes: trees.LayerAxes = (),
  non_finite: str = 'skip',
  replaced: str = 'follow',
) -> optax.GradientTransformationExtraArgs:
  """Hyperspherical Quantization (reconstruction) around any optimizer.

  An alias: `straight_through(chain(tangent, inner, prune, reinit,
  project_to_sphere), ternary)`, each part as the recipe says. The parameters
  become dense, then pruned, then ternary; the user's loop does not change.
  Where they are ternary while their sparsity rises, it is `ternary` that
  reinitializes, with the ternary weights that it has found.

  Where the recipe projects, weight decay in `inner` does not regularize
  kernels: see `project_to_sphere`.

  >>> import jax
  >>> import jax.numpy as jnp
  >>> import optax
  >>> params = {'kernel': jnp.ones((4, 2)), 'bias': jnp.zeros(2)}
  >>> tx = hq(optax.adam(1e-2), _recipe.Recipe(sparsity=0.5))
  >>> grads = jax.tree.map(jnp.ones_like, params)
  >>> updates, state = tx.update(grads, tx.init(params), params)
  >>> params = optax.apply_updates(params, updates)
  >>> int((params['kernel'] != 0).sum())
  4

  Args:
    inner: any optax pipeline that ends in updates to be added.
    recipe: what is done when.
    select: which leaves are quantized; see `trees.select`, and
      `trees.describe` for a table of them.
    channel_axis: where their output channels are; see `trees.find_axes`.
    layer_axes: along which axes layers are stacked; see `trees.find_axes`.
    non_finite: what else happens where a gradient is NaN or infinite, which is
      never applied: nothing ('skip'), or an error that names the leaves
      ('raise'); see `straight_through`.
    replaced: what happens where parameters are not those that the last update
      led to: latents, radii and thresholds follow them ('follow'), an error
      ('raise'), or nothing ('ignore'); see `straight_through`.

  Returns:
    A transformation whose `update` needs `params`. Weights start from the
    parameters given to `init`, whose radii are kept. Its state is one float32
    copy of the selected weights, a few numbers for each channel, and the state
    of `inner`.

  Raises:
    ValueError: where `select` matches nothing or a leaf that cannot be
      quantized, the recipe's sparsities do not fit the kernels, or `params`
      is missing.
  """
  axes_of: dict[str, Any] = {
    'select': select,
    'channel_axis': channel_axis,
    'layer_axes': layer_axes,
  }

  def make(params):
    sparsity: Any = 0.0
    if not trees.is_placeholder(params):
      axes = trees.find_axes(params, select, channel_axis, layer_axes)
      sparsity = recipe.get_sparsity(trees.mask(params, axes), axes)
    return _straight_through.straight_through(
      optax.chain(*_make_parts(inner, recipe, sparsity, axes_of)),
      _make_quantizer(recipe, sparsity),
      non_finite=non_finite,
      replaced=replaced,
      **axes_of,
    )

  # By shapes, on which sparsities depend: what is compiled is compiled once.
  made: dict[Any, optax.GradientTransformationExtraArgs] = {}

  def build(params):
    leaves, treedef = jax.tree.flatten(params)
    key = treedef, tuple((np.shape(x), jnp.result_type(x)) for x in leaves)
    if key not in made:
      made[key] = make(params)
    return made[key]

  def update_fn(updates, state, params=None, **extra_args):
    if params is None:
      raise ValueError(
        'params is None, wanted the parameters: call'
        ' tx.update(grads, state, params) with hq'
      )
    return build(params).update(updates, state, params, **extra_args)

  # Refuses what it can before it is given any parameters.
  _policies.check('non_finite', non_finite, _policies.NON_FINITE)
  _policies.check('replaced', replaced, _policies.REPLACED)
  return optax.GradientTransformationExtraArgs(
    lambda params: build(params).init(params), update_fn
  )


def _make_parts(inner, recipe, sparsity, axes_of):
  """What is chained around `inner`, in its order."""
  ranking = {'scope': recipe.scope, 'unit_norm': recipe.project} | axes_of
  ramps = _make_ramps(recipe, sparsity)
  parts = [inner]
  if recipe.tangent:
    parts.insert(0, _tangent.tangent(**axes_of))
  if recipe.prune and recipe.prune_steps and not recipe.is_ramp_ternary:
    parts.append(
      _prune.prune(
        ramps,
        begin_step=recipe.begin_step,
        end_step=recipe.ternary_begin_step,
        refresh_steps=recipe.refresh_steps,
        **ranking,
      )
    )
  if recipe.reinit and recipe.prune_steps and not recipe.is_ramp_ternary:
    parts.append(
      _reinit.reinit(
        _get_stage_ends(recipe), recipe.reinit_strength, ramps, **ranking
      )
    )
  if recipe.project:
    parts.append(_project.project_to_sphere(**axes_of))
  return parts


def _get_stage_ends(recipe):
  return schedules.stage_ends(
    recipe.begin_step, recipe.prune_steps, recipe.num_stages
  )


def _make_ramps(recipe, sparsity):
  if isinstance(sparsity, dict):
    return {path: recipe.get_ramp(s) for path, s in sparsity.items()}
  return recipe.get_ramp(sparsity)


def _make_quantizer(recipe, sparsity):
  if not recipe.straight_through:
    return _quantizer.identity()
  refresh_at: tuple[int, ...] = ()
  reinit_at: tuple[int, ...] = ()
  if recipe.is_ramp_ternary:
    sparsity = _make_ramps(recipe, sparsity)
    refresh_at = (recipe.begin_step + recipe.prune_steps - 1,)
    if recipe.reinit:
      reinit_at = tuple(_get_stage_ends(recipe))
  return _ternary.ternary(
    sparsity,
    begin_step=recipe.ternary_begin_step,
    end_step=recipe.end_step,
    refresh_steps=recipe.refresh_steps,
    refresh_at=refresh_at,
    reinit_at=reinit_at,
    reinit_strength=recipe.reinit_strength,
    scope=recipe.scope,
    unit_norm=recipe.project,
  )


def latents(opt_state: Any, params: chex.ArrayTree) -> chex.ArrayTree:
  """The latent weights, with the other parameters as they are.

  >>> import jax.numpy as jnp
  >>> import optax
  >>> params = {'kernel': jnp.ones((2, 2)), 'bias': jnp.zeros(2)}
  >>> tx = hq(optax.sgd(0.1), _recipe.Recipe())
  >>> sorted(latents(tx.init(params), params))
  ['bias', 'kernel']

  Args:
    opt_state: a state that holds one of `straight_through`, at any depth.
    params: the parameters.

  Returns:
    A tree with the structure of `params`.

  Raises:
    ValueError: where the state holds no latents.
  """
  found = _find_latents(opt_state)
  return jax.tree_util.tree_map_with_path(
    lambda path, p: found.get(trees.path_string(path), p), params
  )


def with_density_scale(opt_state: Any, factor: float) -> Any:
  """Lets the ternary weights be more, or fewer, from the next refresh on.

  A kernel of sparsity `s` has `1 - (1 - s) factor` zeros, at least a third or
  `s`, from the next time its threshold is found; see `_ternary.ternary`.
  Nothing is compiled again. With it a loop controls the size of the file that
  it will write, which is known only once the codes are.

  >>> import jax.numpy as jnp
  >>> import optax
  >>> tx = hq(optax.sgd(0.1), _recipe.Recipe(sparsity=0.9))
  >>> state = with_density_scale(tx.init({'kernel': jnp.ones((20, 2))}), 1.5)
  >>> float(optax.tree.get(state, 'density_scale'))
  1.5

  Args:
    opt_state: a state that holds one of `hq`, at any depth.
    factor: over the weights that the recipe keeps, above 0.

  Returns:
    The state with this factor.

  Raises:
    ValueError: where the factor is not positive and finite, or the state holds
      none.
  """
  if not 0.0 < factor < math.inf:
    raise ValueError(f'factor is {factor}, wanted a positive number')
  found = optax.tree.get(opt_state, 'density_scale')
  if found is None:
    raise ValueError(
      'opt_state holds no density_scale, wanted the state of hq with'
      ' straight_through'
    )
  # Made from the one that is there: it keeps its sharding.
  value = jnp.full_like(found, factor)
  return optax.tree.set(opt_state, density_scale=value)


def _find_latents(opt_state: Any) -> dict[str, jax.Array]:
  # By path: a wrapper's state may not have the structure of the parameters.
  found = optax.tree.get(opt_state, 'latents')
  if found is None:
    raise ValueError('opt_state holds no latents, wanted the state of hq')
  return trees.flatten(found)


def finalize(
  opt_state: Any,
  params: chex.ArrayTree,
  recipe: _recipe.Recipe,
  *,
  requantize: bool = False,
  channel_axis: trees.ChannelAxis = trees.channel_axis,
  layer_axes: trees.LayerAxes = (),
) -> chex.ArrayTree:
  """The exact ternary tree, for export.

  Where the parameters are ternary already, these are their codes and scales,
  the same bits on any device; elsewhere (training was cut short, or
  `straight_through` is off) the latents are rounded at the recipe's sparsity.
  With `requantize` they are in any case: at a sparsity other than that of
  training, if the recipe is given another.

  >>> import jax.numpy as jnp
  >>> import optax
  >>> params = {'kernel': jnp.arange(1., 5.).reshape(4, 1)}
  >>> recipe = _recipe.Recipe(sparsity=0.5)
  >>> state = hq(optax.sgd(0.1), recipe).init(params)
  >>> finalize(state, params, recipe)['kernel'].codes
  Array([[0],
         [0],
         [1],
         [1]], dtype=int8)

  Args:
    opt_state: a state that holds one of `hq`, at any depth.
    params: the parameters.
    recipe: the one it was made with.
    requantize: whether to round the latents even where there are ternary
      weights.
    channel_axis: the one it was made with.
    layer_axes: the one it was made with.

  Returns:
    A tree with the structure of `params`, with a `TernaryTensor` in place of
    each kernel and the other leaves as they are.

  Raises:
    ValueError: where the state holds no latents, or those of another scope or
      channel axis.
  """
  found = _find_latents(opt_state)
  axes = trees.flatten(
    trees.find_axes(
      params, lambda path, leaf: path in found, channel_axis, layer_axes
    )
  )

  def rank():
    ranked = thresholds.get_thresholds(
      found,
      recipe.get_sparsity(found, axes),
      axes=axes,
      scope=recipe.scope,
      unit_norm=recipe.project,
    )
    return {
      path: ternary.ternarize(
        w,
        ranked[path],
        axes=axes[path],
        scope=recipe.scope,
        num_bits=ternary.get_scale_bits(dtypes[path]),
      )
      for path, w in found.items()
    }

  dtypes = {path: leaf.dtype for path, leaf in trees.flatten(params).items()}
  count = optax.tree.get(opt_state, 'ternary_count')
  if count is None or requantize:
    tensors = rank()
  else:
    (count,) = jax.tree.leaves(count)
    tensors = jax.lax.cond(
      count > recipe.ternary_begin_step,
      lambda: _trained(opt_state, found, axes, recipe.scope),
      rank,
    )
  return jax.tree_util.tree_map_with_path(
    lambda path, p: tensors.get(trees.path_string(path), p), params
  )


def _trained(
  opt_state: Any,
  found: dict[str, jax.Array],
  axes: dict[str, trees.Axes],
  scope: str,
) -> dict[str, ternary.TernaryTensor]:
  """Codes by the stored thresholds and norms, and the stored scales."""
  record = optax.tree.get(opt_state, 'thresholds')
  grouped = thresholds.parse_scope(scope) is not None
  if grouped != isinstance(record, thresholds.Quota):
    raise ValueError(
      f'recipe.scope is {scope!r}, wanted that of the recipe that opt_state was'
      ' made with'
    )
  # Flat: a wrapper's state may not have the structure of the parameters.
  last = thresholds.join(
    type(record)(
      *[field if field is None else trees.flatten(field) for field in record]
    )
  )
  scales = trees.flatten(optax.tree.get(opt_state, 'scales'))
  result = {}
  for path, w in found.items():
    kept = axes[path].kept
    codes = ternary.get_codes_at(w, last[path], axes=axes[path], scope=scope)
    if scales[path].shape != tuple(
      n if axis in kept else 1 for axis, n in enumerate(w.shape)
    ):
      raise ValueError(
        f'channel_axis and layer_axes of {path} are {kept}, wanted those of hq:'
        f' its scales have shape {scales[path].shape}'
      )
    codes = codes.astype(jnp.int8)
    result[path] = ternary.TernaryTensor(codes, scales[path])
  return result
