"""What a run says: its first lines, the time left, its end."""

import dataclasses

import numpy as np
import pytest

from configs import digits
from configs import folder as folder_config
from hq_jax import config as config_lib
from hq_jax.compression import planner
from hq_jax.data.sets import datasets
from hq_jax.training import messages
from hq_jax.training import setup as setup_lib
from tests import setups
from tests.data import file_trees
from tests.data import pictures


def test_the_first_lines_name_what_is_ignored_and_escape_names(tmp_path):
  # As a telephone leaves it: most pictures are no files that can be read.
  root = pictures.make_folder(
    tmp_path / 'pictures', num_classes=2, num_per_class=15, splits=('',)
  )
  file_trees.touch(root, *(f'class1/{i}.HEIC' for i in range(48)))
  file_trees.touch(root, 'class0/labels.txt', 'class0/README')
  (root / 'class0').rename(root / 'a\x1b[2J\nb')
  (root / 'class1').rename(root / ('n' * 40))
  config = folder_config.get_config(f'data_dir={root},debug,batch_size=16')
  config.model.name = 'small_resnet'
  setup = setup_lib.prepare(config, tmp_path / 'run')
  lines = messages.describe_setup(setup).splitlines()
  assert lines[1:5] == [
    f'classes: 2: a\\x1b[2J\\nb, {"n" * 21}...',
    'images: 24 to train on, 6 to test on, held out of each class',
    'ignored: 50 other files beside the images: 48 .heic, 1 no ending, 1 .txt;'
    ' HEIC needs pillow-heif: pip install pillow-heif',
    'epochs: 1 dense, 1 prune, 1 ternary; each 2 batches of 16, 8 images twice',
  ]


@pytest.mark.parametrize(
  ('train', 'test', 'class_weights', 'said'),
  [
    ([40, 30, 14], [2, 2, 2], None, []),
    (
      [40, 10, 5],
      [2, 2, 2],
      None,
      [
        'classes have 5 to 40 training images, and count as many:'
        " optimizer.class_weights='balanced' lets all count alike"
      ],
    ),
    (
      [40, 10, 5],
      [2, 0, 2],
      'balanced',
      [
        'no test images of 1 of 3 classes: b',
        'class weights: all classes count alike in the loss, those of 5'
        ' training images as those of 40',
      ],
    ),
  ],
)
def test_the_first_lines_say_how_unequal_classes_are(
  tmp_path, train, test, class_weights, said
):
  arrays = [
    (np.zeros((sum(counts), 4, 4), np.uint8), np.repeat([0, 1, 2], counts))
    for counts in (train, test)
  ]
  config = config_lib.get_defaults()
  config.model.update(name='mlp', widths=(64,))
  config.batch_size = 8
  config.data.name = 'arrays'
  config.target_ratio = 8.0
  config.optimizer.class_weights = class_weights
  setup = setup_lib.prepare(
    config,
    tmp_path / 'run',
    datasets.from_arrays(*arrays, class_names=('a', 'b', 'c')),
  )
  lines = messages.describe_setup(setup).splitlines()
  assert lines[3 : 3 + len(said)] == said
  assert lines[3 + len(said)].startswith('epochs: ')


@pytest.mark.parametrize(
  ('fields', 'dense_epochs', 'where'),
  [
    ({}, 1, 'kernels that become ternary in the dense phase alone: '),
    ({}, 0, 'no kernel that becomes ternary: '),
    ({'optimizer.weight_decay': 0.0}, 1, None),
    ({'recipe.project': False}, 1, None),
  ],
)
def test_the_first_lines_say_where_weight_decay_acts(
  data_dir, tmp_path, fields, dense_epochs, where
):
  config = setups.get_config(
    data_dir, **setups.PERCEPTRON | {'recipe.sparsity': 0.5} | fields
  )
  setup = setup_lib.prepare(config, tmp_path / 'run')
  dense = dataclasses.replace(setup.config.dense, epochs=dense_epochs)
  setup = dataclasses.replace(
    setup, config=dataclasses.replace(setup.config, dense=dense)
  )
  lines = messages.describe_setup(setup).splitlines()
  said = [line for line in lines if line.startswith('weight decay ')]
  assert len(said) == (where is not None)
  assert not said or f'weight decay 0.0001 acts on {where}' in said[0]


def test_the_time_left_leaves_out_what_compiling_took():
  rows = [{'epoch': 1, 'seconds': 30.0}]
  assert messages.estimate_seconds(rows, 10) == 270
  rows += [{'epoch': 2, 'seconds': 4.0}, {'epoch': 3, 'seconds': 5.0}]
  assert messages.estimate_seconds(rows, 10) == 35
  rows += [{'epoch': 10, 'seconds': 4.0}]
  assert messages.estimate_seconds(rows, 10) == 0


@pytest.mark.parametrize(
  ('file_bytes', 'words'),
  [
    (1001, 'The file does not fit its target of 1,000 bytes: it has 1 more.'),
    (900, 'The target leaves 100 bytes that are not used.'),
    (995, ''),
  ],
)
def test_the_end_says_what_became_of_the_target(tmp_path, file_bytes, words):
  evaluations = 'dense', 'ternary', 'file'
  report = {
    'target_bytes': 1000,
    'file_bytes': file_bytes,
    'dense_bytes': 10_000,
    'resident_bytes': 2000,
    'num_weights': 2500,
    'ratio': 10_000 / file_bytes,
    'unreadable_images': ['a.jpg'],
    'config': {'pretrained': 'resnet18.pth'},
    'history': [{'phase': x} for x in ('dense', 'prune', 'prune', 'ternary')],
    **{f'{name}_accuracy': 0.5 for name in evaluations},
  }
  workdir = str(tmp_path / 'my run')
  lines = messages.describe_end(workdir, report).splitlines()
  assert ('target' in '\n'.join(lines)) == bool(words)
  assert (words in lines) == bool(words)
  assert 'Skipped: 1 images that cannot be read.' in lines
  (epochs,) = [line for line in lines if line.startswith('The dense network')]
  assert 'had 1 epoch from pretrained weights, ' in epochs
  assert 'those and 3 more; after all 4 ' in epochs
  assert lines[-1].endswith(f" predict '{workdir}/model.hq' IMAGE")


@pytest.mark.parametrize(
  ('shape', 'is_said'),
  [
    ('{part}/{name}', True),
    ('train/{part}/{name}', True),
    ('{part}/images/{name}', False),  # As classes with a folder each.
    ('{name}/{part}', True),
  ],
)
def test_the_first_lines_say_where_classes_may_be_parts(
  tmp_path, shape, is_said
):
  for part in ('fold1', 'fold2'):
    for name in ('cat', 'dog'):
      folder = shape.format(part=part, name=name)
      file_trees.numbered(tmp_path / 'pictures', folder, 10)
  config = folder_config.get_config(
    f'data_dir={tmp_path / "pictures"},debug,batch_size=8,model=small_resnet'
  )
  text = messages.describe_setup(setup_lib.prepare(config, tmp_path / 'run'))
  wanted = 'fold1, fold2' if shape.startswith('{name}') else 'cat, dog'
  assert (f'each class has the folders {wanted}: ' in text) == is_said


def test_the_first_lines_say_where_images_or_the_target_are_too_small(
  data_dir, tmp_path
):
  config = digits.get_config('ratio=200')
  config.data.data_dir = str(data_dir)
  config.model.update(widths=(16, 32, 64, 128, 64), num_blocks=(1, 1, 1, 1, 1))
  setup = setup_lib.prepare(config, tmp_path / 'run')
  text = messages.describe_setup(setup)
  assert (
    'images of 8x8 are smaller than the 16x16 pixels that become one feature of'
    ' small_resnet: ' in text
  )
  thin = [x for x in planner.sparsities(setup.plan).values() if x > 0.99]
  assert f'more than 99% zeros in {len(thin)} of ' in text and len(thin) > 1
  config = digits.get_config()
  config.data.data_dir = str(data_dir)
  setup = setup_lib.prepare(config, tmp_path / 'run')
  text = messages.describe_setup(setup)
  assert 'one feature' not in text and 'more than 99%' not in text
