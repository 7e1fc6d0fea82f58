"""One step of training."""

from collections.abc import Callable
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from hq_jax.core import branches
from hq_jax.runtime import sharding
from hq_jax.training import finite_guard
from hq_jax.training import losses
from hq_jax.training import metrics
from hq_jax.training import mixing
from hq_jax.training import train_state

Batch = dict[str, jax.Array]
TrainStep = Callable[
  ..., tuple[train_state.TrainState, metrics.Sums, jax.Array]
]


def make_train_step(
  model: nn.Module,
  tx: optax.GradientTransformation,
  *,
  seed: int = 0,
  label_smoothing: float = 0.0,
  class_weights: np.ndarray | None = None,
  mixup_alpha: float = 0.0,
  cutmix_alpha: float = 0.0,
  distill_weight: float = 0.0,
  temperature: float = 1.0,
  skip_non_finite: bool = False,
  mesh: jax.sharding.Mesh | None = None,
) -> TrainStep:
  """Makes the step: loss, gradient, update, batch statistics.

  It knows nothing of quantization: the gradient is taken at the parameters
  that the state holds, and `tx` says what becomes of it.
  """
  is_mixed = mixup_alpha > 0 or cutmix_alpha > 0
  axes = sharding.get_axes(mesh)
  dtype = getattr(model, 'dtype', jnp.float32)

  def whole(tree):
    if mesh is None:
      return tree
    return jax.lax.with_sharding_constraint(tree, sharding.replicated(mesh))

  def in_place(tree):
    if mesh is None:
      return tree
    return jax.lax.with_sharding_constraint(
      tree, sharding.state_sharded(tree, mesh)
    )

  def mix(batch, step):
    images, labels = batch['image'], batch['label']
    targets = jax.nn.one_hot(labels, model.num_classes)
    key = jax.random.fold_in(jax.random.key(seed), step)
    images, targets = mixing.mix(
      key,
      images,
      targets,
      mixup_alpha=mixup_alpha,
      cutmix_alpha=cutmix_alpha,
    )
    return images, targets, jnp.argmax(targets, -1)

  def differentiate(params, teacher, batch_stats, examples, specs):
    # On one device: whole weights, and its share of the batch.
    images, targets, labels = examples
    teacher_logits: Any = None
    if teacher is not None:
      teacher = sharding.gather(teacher, specs[1], dtype)
      teacher_logits = model.apply(teacher, images, train=False)

    def loss_fn(params):
      params = sharding.gather(params, specs[0], dtype)
      logits, updated = model.apply(
        {'params': params, 'batch_stats': batch_stats},
        images,
        train=True,
        mutable=['batch_stats'],
      )
      wanted = targets
      if wanted is None:
        wanted = jax.nn.one_hot(labels, logits.shape[-1])
      sums = metrics.classification_sums(
        logits,
        labels,
        losses=losses.classification(
          logits,
          optax.smooth_labels(wanted, label_smoothing),
          teacher_logits,
          class_weights=class_weights,
          distill_weight=distill_weight,
          temperature=temperature,
        ),
      )
      sums = jax.lax.psum(sums, axes)
      total, count = sums['loss']
      return total / count, (sums, updated['batch_stats'])

    return jax.grad(loss_fn, has_aux=True)(params)

  def train_step(state, batch, teacher: Any = None):
    if is_mixed:
      examples = mix(batch, state.step)
    else:
      examples = batch['image'], None, batch['label']
    weights = state.params, teacher
    specs = sharding.state_specs(weights, mesh)
    get_grads = sharding.on_each_device(
      functools.partial(differentiate, specs=specs),
      mesh,
      (*specs, sharding.ON_ALL, sharding.batch_spec(mesh)),
      (specs[0], sharding.ON_ALL),
    )
    grads, (sums, batch_stats) = get_grads(
      *weights, state.batch_stats, examples
    )
    finite = finite_guard.find_finite(sums['loss'], grads)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    new = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=batch_stats,
      opt_state=opt_state,
    )
    if skip_non_finite:
      kept = state.replace(step=new.step), jax.tree.map(jnp.zeros_like, sums)
      new, sums = branches.choose(jnp.all(finite), (new, sums), kept)
    return in_place(new), whole(sums), whole(finite)

  return sharding.jit(train_step, mesh, donate_argnums=0)
