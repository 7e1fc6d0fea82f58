import contextlib
import threading
import time

import numpy as np
import pytest

from benchmarks import pipeline_speeds


def test_a_ratio_is_taken_within_the_round():
  # By the clock and by the computing time: twice as fast in the second round,
  # whatever else the machine did.
  ours = np.array([[100, 50], [200, 60], [400, 70]])
  speeds = {
    'imagenet': {
      'ours': ours,
      'tfdata_in_order': ours / [1.25, 2],
      'tfdata_any_order': ours / [1.2, 3],
      'tfdata_no_antialias': ours / [0.8, 0.5],
    },
    '224x224': {'ours': 3 * ours, 'tfdata_in_order': ours},
  }
  found = pipeline_speeds.summarize(speeds, num_cores=2)
  assert found['ours_images_per_second_per_core'] == 100
  # Of the two that do the same work, the faster one.
  assert found['tfdata_images_per_second_per_core'] == pytest.approx(200 / 2.4)
  assert found['ours_over_tfdata'] == pytest.approx(1.2)
  assert found['ours_over_tfdata_by_cpu'] == pytest.approx(2)
  assert found['rounds'] == 3
  main_set = found['sets']['imagenet']
  assert main_set['images_per_cpu_second']['ours'] == 60
  assert main_set['ours_over']['tfdata_no_antialias'] == pytest.approx(0.8)
  assert found['sets']['224x224']['ours_over'] == {'tfdata_in_order': 3}
  table = pipeline_speeds.make_table(found).splitlines()
  assert table[2] == '| imagenet | ours | 100.0 |  | 60.0 |  |'
  assert table[3] == (
    '| imagenet | tfdata_in_order | 80.0 | 1.250 | 30.0 | 2.000 |'
  )
  assert len(table) == 8


def _work(seconds):
  """Computes, and does not wait."""
  started = time.thread_time()
  while time.thread_time() - started < seconds:
    pass


def test_images_per_second_are_counted_after_the_warm_up():
  log = []

  def make(name, seconds):
    def run():
      log.append(name)
      with contextlib.suppress(GeneratorExit):
        while True:
          _work(seconds)
          yield np.zeros((5, 1))
      log.append(f'{name} stopped')

    return run

  runners = {'ours': make('ours', 0.002), 'other': make('other', 0.02)}
  found = pipeline_speeds.measure(runners, num_rounds=2, num_batches=3)
  assert found['ours'].shape == (2, 2)
  # 5 images in 2 ms and in 20 ms of computing; the clock runs faster.
  assert found['ours'][:, 1] == pytest.approx(2500, rel=0.5)
  assert found['other'][:, 1] == pytest.approx(250, rel=0.3)
  assert (found['ours'][:, 0] < 2600).all()
  # The order turns around, and one stops before the next one starts.
  turns = ['ours', 'other', 'other', 'ours']
  assert log == [x for name in turns for x in (name, f'{name} stopped')]


def test_what_still_works_is_waited_for():
  started = time.perf_counter()
  thread = threading.Thread(target=_work, args=(0.4,))
  thread.start()
  pipeline_speeds.wait_until_idle()
  assert not thread.is_alive()
  assert time.perf_counter() - started > 0.4
