"""What is measured when an epoch ends: the bias of its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax.data import train_batches
from hq_jax.runtime import sharding
from hq_jax.training import epoch_ends
from hq_jax.training import train
from hq_jax.training import train_state
from tests import jobs

KERNELS = {'dense1/kernel', 'head/kernel'}

pytestmark = pytest.mark.usefixtures('quick')


@pytest.fixture(scope='module')
def make_job(tmp_path_factory, data_dir):
  """Returns a function that makes the job of a small perceptron."""
  with jobs.preparing() as prepare:

    def make(**fields):
      fields = {
        **jobs.PERCEPTRON,
        'recipe.sparsity': 0.5,
        'prune.epochs': 0,
        'seed': 3,
        **fields,
      }
      config = jobs.get_config(data_dir, **fields)
      return prepare(config, tmp_path_factory.mktemp('epoch_ends') / 'run')

    yield make


@pytest.fixture(scope='module')
def states(make_job):
  """A job, its dense state, and that after a step with ternary weights."""
  job = make_job(measure_bias=True)
  dense = train_state.init(
    job.model, optax.identity(), jax.random.key(0), (8, 8, 1), job.mesh
  )
  stage = train.make_compress_stage(job)
  state = train_state.restart(dense, stage.tx, job.mesh)

  @jax.jit
  def step(state):
    zero = jax.tree.map(jnp.zeros_like, state.params)
    updates, opt_state = stage.tx.update(zero, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return state.replace(params=params, opt_state=opt_state)

  return job, dense, step(state)


def _loss(params, images, labels):
  """Of the perceptron in training, with the mean and variance of the batch."""
  x = images.reshape(len(images), -1) @ params['dense1']['kernel']
  x = (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5)
  x = x * params['norm1']['scale'] + params['norm1']['bias']
  logits = jnp.maximum(x, 0) @ params['head']['kernel'] + params['head']['bias']
  log_p = logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
  return -log_p[jnp.arange(len(labels)), labels].mean()


def _get_batch(job):
  """The first of a pass over the images as they are, neither shifted."""
  batches = train_batches.make_train_iterator(
    job.dataset, batch_size=job.config.batch_size, seed=job.config.seed
  )
  return next(batches)


def test_the_bias_is_that_between_parameters_and_latents(states):
  job, _, state = states
  found = epoch_ends.make_watch(job)(state)['ste_bias']
  batch = _get_batch(job)
  gradient = jax.jit(jax.grad(_loss))
  params, opt_state = sharding.to_host((state.params, state.opt_state))
  one = gradient(params, batch['image'], batch['label'])
  # The weights that are not quantized are the same in both.
  latents = jax.tree.map(
    lambda p, w: p if isinstance(w, optax.MaskedNode) else w,
    params,
    opt_state.latents,
    is_leaf=lambda node: isinstance(node, optax.MaskedNode),
  )
  other = gradient(latents, batch['image'], batch['label'])
  assert found.keys() == KERNELS
  for path, value in found.items():
    module, leaf = path.split('/')
    assert (params[module][leaf] == 0).mean() == 0.5
    a, b = (np.float64(tree[module][leaf]).ravel() for tree in (one, other))
    wanted = 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert value.dtype == jnp.float32 and wanted > 0.01
    assert float(value) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.slow
def test_dense_weights_have_no_bias(states):
  job, dense, _ = states
  found = epoch_ends.make_watch(job)(dense)['ste_bias']
  assert found.keys() == KERNELS
  assert all(abs(float(value)) < 1e-6 for value in found.values())


def test_it_is_measured_where_it_was_asked_for(make_job, states):
  _, dense, _ = states
  found = jax.eval_shape(epoch_ends.make_watch(make_job()), dense)
  assert found.keys() == {'cosine_distance', 'sparsity', 'dead_channels'}
