"""What setup.cfg cannot say: the configs' place, and a README without links."""

import glob
import os
import pathlib
import re

import setuptools
from setuptools.command import build_py

# Where the repository can be read, as https://github.com/OWNER/hq_jax; until it
# is known, nothing in the description can link to a file.
_ADDRESS = ''


class _BuildWithConfigs(build_py.build_py):
  """Puts `configs/` into the package, as `hq_jax/configs`."""

  def run(self):
    super().run()
    if self.editable_mode:
      return
    folder = os.path.join(self.build_lib, 'hq_jax', 'configs')
    self.mkpath(folder)
    for path in glob.glob('configs/*.py'):
      self.copy_file(path, os.path.join(folder, os.path.basename(path)))


def _describe() -> str:
  """The README, for a page that has no files beside it."""
  text = pathlib.Path('README.md').read_text(encoding='utf-8')
  relative = r'\[([^\]]*)\]\((?!https?:|#)([^)]+)\)'
  if _ADDRESS:
    text = re.sub(f'!{relative}', rf'![\1]({_ADDRESS}/raw/main/\2)', text)
    return re.sub(relative, rf'[\1]({_ADDRESS}/blob/main/\2)', text)
  text = re.sub(f'!{relative}\n*', '', text)
  return re.sub(relative, r'\1', text)


setuptools.setup(
  cmdclass={'build_py': _BuildWithConfigs},
  long_description=_describe(),
  long_description_content_type='text/markdown',
)
