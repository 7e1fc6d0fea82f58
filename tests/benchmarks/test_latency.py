import json
import os
import sys

import numpy as np
import pytest

from benchmarks import latency
from hq_jax.inference import network
from tests import markdown


def test_a_ratio_is_taken_within_the_round():
  # Half as long in each round, whatever else the machine did.
  seconds = {latency.FLOAT32: [1.0, 4.0, 2.0], latency.OURS: [0.5, 2.0, 1.0]}
  found = latency.summarize(seconds)
  assert found[latency.OURS] == {'seconds': 1.0, 'over_ort_float32': 0.5}


def test_the_worst_network_counts():
  def make(ratio, num_bytes, seconds):
    return {
      'batches': {1: {latency.OURS: {'over_ort_float32': ratio}}},
      'file_bytes': {latency.OURS: num_bytes, latency.INT8: 100},
      'fresh': {latency.OURS: {'first_answer_seconds': seconds}},
    }

  found = latency.make_result(
    {'resnet18': make(0.3, 12, 1.0), 'mobilenet_v2': make(0.6, 10, 3.0)}
  )
  assert found['ours_over_ort_float32_b1'] == 0.6
  assert found['ours_over_ort_float32_b1_resnet18'] == 0.3
  assert found['file_over_ort_int8_file'] == 0.12
  assert found['first_answer_seconds'] == 1.0


def test_images_are_made_of_pixels():
  rng = np.random.default_rng(0)
  images = latency.draw_images(rng, 2, 32)
  pixels = images * latency.PREPROCESSING['std'] + latency.PREPROCESSING['mean']
  np.testing.assert_allclose(pixels, np.rint(pixels), atol=1e-3)
  assert np.rint(pixels).min() >= 0 and np.rint(pixels).max() <= 255


@pytest.mark.slow
def test_every_engine_answers(capsys, monkeypatch):
  arguments = '--networks mobilenet_v2 --side 32 --batches 1 2'
  arguments += ' --rounds 1 --fresh_rounds 1'
  monkeypatch.setattr(sys, 'argv', ['latency', *arguments.split()])
  cores = os.sched_getaffinity(0)
  latency.main()
  assert os.sched_getaffinity(0) == cores
  output = capsys.readouterr().out
  speed, _ = markdown.read_tables(output)
  assert {row[1] for row in speed[1:]} >= {latency.OURS, latency.INT8}
  found = json.loads(output.splitlines()[-1])
  for key in ('first_answer_seconds', 'ours_over_ort_float32_b2'):
    assert 0 < found[key] < 60
  assert found['file_over_ort_int8_file'] < 0.15


def test_a_transformer_is_drawn_with_scales_for_all_outputs():
  rng = np.random.default_rng(0)
  artifact = latency.draw_network('vit_ti16', 0.9, 32, rng)
  network.read_layers(artifact)
  tensor = artifact.tensors['params/blocks/attention/query/kernel']
  assert tensor.scale.shape == (12, 1, 3, 64)
  values = tensor.codes * np.float32(tensor.scale)
  # As large on average as kernels are that keep the size of what goes in.
  assert np.square(values).sum(1).mean() == pytest.approx(1, rel=0.01)
