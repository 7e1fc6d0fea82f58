"""The decoder in JavaScript against the reader, run by Node."""

import base64
import hashlib
import json
import math
import zipfile

import numpy as np
import pytest

from hq_jax import artifact
from hq_jax.artifact import layout
from hq_jax.artifact import variables
from tests.artifact import mutations
from tests.artifact import test_fuzz
from tests.artifact import test_golden
from tests.artifact.conftest import make_resnet
from tests.artifact.conftest import make_small
from tests.inference.web import node

pytestmark = node.needed

# The first is refused by browsers, but not by every Node; what the others say
# is of no use to the page, which skips those sections.
_PASSED = (
  'bytes follow the end of the DEFLATE',
  'section rngs:',
  'section nest:',
)


def _decode(files):
  """What the decoder says of each."""
  lines = [base64.b64encode(data).decode() for data in files]
  return [json.loads(line) for line in node.run('decode.mjs', lines)]


def _expect(data):
  """The same of the reader, or its message; numbers as JavaScript has them."""
  try:
    found = artifact.loads(data)
  except ValueError as error:
    return str(error)
  plain = {
    'model': found.model,
    'args': found.model_args,
    'input': found.input_shape,
    'preprocessing': found.preprocessing,
    'classes': found.class_names,
    'norms': sorted(found.folded_norms.items()),
    'tensors': [_describe(*item) for item in found.tensors.items()],
  }
  return _to_floats(plain)


def _to_floats(plain):
  text = json.dumps(plain)
  return json.loads(text, parse_int=_round, parse_float=_round)


def _round(text):
  return float(text) + 0.0  # no -0


def _describe(path, tensor):
  spec = layout.spec_of(path, tensor)
  if isinstance(tensor, np.ndarray):
    parts = {'values': tensor}
  else:
    parts = tensor._asdict()
  digest = hashlib.sha256()
  for name in ('codes', 'indices', 'codewords', 'scale', 'values'):
    values = parts.get(name)
    if values is not None:
      if values.dtype == np.float16:
        values = values.astype(np.float32)
        values[np.isnan(values)] = math.nan
      digest.update(f'{name} '.encode() + values.tobytes())
  if spec.scale_axes is not None:
    with np.errstate(over='ignore', invalid='ignore'):
      values = variables.to_array(tensor)
    values[np.isnan(values)] = math.nan
    digest.update(b'float32 ' + values.tobytes())
  return [path, spec.encoding, list(spec.shape), digest.hexdigest()]


def _check(files):
  """Equal to the bit, or refused by both; returns how many are refused."""
  num_refused = 0
  for data, found in zip(files, _decode(files), strict=True):
    expected = _expect(data)
    if not isinstance(expected, str):
      found['norms'].sort()
      assert _to_floats(found) == expected
    elif not any(part in expected for part in _PASSED):
      assert '\n' not in found['refused'], expected
      num_refused += 1
  return num_refused


def test_files_of_all_kinds_decode_to_the_same():
  bases = mutations.make_bases(make_small())
  resnets = [artifact.dumps(make_resnet(zeros)) for zeros in (0.0, 0.7, 0.95)]
  golden = [p.read_bytes() for p in (test_golden.PATH, test_golden.CLASSES)]
  files = [*golden, *bases.values(), *resnets]
  assert _check(files) == 0


def test_the_corpus_is_judged_alike():
  with zipfile.ZipFile(test_fuzz.CORPUS) as corpus:
    files = [corpus.read(name) for name in corpus.namelist()]
  assert 0 < _check(files) < len(files)


@pytest.mark.parametrize(
  'number', [200, pytest.param(3000, marks=pytest.mark.slow)]
)
def test_damaged_files_are_judged_alike(number):
  bases = mutations.make_bases(make_small())
  files = [
    mutations.mutate(data, np.random.default_rng((5, place, index)))
    for place, data in enumerate(bases.values())
    for index in range(number // len(bases))
  ]
  assert 0 < _check(files) < len(files)
