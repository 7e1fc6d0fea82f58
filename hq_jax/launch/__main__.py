"""The launcher as a program: `python -m hq_jax.launch COMMAND`."""

import sys

from hq_jax.launch import cli

if __name__ == '__main__':
  sys.exit(cli.main(sys.argv[1:]))
