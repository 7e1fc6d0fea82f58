"""A run on a folder that has images to look at after each epoch."""

import numpy as np
from PIL import Image

from hq_jax import __main__ as commands
from hq_jax.training import evaluate
from hq_jax.training import train
from tests import setups


def test_epochs_are_of_val_and_the_report_of_test(
  tmp_path, capsys, monkeypatch
):
  monkeypatch.setenv('HOME', str(tmp_path))
  rng = np.random.default_rng(0)
  pictures = tmp_path / 'my pictures, all'
  # As many of each class; in the test, the names of the classes are swapped.
  counts = {'train': 12, 'val': 4, 'test': 3}
  for split, count in counts.items():
    for name, level in (('dark', 0), ('light', 192)):
      if split == 'test':
        level = 192 - level
      (pictures / split / name).mkdir(parents=True)
      for number in range(count):
        pixels = rng.integers(level, level + 64, (8, 8), np.uint8)
        Image.fromarray(pixels).save(pictures / split / name / f'{number}.png')
  config = setups.get_config(
    '~/my pictures, all',
    **setups.PERCEPTRON,
    **{'target_ratio': 1.5, 'batch_size': 8, 'data.name': 'folder'},
    **{'data.image_size': None, 'data.max_shift': 0},
    **{'dense.epochs': 8, 'dense.learning_rate': 0.03},
  )
  report = train.train(config, '~/run')
  out = capsys.readouterr().out
  assert (
    'images: 24 to train on, 8 to look at after each epoch, 6 to test on at the'
    ' end' in out
  )
  assert 'validation accuracy 100.00%' in out
  assert report['num_examples'] == 6 and report['dense_accuracy'] == 0.0
  history = report['history']
  dense = [row for row in history if row['phase'] == 'dense']
  assert dense[-1]['validation_accuracy'] == 1.0
  assert not any('test_accuracy' in row for row in history)
  assert '━ validation' in (tmp_path / 'run' / 'report.html').read_text()

  # Of the network of one channel, and of less than a folder that it knows.
  path = '~/run/model.hq'
  for split, num in (('all', 38), ('validation', 8), (None, 6)):
    config.data.test_split = split
    assert evaluate.evaluate_file(path, config)['num_examples'] == num
  (pictures / 'train').rename(tmp_path / 'gone')
  (pictures / 'test' / 'dark').rename(tmp_path / 'dark')
  found = evaluate.evaluate_file(path, config)
  assert found['num_examples'] == 3

  # The dense network of it, 1.2 times smaller.
  config.data.test_split = None
  (tmp_path / 'gone').rename(pictures / 'train')
  (tmp_path / 'dark').rename(pictures / 'test' / 'dark')
  config.update({'dense_from': '~/run', 'target_ratio': 1.2})
  again = train.train(config, '~/again')
  assert again['dense_accuracy'] == 0.0
  assert commands.main(['inspect', '~/again/model.hq']) == 0
