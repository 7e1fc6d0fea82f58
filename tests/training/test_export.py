"""What a job ships: amid training what it holds, at its end what fits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import artifact as artifact_lib
from hq_jax import transforms
from hq_jax.compression import planner
from hq_jax.core import qtensors
from hq_jax.training import export
from hq_jax.training import train
from hq_jax.training import train_state
from tests import jobs

pytestmark = pytest.mark.usefixtures('quick')


@pytest.fixture(scope='module')
def make_state(tmp_path_factory, data_dir):
  """Returns a function: fields and a factor to a job and a ternary state."""
  with jobs.preparing() as prepare:

    def make(density_scale=None, **fields):
      fields = {
        **jobs.PERCEPTRON,
        'model.widths': (64,),
        'prune.epochs': 0,
        **fields,
      }
      config = jobs.get_config(data_dir, **fields)
      job = prepare(config, tmp_path_factory.mktemp('shipping') / 'run')
      return job, _quantize(job, density_scale)

    yield make


def _quantize(job, density_scale):
  """Random weights, and their ternary ones after a step of the stage."""
  dense = train_state.init(
    job.model, optax.identity(), jax.random.key(0), (8, 8, 1), job.mesh
  )
  tx = train.make_compress_stage(job).tx
  state = train_state.restart(dense, tx, job.mesh)
  opt_state = state.opt_state
  if density_scale is not None:
    opt_state = transforms.with_density_scale(opt_state, density_scale)

  @jax.jit
  def step(params, opt_state):
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, opt_state = tx.update(zero, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  params, opt_state = step(state.params, opt_state)
  return state.replace(params=params, opt_state=opt_state)


def _get_codes(exported):
  return {
    path: tensor.codes
    for path, tensor in exported.tensors.items()
    if isinstance(tensor, qtensors.TernaryTensor)
  }


def _assert_equal(found, wanted):
  assert artifact_lib.dumps(found) == artifact_lib.dumps(wanted)


def test_at_the_end_the_smallest_weights_leave_until_it_fits(make_state):
  job, state = make_state(density_scale=2.5, target_ratio=20.0)
  most = job.plan.dense_bytes / 20
  before = export.export_model(job, state)
  assert len(artifact_lib.dumps(before)) > 1.05 * most
  exported = export.export_model(job, state, is_last=True)
  assert 0.95 * most < len(artifact_lib.dumps(exported)) <= most
  all_codes, codes = _get_codes(before), _get_codes(exported)
  assert codes.keys() == {'params/dense1/kernel', 'params/head/kernel'}
  for path, found in codes.items():
    held = all_codes[path]
    # None changes its sign, and the smallest latents are those that went.
    np.testing.assert_array_equal(found[found != 0], held[found != 0])
    module, leaf = path.split('/')[1:]
    w = np.abs(state.opt_state.latents[module][leaf])
    size = w / np.linalg.norm(w, axis=0)
    left = (held != 0) & (found == 0)
    assert left.any() and size[left].max() <= size[found != 0].min() + 1e-6


def test_what_fits_is_shipped_as_it_is(make_state):
  job, state = make_state(target_ratio=20.0)
  before = export.export_model(job, state)
  (sparsity,) = set(planner.sparsities(job.plan).values())
  for codes in _get_codes(before).values():
    assert np.mean(codes == 0) == pytest.approx(sparsity, abs=1 / codes.size)
  assert len(artifact_lib.dumps(before)) <= job.plan.dense_bytes / 20
  _assert_equal(export.export_model(job, state, is_last=True), before)


def test_without_a_target_nothing_leaves(make_state):
  job, state = make_state(density_scale=1.5, **{'recipe.sparsity': 0.8})
  before = export.export_model(job, state)
  for codes in _get_codes(before).values():
    # 1 - (1 - 0.8) * 1.5
    assert np.mean(codes == 0) == pytest.approx(0.7, abs=1 / codes.size)
  _assert_equal(export.export_model(job, state, is_last=True), before)


def test_another_quantizer_ships_its_records(make_state):
  job, state = make_state(**{'quantizer.name': 'binary'})
  exported = export.export_model(job, state)
  for codes in _get_codes(exported).values():
    assert (codes != 0).all()
  _assert_equal(export.export_model(job, state, is_last=True), exported)
