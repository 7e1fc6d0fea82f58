"""Programs of StableHLO: run elsewhere, they give our logits."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from hq_jax.inference import export
from tests import compiling
from tests.inference import drawn_files
from tests.inference import networks

_RUN = """
import sys
import jax
import numpy as np
content, images, logits = sys.argv[1:]
with open(content, 'rb') as file:
  program = jax.export.deserialize(bytearray(file.read()))
np.save(logits, program.call(np.load(images)))
assert not {'flax', 'hq_jax', 'chex'} & set(sys.modules)
"""


def _assert_close(found, wanted):
  largest = np.abs(wanted).max()
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * largest)


@pytest.mark.parametrize(
  ('name', 'arguments', 'shape'),
  networks.list_params('resnet18', 'mobilenet_v2'),
)
def test_logits(name, arguments, shape):
  artifact = drawn_files.make(name, arguments, shape)
  program = jax.export.deserialize(bytearray(export.to_stablehlo(artifact)))
  assert set(program.platforms) >= {'cpu', 'cuda', 'tpu'}
  images = drawn_files.draw_images(artifact)
  wanted = drawn_files.apply_flax(artifact, images)
  _assert_close(jax.jit(program.call)(images), wanted)


def test_a_process_without_this_library(tmp_path):
  # Two ternary layers or more are what XLA has got wrong; see `unpack`.
  arguments = {'widths': [8, 16], 'num_blocks': [2, 2]}
  artifact = drawn_files.make('small_resnet', arguments, (8, 8, 1))
  images = drawn_files.draw_images(artifact)
  content = export.to_stablehlo(artifact)
  program = jax.export.deserialize(bytearray(content))
  wanted = drawn_files.apply_flax(artifact, images)
  _assert_close(compiling.full_jit(program.call)(images), wanted)
  (tmp_path / 'program').write_bytes(content)
  np.save(tmp_path / 'images.npy', images)
  paths = [tmp_path / name for name in ('program', 'images.npy', 'logits.npy')]
  subprocess.run([sys.executable, '-c', _RUN, *paths], check=True)
  _assert_close(np.load(tmp_path / 'logits.npy'), wanted)
