#!/usr/bin/env bash
# Submits a run to Slurm, one process for each GPU; docs/pods.md tells more.
#
#   launch/gpu_slurm.sh [--dry_run] --nodes=N --gpus_per_node=G [FLAGS]
#     --config=FILE --workdir=FOLDER [ARGUMENTS OF hq_jax.main]
#
# PYTHON=python3.12  runs the launcher (default: that of .venv, or python3)
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_venv.sh"

launch slurm "$@"
