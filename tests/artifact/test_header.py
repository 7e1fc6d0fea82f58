import json
import struct

import pytest

from hq_jax.artifact import byte_planes
from hq_jax.artifact import header as headers
from hq_jax.artifact import layout

FIELDS = {
  'args': {},
  'classes': [],
  'input': [],
  'model': '',
  'preprocessing': {},
  'tree': {},
}


EMPTY = headers.Header('', {}, (), {}, (), (), {})


def _body(text):
  text = text if isinstance(text, bytes) else json.dumps(text).encode()
  return struct.pack('<I', len(text)) + byte_planes.deflate(text)


def _tree(tree):
  return _body(FIELDS | {'tree': tree})


def test_text_by_hand():
  specs = (
    layout.Spec('batch_stats/n', 'f4', ()),
    layout.Spec('params/c/kernel', 't', (3, 2)),
    layout.Spec('params/d', 'c24', (8, 2), (16, 4)),
    layout.Spec('params/n/bias', 'f2', (2,)),
    layout.Spec('params/n/scale', 'f2', (2,)),
  )
  header = headers.Header(
    'net', {'w': 2}, (8, 8), {'mean': 0.5}, ('é',), specs, {'n': 1e-5}
  )
  body = headers.encode(header)
  text = byte_planes.inflate(body[4:], struct.unpack('<I', body[:4])[0])
  assert text.decode() == (
    '{"args":{"w":2},"classes":["é"],"input":[8,8],"model":"net",'
    '"preprocessing":{"mean":0.5},"tree":{"batch_stats":{"n":["f4"]},'
    '"params":{"c":{"kernel":["t",3,2]},"d":["c24",16,4,8,2],"n":{"":1e-05,"bias":["f2",2],'
    '"scale":["f2",2]}}}}'
  )
  assert headers.decode(body) == header


@pytest.mark.parametrize(
  ('tree', 'message'),
  [
    ({'params': 3}, "'params': neither a tensor nor a folder"),
    ({'params': []}, "'params': no encoding"),
    ({'params': [4, 4]}, "'params': no encoding"),
    ({'params': ['x', 4]}, "unknown encoding 'x'"),
    ({'params': ['f2', -1]}, 'shape, wanted sizes in'),
    ({'params': ['f2', True]}, 'shape, wanted sizes in'),
    ({'params': ['f2', [4]]}, 'shape, wanted sizes in'),
    ({'params': ['t', 0, 1 << 40]}, 'shape, wanted sizes in'),
    ({'params': ['t', 1 << 16, 1 << 16]}, 'more than 2147483648 elements'),
    # NumPy has no array of this shape, empty as it is.
    ({'params': ['f2', 0, 1 << 31, 1 << 31]}, 'more than 2147483648 elements'),
    ({'params': ['f2', *[1] * 33]}, '33 axes'),
    ({'params': ['t']}, '0 axes'),
    ({'params': ['q2']}, '0 axes'),
    ({'params': ['q', 4]}, '1 axes'),
    ({'params': ['t2', [0, 1]]}, '0 axes'),
    ({'params': ['t', [0], 2, 3]}, "axes of scales, 't' has none"),
    ({'params': ['q2', [0], 2, 3]}, 'shape, wanted sizes in'),
    ({'params': ['t2', 2, [0], 3]}, 'shape, wanted sizes in'),
    *[
      ({'params': ['t2', axes, 2, 1, 3]}, f'axes of scales {axes}'[:15])
      for axes in ([2], [0, 1], [2, 0], [0, 0], [3], [-1], [True], [[0]], [0.0])
    ],
    ({'params': ['t4', [], 2, 1]}, 'wanted ascending axes of sizes other'),
    ({'params': ['c2']}, '0 axes'),
    ({'params': ['c2', 4, 1, 4]}, '1 axes'),
    ({'params': ['c2', 0, 1, 4, 4]}, '0 codewords of size 1, wanted 1 to 256'),
    ({'params': ['c2', 257, 1, 4, 4]}, '257 codewords of size 1'),
    ({'params': ['c2', 4, 0, 4, 4]}, '4 codewords of size 0'),
    ({'params': ['c2', 4, 1 << 32, 0, 4]}, '4 codewords of size 4294967296'),
    ({'params': ['c2', 4, True, 4, 4]}, 'wanted their number and their size'),
    ({'params': ['c44', 4, 3, 4, 4]}, 'of size 3 in 4 input channels'),
    ({'params': ['c8', 4, 1, 4, 4]}, "unknown encoding 'c8'"),
    ({'params': ['q8', 4, 4]}, "unknown encoding 'q8'"),
    ({'params': {'a/b': ['f2']}}, 'a name with / in it'),
    ({'a/b': {'c': ['f2']}, 'a': {'b': {'c': ['f2']}}}, 'a name with /'),
    ({'': ['f2']}, 'tensor path'),
    ({'params': {'': 1e-5}}, 'a folded norm outside of params'),
    ({'params': {'n': {'': 1}}}, "norm 'n': epsilon is no float"),
    ({'params': {'n': {'': [[]]}}}, "norm 'n': epsilon is no float"),
    ({'batch_stats': {'n': {'': 1e-5}}}, 'a folded norm outside of params'),
    ({'params': {'\ud800': ['f2']}}, 'wanted what UTF-8 can hold'),
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
    (_body(FIELDS | {'input': [[[1]]]}), "'input' holds what is no integer"),
    (_body(FIELDS | {'input': [1.0]}), "'input' holds what is no integer"),
    (_body(FIELDS | {'input': [True]}), "'input' holds what is no integer"),
    (_body(b'{"model":1,"model":2}'), 'a key is repeated'),
    (_body(b'[NaN]'), 'NaN in the JSON text'),
    (_body(b'[' * 50_000), 'nested too deeply'),
    (_body(b'1' * 10_000), 'digits'),
    (_body(b'{"a":' * 50_000), 'nested too deeply'),
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


def _refused_by_both(header, body, message):
  for code, given in ((headers.encode, header), (headers.decode, body)):
    with pytest.raises(ValueError, match=message):
      code(given)


def test_texts_are_bounded():
  frame = len(json.dumps(FIELDS, separators=(',', ':')))
  name = 'a' * (headers.MAX_BYTES - frame)
  assert (
    headers.decode(headers.encode(EMPTY._replace(model=name))).model == name
  )
  _refused_by_both(
    EMPTY._replace(model=f'{name}a'),
    struct.pack('<I', headers.MAX_BYTES + 1) + byte_planes.deflate(b''),
    '1048577 bytes of JSON, wanted at most 1048576',
  )


def test_marks_of_a_text_are_bounded():
  # The fields have 5 commas and 6 opening brackets.
  names = ('',) * (headers.MAX_MARKS - 11 + 1)
  most = headers.encode(EMPTY._replace(class_names=names))
  assert headers.decode(most).class_names == names
  _refused_by_both(
    EMPTY._replace(class_names=(*names, '')),
    _body(FIELDS | {'classes': [*names, '']}),
    '65537 commas and opening brackets in the JSON text, wanted at most 65536',
  )


def test_paths_are_bounded():
  number = headers.MAX_PATHS
  spec = layout.Spec('', 'u1', ())
  specs = [spec._replace(path=f'{i:04}') for i in range(number + 1)]
  most = EMPTY._replace(specs=tuple(specs[:-1]))
  assert headers.decode(headers.encode(most)) == most
  tree = {spec.path: ['u1'] for spec in specs}
  message = '8193 tensors and folded norms or more, .* at most 8192'
  _refused_by_both(EMPTY._replace(specs=tuple(specs)), _tree(tree), message)
  # A folded norm counts as a tensor does.
  norms = {'params': {'n': {'': 0.5}}}
  _refused_by_both(
    most._replace(folded_norms={'n': 0.5}),
    _tree({name: tree[name] for name in list(tree)[:-1]} | norms),
    message,
  )


def test_characters_of_paths_are_bounded():
  paths = [f'{i:0512}' for i in range(headers.MAX_CHARACTERS // 512)]
  specs = tuple(layout.Spec(path, 'u1', ()) for path in paths)
  most = EMPTY._replace(specs=specs)
  assert headers.decode(headers.encode(most)) == most
  more = layout.Spec('a', 'u1', ())
  _refused_by_both(
    EMPTY._replace(specs=(*specs, more)),
    _tree({path: ['u1'] for path in (*paths, 'a')}),
    'paths have 524289 characters; wanted at most 8192 and 524288',
  )
