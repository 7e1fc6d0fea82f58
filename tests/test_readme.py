"""What the README tells a reader to do works, word by word."""

import pathlib
import re

import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.core import qtensors

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')
EXAMPLES = re.findall(r'```python\n(.*?)```', README, re.DOTALL)


def test_there_are_two_examples():
  assert len(EXAMPLES) == 2


def test_the_line_that_changes_an_optax_loop():
  names = {}
  exec(compile(EXAMPLES[0], 'README.md', 'exec'), names)
  assert names['loss'] < 0.4


def test_reading_a_file(tmp_path, monkeypatch):
  folder = tmp_path / 'runs' / 'digits'
  folder.mkdir(parents=True)
  codes = np.array([[1, 0], [0, -1]], np.int8)
  tensor = qtensors.TernaryTensor(codes, np.array([0.5, 2.0], np.float16))
  model = artifact.Artifact(
    'net', {}, (2,), {}, ('a', 'b'), {'params/head/kernel': tensor}, {}
  )
  artifact.write(folder / 'model.hq', model)
  monkeypatch.chdir(tmp_path)
  names = {}
  exec(compile(EXAMPLES[1], 'README.md', 'exec'), names)
  np.testing.assert_array_equal(
    names['variables']['params']['head']['kernel'], [[0.5, 0.0], [0.0, -2.0]]
  )


@pytest.mark.parametrize(
  'path', re.findall(r'\]\(((?!http)[^)]+)\)', README), ids=str
)
def test_links_lead_somewhere(path):
  assert (ROOT / path.partition('#')[0]).exists()


def test_configs_and_scripts_that_it_names_are_there():
  found = re.findall(r'(?:configs|launch)/\w+\.(?:py|sh)', README)
  assert found
  for path in found:
    assert (ROOT / path).exists(), path
