import json
import struct

import pytest

from hq_jax import artifact
from hq_jax.artifact import header as headers
from hq_jax.artifact import layout
from hq_jax.artifact import planes
from hq_jax.artifact import reader

FIELDS = {
  'args': {},
  'classes': [],
  'input': [],
  'model': '',
  'preprocessing': {},
  'tree': {},
}


def _body(text):
  text = text if isinstance(text, bytes) else json.dumps(text).encode()
  return struct.pack('<I', len(text)) + planes.deflate(text)


def _tree(tree):
  return _body(FIELDS | {'tree': tree})


def test_text_by_hand():
  specs = (
    layout.Spec('batch_stats/n', 'f4', ()),
    layout.Spec('params/c/kernel', 't', (3, 2)),
    layout.Spec('params/n/bias', 'f2', (2,)),
    layout.Spec('params/n/scale', 'f2', (2,)),
  )
  header = headers.Header(
    'net', {'w': 2}, (8, 8), {'mean': 0.5}, ('é',), specs, {'n': 1e-5}
  )
  body = headers.encode(header)
  text = planes.inflate(body[4:], struct.unpack('<I', body[:4])[0])
  assert text.decode() == (
    '{"args":{"w":2},"classes":["é"],"input":[8,8],"model":"net",'
    '"preprocessing":{"mean":0.5},"tree":{"batch_stats":{"n":["f4"]},'
    '"params":{"c":{"kernel":["t",3,2]},"n":{"":1e-05,"bias":["f2",2],'
    '"scale":["f2",2]}}}}'
  )
  assert headers.decode(body) == header


def test_header_of_a_residual_network_is_small(resnet):
  data = artifact.dumps(resnet)
  assert len(resnet.tensors) > 55
  assert len(reader.parse(data).sections['HEAD']) < 450


@pytest.mark.parametrize(
  ('tree', 'message'),
  [
    ({'params': 3}, "'params': neither a tensor nor a folder"),
    ({'params': []}, "'params': no encoding"),
    ({'params': [4, 4]}, "'params': no encoding"),
    ({'params': ['x', 4]}, "unknown encoding 'x'"),
    ({'params': ['f2', -1]}, 'shape, wanted sizes in'),
    ({'params': ['f2', 1.0]}, 'shape, wanted sizes in'),
    ({'params': ['f2', True]}, 'shape, wanted sizes in'),
    ({'params': ['f2', '4']}, 'shape, wanted sizes in'),
    ({'params': ['f2', [4]]}, 'shape, wanted sizes in'),
    ({'params': ['t', 0, 1 << 40]}, 'shape, wanted sizes in'),
    ({'params': ['t', 1 << 16, 1 << 16]}, 'more than 2147483648 elements'),
    ({'params': ['f2', *[1] * 33]}, '33 axes'),
    ({'params': ['t']}, '0 axes'),
    ({'params': ['q2']}, '0 axes'),
    ({'params': ['q', 4]}, '1 axes'),
    ({'params': ['q8', 4, 4]}, "unknown encoding 'q8'"),
    ({'params': {'a/b': ['f2']}}, 'a name with / in it'),
    ({'a/b': {'c': ['f2']}, 'a': {'b': {'c': ['f2']}}}, 'a name with /'),
    ({'': ['f2']}, 'tensor path'),
    ({'params': {'': 1e-5}}, 'a folded norm outside of params'),
    ({'batch_stats': {'n': {'': 1e-5}}}, 'a folded norm outside of params'),
    ({'params': {'\ud800': ['f2']}}, 'has no UTF-8 form'),
    ({'params': {'n' * 2000: ['f2']}}, 'at most 1024 characters'),
  ],
)
def test_hostile_trees_are_refused(tree, message):
  with pytest.raises(ValueError, match=message.replace('(', r'\(')):
    headers.decode(_tree(tree))


@pytest.mark.parametrize(
  ('body', 'message'),
  [
    (b'', '0 bytes, wanted 4 or more'),
    (b'\xff\xff\xff\xff', 'bytes of JSON, wanted at most'),
    (_body(b'{'), 'Expecting'),
    (_body(b'\xff'), 'utf-8'),
    (_body([]), 'wanted a JSON object'),
    (_body({}), 'wanted a JSON object'),
    (_body(FIELDS | {'more': 1}), 'wanted a JSON object'),
    (_body(FIELDS | {'classes': {}}), "'classes' is no list"),
    (_body(FIELDS | {'model': 1}), "'model' is no str"),
    (_body(b'{"model":1,"model":2}'), 'a key is repeated'),
    (_body(b'[NaN]'), 'NaN in the JSON text'),
    (_body(b'[' * 100_000), 'nested too deeply'),
    (_body(b'1' * 10_000), 'digits'),
    (_body(b'{"a":' * 100_000), 'nested too deeply'),
  ],
)
def test_hostile_texts_are_refused(body, message):
  with pytest.raises(ValueError, match=message):
    headers.decode(body)


def test_deep_trees_are_refused():
  tree = ['f2']
  for _ in range(80):
    tree = {'a': tree}
  with pytest.raises(ValueError, match='wanted 1 to 64 names'):
    headers.decode(_tree(tree))


def test_a_path_cannot_be_tensor_and_folder():
  for paths in (('a', 'a/b'), ('a/b', 'a')):
    specs = tuple(layout.Spec(path, 'f2', ()) for path in paths)
    header = headers.Header('', {}, (), {}, (), specs, {})
    with pytest.raises(ValueError, match=r'is a tensor|it is taken'):
      headers.encode(header)
