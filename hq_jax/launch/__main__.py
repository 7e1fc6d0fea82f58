"""The launcher as a program: `python -m hq_jax.launch COMMAND`."""

import sys

from hq_jax.launch import cli

main = cli.main

if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
