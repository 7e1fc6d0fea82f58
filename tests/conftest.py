"""Eight virtual CPU devices, and fixtures that several tests share."""

import os
import signal

import jax
from jax.experimental.compilation_cache import compilation_cache
import numpy as np
import pytest
from sklearn import datasets

from tests import compiling

# A shell that runs the tests in the background has the one ignored, `nohup` the
# other; what is ignored here is ignored by every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
  signal.signal(signal.SIGHUP, signal.SIG_DFL)

# So that what a test starts looks for no TPU, where libtpu is installed.
os.environ['JAX_PLATFORMS'] = 'cpu'
# Before the first computation: the number of devices is fixed by then.
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)


def pytest_configure(config):
  """Quick tests have more to compile than to compute; slow ones run as usual.

  What must hold of optimized programs too is compiled by `compiling.full_jit`.
  """
  if 'not slow' in config.option.markexpr:
    # In the environment, so that what a test starts has them too.
    os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
    given = os.environ.get('XLA_FLAGS', '')
    os.environ['XLA_FLAGS'] = f'{given} {compiling.QUICK_FLAGS}'.strip()
    jax.config.update('jax_disable_most_optimizations', True)


@pytest.fixture
def rng():
  """A NumPy generator, the same one for every test."""
  return np.random.default_rng(0)


@pytest.fixture(scope='session')
def digits():
  """8x8 digits, pixels in [0, 1]: 1,200 to train on, 597 to test."""
  images, labels = datasets.load_digits(return_X_y=True)
  order = np.random.default_rng(0).permutation(len(labels))
  images = (images[order] / 16).astype(np.float32)
  labels = labels[order].astype(np.int32)
  return (images[:1200], labels[:1200]), (images[1200:], labels[1200:])


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
  """Where runs find their data sets; the first that needs one makes it."""
  return tmp_path_factory.mktemp('data')


@pytest.fixture(scope='module')
def quick():
  """Programs that have more to compile than to compute."""
  before = jax.config.read('jax_disable_most_optimizations')
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', before)


@pytest.fixture(scope='session', autouse=True)
def compiled_dir(tmp_path_factory):
  """Where compiled programs are kept, by what a test starts always."""
  folder = str(tmp_path_factory.mktemp('compiled'))
  os.environ['JAX_COMPILATION_CACHE_DIR'] = folder
  return folder


@pytest.fixture(scope='module')
def compiled(compiled_dir):
  """Runs that compile the same functions anew find them on the disk."""
  options = {
    'jax_compilation_cache_dir': compiled_dir,
    'jax_persistent_cache_min_compile_time_secs': 0.0,
    'jax_persistent_cache_min_entry_size_bytes': -1,
  }
  before = {name: getattr(jax.config, name) for name in options}
  for name, value in options.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture(scope='session')
def make_mesh():
  """Returns a function: axis sizes to a mesh named d0, d1 with auto axes."""

  def make(*sizes):
    names = tuple(f'd{i}' for i in range(len(sizes)))
    return jax.make_mesh(
      sizes, names, axis_types=(jax.sharding.AxisType.Auto,) * len(sizes)
    )

  return make
