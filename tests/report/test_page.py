"""The page of a report: whole by itself, safe, of two classes to thousands."""

import base64
import hashlib
import re
import shutil
import subprocess

import numpy as np
import pytest

from hq_jax import artifact
from hq_jax import report
from hq_jax.report import page
from hq_jax.report import results
from tests.report import pages

_EVIL = '<script>alert(1)</script>', 'ab\u202edc\x1b[31m\n"><img src=//x.y/z>'


def _make_answers(num_classes, num_images):
  """A fifth of them is taken for the next class."""
  position = np.arange(num_images, dtype=np.int32)
  label = position % num_classes
  prediction = (label + (position % 5 == 0)) % num_classes
  probability = np.linspace(0.9, 0.6, num_images, dtype=np.float32)
  return report.Answers(position, label, prediction, probability, probability)


def _render(inputs, class_names=tuple('0123456789')):
  with open(inputs.file_path, 'rb') as file:
    data = file.read()
  found = artifact.loads(data)._replace(class_names=class_names)
  made = results.make(inputs, data, found)
  return page.render(inputs, made, found.class_names)


def _with_pictures(inputs, num_classes, num_images=50, shape=(8, 8, 1)):
  answers = _make_answers(num_classes, num_images)
  rng = np.random.default_rng(0)
  pictures = rng.integers(0, 256, (num_images, *shape), np.uint8)
  return inputs._replace(answers=answers, pictures=dict(enumerate(pictures)))


def test_the_page_asks_for_nothing_and_is_well_formed(odd):
  text = _render(_with_pictures(odd, 10))
  found = pages.Page(text)
  for _, attributes in found.elements:
    assert attributes.keys().isdisjoint({'href', 'onclick', 'srcset'})
    assert attributes.get('src', 'data:').startswith('data:')
  assert not re.search(r'https?:|@import|url\(', text)
  (script,) = found.scripts
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  (policy,) = (x['content'] for x in found.find('meta') if 'http-equiv' in x)
  assert policy.startswith("default-src 'none'; img-src data:;")
  assert f"script-src 'sha256-{digest}'" in policy
  assert len(found.find('svg')) == (3 if odd.history else 0)
  assert not re.search(r'\b(nan|None|inf)\b', found.text)
  for attributes in found.find('path'):
    assert re.fullmatch(r'M[-\d. LHZ]+', attributes['d'])


def test_numbers_of_the_tables(usual):
  found = pages.Page(_render(_with_pictures(usual, 10)))
  sizes, parts, classes, matrix, layers, run = found.tables
  assert [row[0] for row in sizes[1:]] == [
    'dense (float32)',
    'ternary in memory',
    '.hq file',
  ]
  assert [row[-1] for row in sizes[1:]] == ['98.60%', '97.40%', '97.40%']
  assert parts[-1][:2] == ['all', sizes[-1][1]]
  # Positions that five divides are wrong: all of classes 0 and 5.
  assert classes[1] == ['0', '5', '0.00%', '', '1']
  assert classes[2] == ['5', '5', '0.00%', '', '6']
  assert classes[3] == ['1', '5', '100.00%', '', '-']
  assert matrix[1] == ['0', '', '5', *[''] * 8]
  assert matrix[2] == ['1', '', '5', *[''] * 8]
  kernels = [f'{path}' for path in usual.dense_kernels]
  assert sorted(row[0] for row in layers[1:-3]) == sorted(kernels)
  assert ['commit', '0123abc'] in run and ['seed', '3'] in run
  assert 'The dense network had 20 epochs' in found.text


def test_pictures_are_those_of_the_images(usual):
  inputs = _with_pictures(usual, 10)
  found = pages.Page(_render(inputs)).pictures()
  # Ten are wrong, the surest first; eight are right, spread.
  assert len(found) == 18
  for image, position in zip(found, range(0, 50, 5), strict=False):
    np.testing.assert_array_equal(image, inputs.pictures[position][..., 0])
  missing = inputs._replace(pictures={5: inputs.pictures[5]})
  assert len(pages.Page(_render(missing)).pictures()) == 1


def test_photographs_are_made_small(usual):
  text = _render(_with_pictures(usual, 10, shape=(300, 200, 3)))
  found = pages.Page(text).pictures()
  assert {image.shape for image in found} == {(96, 64, 3)}
  assert len(text) < 600_000  # of noise, which does not compress


@pytest.mark.parametrize('num_classes', [2, 25, 26, 1200])
def test_few_classes_have_a_matrix_and_many_have_pairs(usual, num_classes):
  names = tuple(f'class {i}' for i in range(num_classes))
  inputs = usual._replace(answers=_make_answers(num_classes, 6000))
  text = _render(inputs, names)
  confusions = pages.Page(text).tables[3]
  if num_classes <= 25:
    assert [len(row) for row in confusions] == [num_classes + 1] * (
      num_classes + 1
    )
  else:
    assert confusions[1] == ['class 0', 'class 1', f'{confusions[1][2]}']
    assert len(confusions) <= 51
  assert ('200 more accurate' in text) == (num_classes == 1200)
  assert len(text) < 500_000


def test_names_are_only_text(usual):
  inputs = _with_pictures(usual, 2)
  inputs = inputs._replace(
    command=_EVIL[0],
    commit=_EVIL[1],
    hardware={_EVIL[0]: _EVIL[1]},
    config={'data': {'data_dir': _EVIL[0]}},
  )
  found = pages.Page(_render(inputs, _EVIL))
  assert len(found.scripts) == 1
  assert len(found.pictures()) == 18
  assert found.text.count('<script>alert(1)</script>') >= 5
  assert 'ab\\u202edc\\x1b[31m\\n"><img src=//x.y/z>' in found.text
  assert not re.search('[\x00-\x09\x0b-\x1f\u202a-\u202e]', found.text)


def test_without_answers_there_is_the_rest(tiny):
  text = _render(tiny, ('a', 'b'))
  assert 'Classes</h2>' not in text and 'mistakes' not in text
  assert len(pages.Page(text).tables) == 4


@pytest.mark.slow
def test_a_click_sorts_the_layers(usual, tmp_path):
  chromium = shutil.which('chromium')
  if chromium is None:
    pytest.skip('chromium is not installed')
  text = _render(_with_pictures(usual, 10))
  # What is added would not be run, by the page's own policy.
  text = re.sub(r'<meta http-equiv.*?>', '', text, count=1, flags=re.DOTALL)
  click = "document.querySelectorAll('table.sortable')[1].rows[0].cells[5]"
  text = text.replace(
    '</body>', f'<script>{click}.firstChild.click()</script></body>'
  )
  path = tmp_path / 'page.html'
  path.write_text(text, encoding='utf-8')
  done = subprocess.run(
    [
      *(chromium, '--headless=new', '--no-sandbox', '--disable-gpu'),
      *(f'--user-data-dir={tmp_path / "profile"}', '--dump-dom', str(path)),
    ],
    capture_output=True,
    text=True,
    timeout=120,
  )
  layers = pages.Page(done.stdout).tables[4]
  sizes = [int(row[5].replace(',', '')) for row in layers[1:-3]]
  assert len(sizes) == 10 and sizes == sorted(sizes, reverse=True)
  assert layers[-1][0] == 'all'
