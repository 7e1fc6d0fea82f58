"""Arguments of the commands that are no training: all errors are one line."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any


def parse(
  parser: argparse.ArgumentParser, argv: Sequence[str], name: str
) -> argparse.Namespace:
  """Parses the arguments of a command; `--help` outweighs all else."""
  arguments, unknown = parser.parse_known_args(argv)
  if unknown and not arguments.help:
    raise ValueError(f'argument {unknown[0]!r} is not known')
  if getattr(arguments, name) is None and not arguments.help:
    raise ValueError(f'{name.upper()} is missing, --help tells more')
  return arguments


def make_parser(
  usage: str,
  description: str,
  epilog: str,
  name: str,
  name_help: str,
  options: Mapping[str, Mapping[str, Any]],
) -> argparse.ArgumentParser:
  """Makes a parser that leaves all that argparse would print to its caller."""
  parser = argparse.ArgumentParser(
    usage=usage,
    description=description,
    epilog=epilog,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    add_help=False,
    allow_abbrev=False,
    exit_on_error=False,
  )
  parser.add_argument(name, metavar=name.upper(), nargs='?', help=name_help)
  for flag, keywords in options.items():
    parser.add_argument(flag, **keywords)
  parser.add_argument(
    '-h', '--help', action='store_true', help='this text, and nothing else'
  )
  return parser
