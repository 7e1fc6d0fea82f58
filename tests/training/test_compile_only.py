"""Programs compiled for TPUs that are not here."""

import importlib
import importlib.util
import math
import re
import subprocess
import sys

import jax
import pytest

from configs import resnet50
from hq_jax import config as config_lib
from hq_jax.runtime import topologies
from hq_jax.training import compile_only
from hq_jax.training import setup as setup_lib
from tests import runs

_HAS_COMPILER = importlib.util.find_spec('libtpu') is not None
_needs_compiler = pytest.mark.skipif(
  not _HAS_COMPILER, reason='libtpu is not installed'
)
_SMALL = {
  '--config.model.name': 'small_resnet',
  '--config.model.widths': '(128,256)',
  '--config.model.num_blocks': '(1,1)',
  '--config.data.image_size': '32',
}
# Bytes of bfloat16 of the kernels, the last of which is the classifier.
_KERNELS = 2 * (
  3 * 9 * 128 + 2 * 9 * 128**2 + 9 * 128 * 256 + 9 * 256**2
  + 128 * 256 + 256 * 1000
)  # fmt: skip


def _run(tmp_path, *words):
  command = [sys.executable, '-m', 'hq_jax.main', *words]
  return subprocess.run(
    [*command, f'--config.data.data_dir={tmp_path}'],
    cwd=runs.ROOT,
    capture_output=True,
    text=True,
  )


def _refuse(tmp_path, *words):
  done = _run(tmp_path, '--config=configs/resnet50.py', *words)
  assert done.returncode == 2, done
  return runs.only_line(done)


@pytest.mark.parametrize('name', ['v9:2x2', 'v5e', 'v5e:', 'v5e:2', 'v5e:axb'])
def test_another_slice_is_refused_with_those_there_are(name):
  with pytest.raises(ValueError) as caught:
    topologies.find(name)
  said = str(caught.value)
  assert said.startswith(f'compile_only is {name!r}, wanted v5e: or v6e: with')
  assert '4x8, 8x8, 8x16, 16x16; v4: or v5p: with 2x2x1' in said


@pytest.mark.skipif(_HAS_COMPILER, reason='libtpu is installed')
def test_without_the_compiler_what_installs_it_is_said(tmp_path):
  assert _refuse(tmp_path, '--compile_only=v5e:2x2') == (
    'hq_jax: compile_only needs libtpu, which is not installed: pip install'
    " 'hq_jax[tpu]'"
  )


@pytest.mark.slow
@_needs_compiler
@pytest.mark.parametrize(
  ('words', 'said'),
  [
    (['v5e:3x3'], "compile_only is 'v5e:3x3', wanted v5e: or v6e: with 2x2,"),
    (
      ['v5e:4x8', '--config.batch_size=1000'],
      'config.batch_size is 1000, wanted a multiple of the 32 devices',
    ),
    (
      ['v5e:2x2', '--config.mesh.fsdp=3'],
      'config.mesh.fsdp is 3, wanted a divisor of the 4 devices',
    ),
    (
      ['v5e:2x2', '--config.data.name=imagenet2013'],
      "config.data.name: TFDS has no data set 'imagenet2013', but imagenet",
    ),
  ],
)
def test_what_does_not_go_together_is_one_line(tmp_path, words, said):
  topology, *others = words
  line = _refuse(tmp_path, f'--compile_only={topology}', *others)
  assert line.startswith(f'hq_jax: {said}')


@pytest.mark.slow
@_needs_compiler
def test_what_does_not_fit_is_refused_with_what_would(tmp_path):
  words = [f'{flag}={value}' for flag, value in _SMALL.items()]
  line = _refuse(
    tmp_path, '--compile_only=v5e:2x2', *words, '--config.batch_size=524288'
  )
  match = re.fullmatch(
    r'hq_jax: config.batch_size is 524288, wanted about (\d+): the dense step'
    r' needs [\d.]+ GiB on a chip that has 15.75 \(v5e:2x2\)',
    line,
  )
  assert match and 0 < int(match[1]) < 524288 and int(match[1]) % 4 == 0


@pytest.mark.slow
@_needs_compiler
def test_the_programs_of_a_run_are_one_table(tmp_path):
  # On a machine that has neither a TPU nor the images.
  words = ('--config=configs/digits.py', '--compile_only=v6e:2x2')
  done = _run(tmp_path, *words)
  assert (done.returncode, done.stderr) == (0, '')
  rows = [line.split('|')[1:-1] for line in done.stdout.splitlines()[-7:]]
  names = [row[0].strip() for row in rows[2:]]
  assert names == [
    *('initialization', 'dense step', 'start of compression'),
    *('compression step', 'evaluation'),
  ]


@pytest.fixture(scope='module')
def compiled(tmp_path_factory):
  """Both steps, with a state in four parts."""
  config = resnet50.get_config()
  config.model.update(name='small_resnet', widths=(128, 256), num_blocks=(1, 1))
  config.data.update(
    image_size=32, data_dir=str(tmp_path_factory.mktemp('data'))
  )
  config.batch_size = 128
  config.mesh.fsdp = 4
  setup = setup_lib.prepare_shapes(
    config_lib.validate(config), topologies.find('v5e:2x2').devices
  )
  names = compile_only.PLAIN, compile_only.COMPRESS, 'evaluation'
  return list(compile_only.compile_programs(setup, names))


@pytest.mark.slow
@_needs_compiler
def test_kernels_are_gathered_once_and_gradients_are_scattered(compiled):
  for row in compiled:
    found = row.collectives
    # Padded to whole tiles.
    assert _KERNELS <= found['all-gather']['bytes'] <= 1.02 * _KERNELS
    assert found['all-reduce']['largest_bytes'] <= 2**16
  for row in compiled[:2]:
    found = row.collectives
    scattered = 4 * found['reduce-scatter']['bytes']
    small = 2 * 3 * 9 * 128  # The first kernel is less than 64 kB.
    assert _KERNELS - small <= scattered <= 1.02 * _KERNELS


@pytest.mark.slow
@_needs_compiler
def test_compression_moves_no_kernel_between_devices(compiled):
  plain, ours = (row.collectives for row in compiled[:2])
  for kind in ('all-gather', 'reduce-scatter', 'all-to-all'):
    assert ours[kind]['bytes'] == plain[kind]['bytes'], kind
  more = ours['all-reduce']['bytes'] - plain['all-reduce']['bytes']
  # Counts and norms, of a kernel or of a channel.
  assert 0 <= more <= 2**16


@pytest.mark.slow
@_needs_compiler
def test_no_activation_and_no_whole_kernel_is_float32(compiled):
  # Latent weights are, in four parts, and what is computed of them.
  largest_part = 9 * 256**2 // 4
  for row in compiled:
    _, _, entry = row.text.partition('\nENTRY')
    sizes = re.findall(r'\bf32\[([\d,]+)\]', entry)
    elements = [math.prod(map(int, size.split(','))) for size in sizes]
    assert elements and max(elements) <= largest_part, row.name


@pytest.mark.parametrize('network', ['resnet50', 'mobilenet_v2'])
def test_a_device_holds_its_share_of_the_state(tmp_path, network):
  config = importlib.import_module(f'configs.{network}').get_config()
  config.data.data_dir = str(tmp_path)
  config.mesh.fsdp = 8
  setup = setup_lib.prepare_shapes(config_lib.validate(config), jax.devices())
  state = compile_only.describe_state(setup)
  whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
  assert whole / 8 <= compile_only.count_bytes(state) <= 1.1 * whole / 8
