#!/usr/bin/env bash
# Trains, compresses and evaluates on this machine: the 8x8 digits, unless the
# arguments name another config. From a fresh checkout it needs nothing but
# Python 3.11 or later; paths are relative to the repository root.
#
#   launch/local.sh [--dry_run] [ARGUMENTS OF hq_jax.main]
#   launch/local.sh [--dry_run] --processes=N [--devices_per_process=D]
#     [ARGUMENTS OF hq_jax.main]   N processes, started again after a death
#
# PYTHON=python3.12  makes .venv with this interpreter (default: python3)
# WORKDIR=runs/mine  writes results there (default: runs/digits)
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_venv.sh"

install '.[train,report]'
if [[ " $*" == *' --processes'* ]]; then
  launch local --python=.venv/bin/python --config=configs/digits.py \
    --workdir="${WORKDIR:-runs/digits}" "$@"
fi
become .venv/bin/python -m hq_jax.main --config=configs/digits.py \
  --workdir="${WORKDIR:-runs/digits}" "$@"
