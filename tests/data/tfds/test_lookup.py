"""Names of data sets, and which prepared folder is found for one."""

import subprocess

import pytest

from hq_jax.data.tfds import lookup


def _make_versions(folder, *names):
  for name in names:
    (folder / name).mkdir(parents=True)
    for file in ('dataset_info.json', 'features.json'):
      (folder / name / file).touch()


def test_the_newest_complete_version_is_found(tmp_path):
  folder = tmp_path / 'tiny'
  _make_versions(folder, '1.9.0', '1.10.0', 'incomplete.ABCDEF_2.0.0', '2.0')
  _make_versions(folder, '3.0.0', '4.0.0')
  (folder / '3.0.0' / 'features.json').unlink()
  (folder / '4.0.0' / 'dataset_info.json').unlink()
  assert lookup.find('tiny', tmp_path) == folder / '1.10.0'
  assert lookup.find('tiny:1.9.0', tmp_path) == folder / '1.9.0'
  for name in ('tiny:3.0.0', 'tiny:1.9.1', 'tiny/a', 'tiny/1.9.0', 'other'):
    assert lookup.find(name, tmp_path) is None
  assert lookup.find('tiny', tmp_path / 'missing') is None


def test_a_config_is_a_folder(pictures_dir, tmp_path):
  folder = pictures_dir / 'tiny_pictures'
  find = lambda name: lookup.find(name, pictures_dir)
  assert find('tiny_pictures/blind') == folder / 'blind' / '1.0.0'
  assert find('tiny_pictures/blind:1.0.0') == folder / 'blind' / '1.0.0'
  assert find('tiny_pictures/blind:1.0.1') is None
  # TFDS's default, which it writes down: the first one.
  assert find('tiny_pictures') == folder / 'secret' / '1.0.0'
  assert find('tiny_pictures:1.0.0') == folder / 'secret' / '1.0.0'


@pytest.mark.parametrize(
  'name',
  [
    *('', 'Cifar', 'a b', '../a', 'a/..', 'a/b/c', 'a:', 'a:1.0', 'a:01.0.0'),
    *('a/', 'hub:a', 'a:1.0.0:2.0.0', 'a/b=1', 'a\n', 'a:1..0'),
  ],
)
def test_a_name_that_is_none(name, tmp_path):
  with pytest.raises(ValueError, match=r'^name is .*wanted') as caught:
    lookup.find(name, tmp_path)
  assert '\n' not in str(caught.value)


def test_the_command_is_one_for_a_shell(tmp_path):
  assert lookup.prepare_command('a/b') == 'python -m hq_jax prepare a/b'
  command = lookup.prepare_command('a:1.0.0', tmp_path / "it's")
  line = f'printf "%s|" {command}'
  printed = subprocess.run(['sh', '-c', line], capture_output=True, text=True)
  assert printed.stdout.split('|')[4:] == [
    'a:1.0.0',
    f"--data_dir={tmp_path}/it's",
    '',
  ]
