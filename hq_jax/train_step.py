"""One step of training."""

from collections.abc import Callable

from flax import linen as nn
import jax
import optax

from hq_jax import metrics
from hq_jax import train_state

Batch = dict[str, jax.Array]
TrainStep = Callable[
  [train_state.TrainState, Batch], tuple[train_state.TrainState, metrics.Sums]
]


def make_train_step(
  model: nn.Module,
  tx: optax.GradientTransformation,
  *,
  label_smoothing: float = 0.0,
) -> TrainStep:
  """Makes the step: loss, gradient, update, batch statistics.

  It knows nothing of quantization: the gradient is taken at the parameters
  that the state holds, and `tx` says what becomes of it.

  Args:
    model: a Flax module with batch norms.
    tx: the optimizer that made the state.
    label_smoothing: the mass that is spread over all classes, in [0, 1).

  Returns:
    A compiled function from state and batch (`image`, `label`) to the next
    state and the sums of the batch. The state that it is given is consumed.
  """

  def train_step(state, batch):
    def loss_fn(params):
      logits, updated = model.apply(
        {'params': params, 'batch_stats': state.batch_stats},
        batch['image'],
        train=True,
        mutable=['batch_stats'],
      )
      sums = metrics.classification_sums(
        logits, batch['label'], label_smoothing=label_smoothing
      )
      total, count = sums['loss']
      return total / count, (sums, updated['batch_stats'])

    grads, (sums, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    state = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=batch_stats,
      opt_state=opt_state,
    )
    return state, sums

  return jax.jit(train_step, donate_argnums=0)
