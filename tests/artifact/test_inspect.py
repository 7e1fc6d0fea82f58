"""What is said of good files and of bad ones."""

import io
import json
import re
import sys
import zlib

import jax
import numpy as np
import pytest

from hq_jax import __main__ as commands
from hq_jax import artifact
from hq_jax.artifact import format as container
from hq_jax.artifact import inspect
from hq_jax.core import qtensors

LONG = '/'.join(['params', *[f'encoder_block_{i}' for i in range(9)], 'kernel'])


def make_artifact(rng):
  codes = rng.choice(3, (3, 3, 32, 40), p=[0.1, 0.8, 0.1]).astype(np.int8) - 1
  head = rng.choice(3, (40, 7), p=[0.25, 0.5, 0.25]).astype(np.int8) - 1
  return artifact.Artifact(
    'small_net',
    {'widths': [16, 40]},
    (8, 8, 16),
    {'mean': [0.5]},
    tuple('abcdefg'),
    {
      LONG: qtensors.TernaryTensor(codes),
      'params/head/kernel': qtensors.TernaryTensor(
        head, np.ones((1, 7), np.float16)
      ),
      'params/norm/scale': np.ones(40, np.float16),
      'params/norm/bias': rng.normal(size=40).astype(np.float16),
      'params/gain': np.float32(2.0).reshape(()),
    },
    {'norm': 1e-5},
    (6.0, 0.5),
  )


@pytest.fixture
def data(rng):
  return artifact.dumps(make_artifact(rng))


@pytest.fixture
def path(data, tmp_path):
  path = tmp_path / 'model.hq'
  path.write_bytes(data)
  return path


def test_dense_bytes_count_four_vectors_per_folded_norm(data):
  found = inspect.describe(data)
  assert found['folded_norms'] == {'norm': 1e-5}
  by_hand = 4 * (9 * 32 * 40 + 40 * 7 + 4 * 40 + 1)
  assert found['dense_bytes'] == by_hand
  assert found['ratio'] == by_hand / len(data)
  variables = artifact.to_variables(artifact.loads(data))
  assert by_hand == 4 * sum(np.size(x) for x in jax.tree.leaves(variables))


def test_sections_are_those_of_the_file(data):
  bodies = container.unpack(data)
  assert len(bodies) == 5
  assert inspect.describe(data)['sections'] == [
    {'name': name, 'bytes': len(body), 'crc32': zlib.crc32(body)}
    for name, body in bodies.items()
  ]


def check_sums(found):
  in_layers = sum(layer['bytes'] for layer in found['layers'])
  assert in_layers + found['container_bytes'] == found['file_bytes']
  assert sum(found['parts'].values()) == found['file_bytes']


def with_ancillary(data):
  sections = [*container.unpack(data).items(), ('note', b'a' * 1234)]
  return container.pack(sections)


def table(text):
  """The rows behind the rule of the last table: path, bytes, all the line."""
  lines = text.splitlines()
  start = max(i for i, line in enumerate(lines) if line.startswith('tensor '))
  end = lines[start].index('bytes') + len('bytes')
  return [
    (line.split('  ')[0], int(line[:end].split()[-1].replace(',', '')), line)
    for line in lines[start + 2 :]
  ]


@pytest.mark.parametrize('change', [bytes, with_ancillary])
def test_the_column_of_bytes_adds_up_to_the_file(data, change):
  changed = change(data)
  found = inspect.describe(changed)
  check_sums(found)
  assert found['parts'] == artifact.sizes(changed)
  *rows, (_, total, last) = table(inspect.format_text(found))
  assert total == len(changed) == sum(num_bytes for _, num_bytes, _ in rows)
  assert last.startswith('(the file) ') and f'{total:,}' in last
  names = [name for name, _, _ in rows]
  assert names[:5] == [row.path for row in artifact.layers(changed)]
  assert names[5:7] == ['(preamble and section table)', '(header)']
  assert names[7] == '(activation ranges)'
  assert names[8:] == ['(ancillary sections)'] * (change is with_ancillary)


def test_the_row_of_a_tensor(data):
  rows = {name: line for name, _, line in table(text_of(data))}
  size = {row.path: row for row in artifact.layers(data)}
  head = size['params/head/kernel']
  assert rows['params/head/kernel'].split(maxsplit=6) == [
    'params/head/kernel',
    '40x7',
    f'{head.zeros:.2%}',
    f'{head.entropy_bits:.3f}',
    f'{8 * head.num_bytes / 280:.3f}',
    f'{head.num_bytes}',
    'ternary + float16 scale',
  ]
  kernel = rows[LONG].split()
  assert kernel[1] == '3x3x32x40' and kernel[6] == 'ternary'
  assert kernel[5] == f'{size[LONG].num_bytes:,}' and ',' in kernel[5]
  gain = rows['params/gain'].split()
  assert gain[1:4] == ['scalar', '0.00%', '-'] and gain[6] == 'float32'
  assert rows['params/norm/bias'].split()[6] == 'float16'


def text_of(data):
  return inspect.format_text(inspect.describe(data, 'a.hq'))


def test_the_lines_above_the_tables(data):
  text = text_of(data)
  found = inspect.describe(data)
  assert text.splitlines()[:9] == [
    f'file: a.hq (format version {container.VERSION})',
    'model: small_net',
    'arguments: {"widths": [16, 40]}',
    'input shape: 8x8x16',
    'preprocessing: {"mean": [0.5]}',
    "classes: 7 ('a', 'b', 'c', 'd', 'e', ...)",
    f'bytes: {len(data):,}',
    f'ratio: {found["ratio"]:.2f} (47,844 bytes in float32: all parameters and'
    ' statistics)',
    'checksums: good (5 sections)',
  ]
  assert len(data) > 1000
  for name, body in container.unpack(data).items():
    line = f'{name} +{len(body):,}  {zlib.crc32(body):08x}'
    assert re.search(f'^{line}$', text, re.MULTILINE)


def test_a_codebook_tensor_in_words(rng):
  kernel = qtensors.CodebookTensor(
    rng.integers(0, 4, (8, 6)).astype(np.uint8),
    np.array([[0, 1], [2, 3], [4, 5], [6, 7]], np.float16),
    np.ones(6, np.float32),
  )
  given = artifact.Artifact('', {}, (), {}, (), {'params/k': kernel}, {})
  found = inspect.describe(artifact.dumps(given))
  assert found['dense_bytes'] == 4 * 16 * 6
  (row,) = found['layers']
  assert row['shape'] == [16, 6]
  assert row['zeros'] == np.mean(kernel.indices == 0) / 2
  total = row['bytes'] + found['container_bytes']
  assert total == found['file_bytes']
  text = inspect.format_text(found)
  assert 'float16 codebook + float32 scale' in text
  assert 'INDX' in text


def test_without_classes_and_tensors():
  empty = artifact.Artifact('', {}, (), {}, (), {}, {})
  text = text_of(artifact.dumps(empty))
  assert 'input shape: scalar\n' in text and 'classes: 0\n' in text
  assert 'ratio: 0.00 (0 bytes' in text
  assert [name for name, _, _ in table(text)][1:] == ['(header)', '(the file)']


def test_few_classes_are_all_shown_and_long_texts_are_cut(rng):
  few = make_artifact(rng)._replace(
    model_args={'a': 'b' * 2000}, class_names=('c' * 50, 'tench, Tinca')
  )
  lines = text_of(artifact.dumps(few)).splitlines()
  assert lines[2].endswith('b...') and len(lines[2]) == 1000
  assert lines[5] == f"classes: 2 ('{'c' * 37}...', 'tench, Tinca')"


def test_every_encoding_has_a_name_of_its_own():
  names = {
    **{'t': 'ternary', 't2': 'ternary + float16 scale'},
    **{'q': 'int8 codes', 'q2': 'int8 + float16 scale'},
    **{'c4': 'float32 codebook', 'c24': 'float16 codebook + float32 scale'},
    **{'f2': 'float16', 'f8': 'float64', 'i1': 'int8', 'u4': 'uint32'},
  }
  assert {x: inspect.name_encoding(x) for x in names} == names
  found = inspect.name_encoding('t2', scale_axes=[0, 2])
  assert found == 'ternary + float16 scale by axes 0, 2'
  found = inspect.name_encoding('t2', has_contexts=True)
  assert found == 'ternary by contexts + float16 scale'


EVIL = '\x1b[2J\x1b]0;owned\x07\n\r\x7f\x9b31m\u202e\u2028'


@pytest.fixture
def evil(rng, tmp_path):
  good = make_artifact(rng)
  found = dict(good.tensors)
  found[f'params/{EVIL}'] = np.ones(3, np.int8)
  path = tmp_path / 'evil.hq'
  path.write_bytes(
    artifact.dumps(
      good._replace(
        model=f'net{EVIL}\u00e9',
        model_args={EVIL: EVIL},
        preprocessing={'mean': EVIL},
        class_names=(EVIL, 'b'),
        tensors=found,
      )
    )
  )
  return path


def test_no_control_character_reaches_the_terminal(evil, path, capsys):
  assert commands.main(['inspect', str(path)]) == 0
  usual = capsys.readouterr().out.splitlines()
  assert commands.main(['inspect', str(evil)]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert all(line.isprintable() for line in lines)
  # One tensor more, and one section for its type.
  assert len(lines) == len(usual) + 2
  shown = r'\x1b[2J\x1b]0;owned\x07\n\r\x7f\x9b31m\u202e\u2028'
  assert lines[1] == f'model: net{shown}\u00e9'
  rows = {line.split('  ')[0] for line in lines}
  assert f'params/{shown}' in rows


def test_json_of_a_hostile_file_is_ascii_and_true(evil, capsys):
  assert commands.main(['inspect', '--json', str(evil)]) == 0
  out = capsys.readouterr().out
  assert out.endswith('}\n') and out[:-1].isprintable() and out.isascii()
  found = json.loads(out)
  assert found['model'] == f'net{EVIL}\u00e9'
  assert found['class_names'] == [EVIL, 'b']
  assert found['layers'][0]['path'] == f'params/{EVIL}'


def test_json_holds_everything(path, data, capsys):
  assert commands.main(['inspect', str(path), '--json']) == 0
  out, err = capsys.readouterr()
  assert err == '' and out.count('\n') == 1
  found = json.loads(out)
  assert found == inspect.describe(data, str(path))
  assert list(found) == sorted(found)
  assert list(found['layers'][0]) == sorted(found['layers'][0])
  check_sums(found)


def test_a_terminal_of_ascii_shows_escapes(evil, monkeypatch):
  raw = io.BytesIO()
  stream = io.TextIOWrapper(raw, encoding='ascii')
  monkeypatch.setattr(sys, 'stdout', stream)
  assert commands.main(['inspect', str(evil)]) == 0
  assert b'u2028\\xe9\n' in raw.getvalue()


@pytest.mark.parametrize(
  ('kind', 'word'),
  [
    ('missing', 'no such file'),
    ('folder', 'Is a directory'),
    ('flipped', 'section CODE: damaged'),
    ('foreign', 'not an .hq file'),
  ],
)
@pytest.mark.parametrize('flags', [[], ['--json']])
def test_a_bad_file_is_one_line(kind, word, flags, data, tmp_path, capsys):
  path = tmp_path / 'bad.hq'
  if kind == 'folder':
    path.mkdir()
  elif kind == 'flipped':
    middle = len(data) * 7 // 10
    flipped = bytes([data[middle] ^ 4])
    path.write_bytes(data[:middle] + flipped + data[middle + 1 :])
  elif kind == 'foreign':
    path.write_bytes(b'PK\x03\x04\x1b[2J an archive')
  assert commands.main(['inspect', str(path), *flags]) == 2
  out, err = capsys.readouterr()
  assert out == ''
  assert err.startswith(f'hq_jax: {path}: ') and word in err
  assert err.count('\n') == 1 and err[:-1].isprintable()


def test_a_name_with_a_line_break_is_one_line(tmp_path, capsys):
  assert commands.main(['inspect', str(tmp_path / 'a\nb\x1b.hq')]) == 2
  err = capsys.readouterr().err
  assert r'a\nb\x1b.hq: no such file' in err
  assert err.count('\n') == 1 and err[:-1].isprintable()
