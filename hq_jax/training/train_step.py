"""One step of training."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import optax

from hq_jax.core import finite as finite_lib
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
  is_fsdp = mesh is not None and sharding.is_fsdp(mesh)

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

  def train_step(state, batch, teacher: Any = None):
    if is_mixed:
      images, targets, labels = mix(batch, state.step)
    else:
      images, targets, labels = batch['image'], None, batch['label']
    teacher_logits: Any = None
    if teacher is not None:
      teacher_logits = model.apply(whole(teacher), images, train=False)

    def loss_fn(params):
      logits, updated = model.apply(
        {'params': whole(params), 'batch_stats': state.batch_stats},
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
          distill_weight=distill_weight,
          temperature=temperature,
        ),
      )
      total, count = sums['loss']
      return total / count, (sums, updated['batch_stats'])

    # Gathered weights are gathered again for the backward pass, not kept.
    loss = jax.checkpoint(loss_fn, policy=_keep_local) if is_fsdp else loss_fn
    grads, (sums, batch_stats) = jax.grad(loss, has_aux=True)(state.params)
    grads = in_place(grads)
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
      new, sums = finite_lib.choose(jnp.all(finite), (new, sums), kept)
    return in_place(new), whole(sums), whole(finite)

  return jax.jit(train_step, donate_argnums=0)


def _keep_local(primitive, *_, **__) -> bool:
  """Says of a value of the forward pass whether the backward pass may have it.

  By the name of what is gathered, `checkpoint_name` would not do: it keeps the
  value from before the name.
  """
  return primitive.name != 'sharding_constraint'
