#!/usr/bin/env bash
# Runs one process on each of several hosts, over ssh; docs/pods.md tells more.
#
#   launch/gpu_hosts.sh [--dry_run] --hosts=A,B,... [FLAGS]
#     --config=FILE --workdir=FOLDER [ARGUMENTS OF hq_jax.main]
#
# PYTHON=python3.12  runs the launcher (default: that of .venv, or python3)
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_venv.sh"

launch hosts "$@"
