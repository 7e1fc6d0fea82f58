"""The README, the pages under docs/ and the docstrings say what is so."""

import contextlib
import inspect
import io
import itertools
import pathlib
import re
from typing import Any

import jax
import numpy as np
import pytest

import hq_jax
from hq_jax import artifact
from hq_jax import baselines
from hq_jax import models
from hq_jax import planner
from hq_jax import transforms
from hq_jax.compression import to_artifact
from hq_jax.core import schedules
from hq_jax.core import sparsity_distributions
from hq_jax.core import sphere
from hq_jax.core import ternary
from hq_jax.core import thresholds
from hq_jax.core import trees
from hq_jax.training import diagnostics
from hq_jax.training import losses
from hq_jax.training import mixing
from tests.models import reference

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'
PAGES = [ROOT / 'README.md', *sorted(DOCS.glob('*.md'))]
# A fence of its own line, what language it says, and what is in it.
FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.DOTALL | re.MULTILINE)
LINK = re.compile(r'\]\(((?!https?:)[^)\s]+)\)')


def _find_examples(page):
  """Source, first line and wanted output of each Python block, in order.

  The output is that of the `text` block behind it, if one comes before the next
  block of any other kind.
  """
  text = page.read_text(encoding='utf-8')
  blocks = list(FENCE.finditer(text))
  examples = []
  for block, after in zip(blocks, [*blocks[1:], None], strict=True):
    if block[1] == 'python':
      shown = after[2] if after is not None and after[1] == 'text' else ''
      first_line = text.count('\n', 0, block.start(2)) + 1
      examples.append((block[2], first_line, shown))
  return examples


def _write_digits(path):
  """What the pages read: a network of digits that has learnt nothing."""
  widths, count = 4, 10
  model = models.build('mlp', num_classes=count, arguments={'widths': [widths]})
  image = jax.ShapeDtypeStruct((1, 8, 8, 1), np.float32)
  found = to_artifact.make_artifact(
    reference.draw(model, image),
    {},
    model='mlp',
    model_arguments={'widths': [widths]},
    input_shape=image.shape[1:],
    preprocessing={'pixel_max': 16.0, 'mean': [4.9], 'std': [6.0]},
    class_names=tuple(map(str, range(count))),
  )
  artifact.write(path, found)


@pytest.mark.parametrize(
  ('name', 'num_examples'),
  [
    ('README.md', 2),
    pytest.param('docs/transforms.md', 21, marks=pytest.mark.slow),
    ('docs/export.md', 3),
    ('docs/predict.md', 2),
    ('docs/sizes.md', 5),
    pytest.param('docs/images.md', 1, marks=pytest.mark.slow),
  ],
)
def test_the_examples_run_and_print_what_is_shown(
  name, num_examples, tmp_path, monkeypatch
):
  file = tmp_path / 'runs' / 'digits' / 'model.hq'
  file.parent.mkdir(parents=True)
  _write_digits(file)
  monkeypatch.chdir(tmp_path)
  page = ROOT / name
  examples = _find_examples(page)
  assert len(examples) >= num_examples
  names = {}
  for source, first_line, shown in examples:
    # So that a traceback names the line of the page.
    code = compile('\n' * (first_line - 1) + source, str(page), 'exec')
    with contextlib.redirect_stdout(io.StringIO()) as printed:
      exec(code, names)
    assert printed.getvalue() == shown, f'{page.name}, line {first_line}'


@pytest.mark.parametrize('name', ['transforms.md', 'sizes.md'])
def test_every_output_belongs_to_an_example(name):
  text = (DOCS / name).read_text(encoding='utf-8')
  languages = [block[1] for block in FENCE.finditer(text)]
  assert set(languages) == {'python', 'text'}
  assert languages[0] == 'python'
  assert ('text', 'text') not in itertools.pairwise(languages)


def _anchors(page):
  """The anchors that GitHub gives to the headings of a page."""
  text = FENCE.sub('', page.read_text(encoding='utf-8'))
  headings = re.findall(r'^#+ (.+)$', text, re.MULTILINE)
  return {
    re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
    for heading in headings
  }


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
  text = FENCE.sub('', page.read_text(encoding='utf-8'))
  for link in LINK.findall(text):
    path, _, anchor = link.partition('#')
    target = page.parent / path if path else page
    assert target.exists(), link
    if anchor:
      assert anchor in _anchors(target), link


def test_there_are_links_to_follow():
  text = (DOCS / 'transforms.md').read_text(encoding='utf-8')
  assert {'format.md', '#the-recipe'} <= set(LINK.findall(text))


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_configs_and_scripts_that_it_names_are_there(page):
  text = page.read_text(encoding='utf-8')
  found = re.findall(r'\b(?:configs|launch)/\w+\.(?:py|sh|yaml)\b', text)
  assert found or page.parent == DOCS
  for path in found:
    assert (ROOT / path).exists(), path


def _find_public():
  """Functions and classes of modules by name, where they are made."""
  found = {'hq_jax.compress': hq_jax.compress, 'hq_jax.load': hq_jax.load}
  for module in (
    *(schedules, sparsity_distributions, sphere, ternary, thresholds, trees),
    *(losses, mixing),
  ):
    for name, value in vars(module).items():
      is_made_here = getattr(value, '__module__', '') == module.__name__
      if is_made_here and callable(value) and not name.startswith('_'):
        found[f'{module.__name__}.{name}'] = value
  for package in (baselines, diagnostics, planner, transforms):
    for name in package.__all__:
      if callable(getattr(package, name)):
        found[f'{package.__name__}.{name}'] = getattr(package, name)
  return found


PUBLIC = _find_public()
FUNCTIONS = {n: f for n, f in PUBLIC.items() if not inspect.isclass(f)}
CLASSES = {n: c for n, c in PUBLIC.items() if inspect.isclass(c)}


def _section(value, title):
  """The indented lines under a title of a docstring, '' without it."""
  match = re.search(
    rf'^{title}:\n((?:  .*\n|\n)+)', f'{inspect.getdoc(value)}\n', re.MULTILINE
  )
  return match[1] if match else ''


def test_the_public_names_are_found():
  assert {'hq_jax.transforms.hq', 'hq_jax.core.trees.select'} <= set(FUNCTIONS)
  wanted = {'hq_jax.transforms.Recipe', 'hq_jax.transforms.Quantizer'}
  assert wanted <= set(CLASSES)


@pytest.mark.parametrize('name', PUBLIC)
def test_it_has_a_summary(name):
  summary, *rest = inspect.getdoc(PUBLIC[name]).splitlines()
  assert summary.endswith('.')
  assert not rest or rest[0] == ''


@pytest.mark.parametrize('name', FUNCTIONS)
def test_a_function_has_an_example(name):
  assert '>>> ' in inspect.getdoc(FUNCTIONS[name])


@pytest.mark.parametrize('name', FUNCTIONS)
def test_a_function_says_what_it_takes_and_returns(name):
  function = FUNCTIONS[name]
  signature = inspect.signature(function)
  documented = re.findall(
    r'^  \*{0,2}(\w+):', _section(function, 'Args'), re.MULTILINE
  )
  assert documented == list(signature.parameters)
  returns = signature.return_annotation
  assert returns is not inspect.Signature.empty, 'no annotation'
  assert bool(_section(function, 'Returns')) == (returns is not None)


@pytest.mark.parametrize('name', FUNCTIONS)
def test_a_function_that_raises_says_so(name):
  function = inspect.unwrap(FUNCTIONS[name])
  if re.search(r'^\s+raise ', inspect.getsource(function), re.MULTILINE):
    assert _section(function, 'Raises')


@pytest.mark.parametrize('name', CLASSES)
def test_a_class_says_what_its_fields_are(name):
  cls = CLASSES[name]
  listed = re.findall(r'^  (\w+):', _section(cls, 'Attributes'), re.MULTILINE)
  # A state has a comment at each field in place of the list; what is `Any` is a
  # state of someone else's, and its name says so.
  noted = re.findall(r'^  (\w+):.*  # ', inspect.getsource(cls), re.MULTILINE)
  types = inspect.get_annotations(cls)
  fields = [f for f in types if types[f] is not Any or f in (*listed, *noted)]
  assert fields
  assert fields in (listed, noted)
