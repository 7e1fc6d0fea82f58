#!/usr/bin/env bash
# Checks style, types and behaviour, with the tools of the extra `test`.
#
#   launch/test.sh [--dry_run] [ARGUMENTS OF pytest]
#
# PYTHON=python3.12    makes .venv with this interpreter (default: python3)
# EXTRAS=test,prepare  installs TensorFlow too, for tests that write with TFDS
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_venv.sh"

install ".[${EXTRAS:-test}]"
run .venv/bin/python -m ruff check .
run .venv/bin/python -m ruff format --check .
run .venv/bin/python -m mypy
# A process for each core; tests of one file share what they compiled.
run .venv/bin/python -m pytest --numprocesses=auto --dist=loadfile "$@"
