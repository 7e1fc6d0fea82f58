"""Processes of one run: how they begin, and how they agree."""

import json
import sys

import pytest

from hq_jax.launch import local
from hq_jax.runtime import distributed
from tests import runs


@pytest.mark.parametrize(
  'arguments',
  [
    (None, None, None),
    ('auto', None, None),
    ('localhost:1', 1, 0),
    ('10.0.0.1:65535', 2, 1),
    ('[::1]:1234', 512, 511),
  ],
)
def test_what_can_be_used_is_not_refused(arguments):
  distributed.check(*arguments)


_REFUSED = [
  *(
    ((coordinator, 2, 0), f"coordinator is '{coordinator}', wanted {wanted}")
    for wanted in ["HOST:PORT or 'auto'"]
    for coordinator in (
      *('', 'here', 'here:', ':80', 'a b:80', 'here:0', 'here:65536'),
      'here:-1',
    )
  ),
  (
    (None, 2, None),
    'num_processes is 2, but coordinator is None, wanted HOST:PORT',
  ),
  (
    (None, None, 0),
    'process_id is 0, but coordinator is None, wanted HOST:PORT',
  ),
  (
    ('auto', 2, 0),
    "num_processes is 2, but coordinator is 'auto', wanted HOST:PORT",
  ),
  (
    ('here:80', None, 0),
    "num_processes is missing, wanted with coordinator 'here:80'",
  ),
  (
    ('here:80', 2, None),
    "process_id is missing, wanted with coordinator 'here:80'",
  ),
  (('here:80', 0, 0), 'num_processes is 0, wanted at least 1'),
  (('here:80', 2, 2), 'process_id is 2, wanted 0..1'),
  (('here:80', 2, -1), 'process_id is -1, wanted 0..1'),
]


@pytest.mark.parametrize(('arguments', 'message'), _REFUSED)
@pytest.mark.parametrize(
  'call', [distributed.check, distributed.initialize], ids=lambda f: f.__name__
)
def test_what_cannot_be_used_is_refused(call, arguments, message):
  with pytest.raises(ValueError) as caught:
    call(*arguments)
  assert str(caught.value) == message


def test_one_process_is_the_first_and_alone():
  distributed.initialize(None, None, None)
  assert distributed.is_single_process() and distributed.is_primary()
  value = {'a': [1, None, 'x']}
  assert distributed.gather(value) == [value]
  assert distributed.broadcast_bytes(b'\0\xff') == b'\0\xff'
  assert (
    distributed.broadcast_bytes(b'') == distributed.broadcast_bytes(None) == b''
  )


@pytest.mark.parametrize(
  'call', [distributed.raise_on_all, distributed.first_then_others]
)
def test_one_process_runs_once_and_raises_what_is_raised(call):
  calls = []
  assert call(lambda: calls.append(0) or len(calls)) == 1
  error: Exception
  for error in (ValueError('no'), FileNotFoundError(2, 'no'), KeyError('no')):

    def refuse(error=error):
      raise error

    with pytest.raises(type(error)) as caught:
      call(refuse)
    assert caught.value is error


# What each of two processes finds is printed as JSON, behind a mark: the
# transport writes lines of its own.
_TWO = """
import json, os, sys, time
import jax
import numpy as np

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 2)
from hq_jax.runtime import distributed
from hq_jax.runtime import sharding

coordinator, index, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
distributed.initialize(coordinator, 2, index)
found = {'primary': distributed.is_primary()}
found['single'] = distributed.is_single_process()
values = [{'a': 'x' * 1000}, None]
found['gather'] = [
  distributed.gather(values[index]), distributed.gather('\\u00e9' * (5 * index))
]
large = np.random.default_rng(0).bytes(300_001)
found['broadcast'] = [
  distributed.broadcast_bytes(data if index == 0 else other) == data
  for data in (b'', large, b'\\0')
  for other in (None, b'of no matter')
]

def refuse(who, error):
  def run():
    if index in who:
      raise error(f'no {index}')
    return index
  try:
    return distributed.raise_on_all(run)
  except (ValueError, OSError) as caught:
    return f'{type(caught).__name__}: {caught}'

found['raise_on_all'] = [
  refuse(who, error)
  for who, error in [
    ((), ValueError), ((1,), ValueError), ((0,), OSError), ((0, 1), ValueError)
  ]
]

def work():
  path = os.path.join(folder, 'work')
  if index == 0:
    time.sleep(0.3)
    open(path, 'x').close()
  return os.path.exists(path)

found['in_order'] = distributed.first_then_others(work)
for who in (0, 1):
  ran = []
  def work_or_refuse(who=who, ran=ran):
    ran.append(index)
    if index == who:
      raise ValueError('no')
  try:
    distributed.first_then_others(work_or_refuse)
  except ValueError as error:
    found[f'refused_{who}'] = [str(error), ran]

mesh = sharding.make_mesh(fsdp=4)
whole = {'k': np.arange(24.0).reshape(3, 8), 'v': np.arange(3)}
cut = sharding.to_devices(whole, mesh)
found['local'] = [np.asarray(s.data)[0].tolist()
                  for s in cut['k'].addressable_shards]
back = sharding.to_host(cut)
found['back'] = {name: np.array_equal(back[name], whole[name])
                 for name in whole}
batch = {'x': np.array([10 * index + 1, 10 * index + 2])}
batch = sharding.to_global(batch, mesh)
found['batch'] = sharding.to_host(batch)['x'].tolist()
print('FOUND' + json.dumps(found), flush=True)
"""


@pytest.fixture(scope='module')
def both(tmp_path_factory):
  """What two real processes found."""
  folder = tmp_path_factory.mktemp('both')
  coordinator = f'127.0.0.1:{local.find_free_port()}'
  words = [sys.executable, '-c', _TWO, coordinator]
  env = runs.environment(folder)
  with (
    runs.start([*words, '0', str(folder)], env) as first,
    runs.start([*words, '1', str(folder)], env) as second,
  ):
    ends = [running.finish(120) for running in (first, second)]
  found = []
  for done in ends:
    assert done.returncode == 0, done.stderr
    (line,) = [x for x in done.stdout.splitlines() if x.startswith('FOUND')]
    found.append(json.loads(line.removeprefix('FOUND')))
  return found


@pytest.mark.slow
def test_two_processes_share_what_they_have(both):
  assert [found['primary'] for found in both] == [True, False]
  assert [found['single'] for found in both] == [False, False]
  # Of unlike lengths, and letters of more than a byte.
  wanted = [[{'a': 'x' * 1000}, None], ['', 5 * '\u00e9']]
  assert [found['gather'] for found in both] == [wanted, wanted]
  # The bytes of the first.
  assert [found['broadcast'] for found in both] == [[True] * 6] * 2


@pytest.mark.slow
def test_what_one_process_refuses_all_refuse(both):
  first, second = (found['raise_on_all'] for found in both)
  assert first == [
    0,
    'ValueError: process 1: no 1',
    'OSError: no 0',
    'ValueError: no 0',
  ]
  assert second == [
    1,
    'ValueError: no 1',
    'ValueError: process 0: no 0',
    'ValueError: no 1',
  ]


@pytest.mark.slow
def test_the_others_begin_when_the_first_is_done(both):
  assert [found['in_order'] for found in both] == [True, True]
  first, second = both
  # What the first refuses, the others do not begin.
  assert first['refused_0'] == ['no', [0]]
  assert second['refused_0'] == ['process 0: no', []]
  assert first['refused_1'] == ['process 1: no', [0]]
  assert second['refused_1'] == ['no', [1]]


@pytest.mark.slow
def test_arrays_over_two_processes_come_back_whole(both):
  # Each of the four devices has two columns; the rows of a batch are in order.
  assert both[0]['local'] == [[0.0, 1.0], [2.0, 3.0]]
  assert both[1]['local'] == [[4.0, 5.0], [6.0, 7.0]]
  for found in both:
    assert found['back'] == {'k': True, 'v': True}
    assert found['batch'] == [1, 2, 11, 12]
