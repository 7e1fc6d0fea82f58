"""Every file does what takes long: none is refused before."""

from benchmarks import forged_files


def test_files_are_decoded_to_their_ends():
  for name, data in forged_files.make_files(2000).items():
    said = forged_files.read(data)
    assert not said or said.endswith('the stream holds more than the codes'), (
      name
    )


def test_every_file_has_a_row(capsys):
  forged_files.main(['--rounds=1', '--stream_bytes=2000'])
  *table, last = capsys.readouterr().out.splitlines()
  assert len(table) == 2 + len(forged_files.make_files(2000))
  assert last.startswith('{"seconds_a_kb": 0.')
