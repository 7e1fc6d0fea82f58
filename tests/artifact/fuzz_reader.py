"""Fuzzes the reader of `.hq` files, guided by what of it was run.

It needs atheris, which is no dependency of the tests, and takes its data from
a folder, to which it adds every file that reaches something new:

  pip install atheris
  python -m tests.artifact.fuzz_reader FOLDER -max_total_time=600

The other arguments are libFuzzer's. With none that says otherwise it runs until
something breaks `outcomes.check`; the file is then left beside as `crash-*`.

An input is a whole file. Its checksums would stop almost every change, so that
changes are made to the body of a section, or to the header's text, and the file
is packed again. `tests/artifact/test_fuzz.py` reads the files of
`corpus.zip`, which were found so. To renew it, from FOLDER:

  python -m tests.artifact.fuzz_reader -merge=1 SMALLEST FOLDER
  python -m zipfile -c tests/artifact/corpus.zip SMALLEST/*
"""

import math
import random
import struct
import sys

import numpy as np

_MAX_BYTES = 4096  # of a file
_MAX_ELEMENTS = 1 << 18  # declared: the time of one run stays small


def main(argv):
  # pytest imports this file, where there is no atheris; and hq_jax must be
  # imported under its eyes.
  import atheris

  with atheris.instrument_imports(include=['hq_jax']):
    from hq_jax.artifact import byte_planes
    from hq_jax.artifact import format as container
    from hq_jax.artifact import layout
    from hq_jax.artifact import reader
    from tests.artifact import conftest
    from tests.artifact import mutations
    from tests.artifact import outcomes

  bases = list(mutations.make_bases(conftest.make_small()).values())

  def count_elements(data):
    try:
      specs = reader.parse(data).header.specs
    except ValueError:
      return 0
    return sum(math.prod(spec.shape) for spec in specs)

  def test_one_input(data):
    if count_elements(data) <= _MAX_ELEMENTS:
      outcomes.check(data)

  def mutate_section(data, max_size, rng):
    sections = {k: bytes(v) for k, v in container.unpack(data).items()}
    name = rng.choice(list(sections))
    body = sections[name]
    if name == layout.HEADER:
      size = int.from_bytes(body[:4], 'little')
      text = atheris.Mutate(byte_planes.inflate(body[4:], size), max_size)
      body = struct.pack('<I', len(text)) + byte_planes.deflate(text)
    else:
      body = atheris.Mutate(body, max_size)
    return container.pack(list((sections | {name: body}).items()))

  def mutate(data, max_size, seed):
    rng = random.Random(seed)
    is_good = True
    try:
      reader.parse(data)
    except ValueError:
      data, is_good = rng.choice(bases), False
    if is_good and rng.random() < 0.7:
      changed = mutate_section(data, max_size, rng)
    else:
      changed = mutations.mutate(data, np.random.default_rng(seed))
    return changed if len(changed) <= max_size else data

  atheris.Setup(argv, test_one_input, custom_mutator=mutate)
  atheris.Fuzz()


if __name__ == '__main__':
  # To merge, libFuzzer starts what its first argument says once more.
  command = f'{sys.executable} -m tests.artifact.fuzz_reader'
  main([command, f'-max_len={_MAX_BYTES}', *sys.argv[1:]])
