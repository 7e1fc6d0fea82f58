"""Becomes a command that dies with the launcher: `python child.py PID WORDS`.

Linux alone can do that; elsewhere the command is started as it is. A process of
its own sets it up, because Python code between fork and exec may hang.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>; execve keeps what it sets


def main(argv: list[str]) -> int:
  """Turns this process into the command."""
  launcher, words = int(argv[0]), argv[1:]
  if sys.platform.startswith('linux'):
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:  # It died before this was set.
      return 2
  try:
    os.execvp(words[0], words)
  except OSError as error:
    print(f'hq_jax: {words[0]}: {error.strerror}', file=sys.stderr)
    return 2


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
