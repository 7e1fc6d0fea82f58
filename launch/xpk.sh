#!/usr/bin/env bash
# Hands a run to Google Kubernetes Engine, with xpk; docs/pods.md tells more.
#
#   launch/xpk.sh [--dry_run] --cluster=C --workload=W --tpu_type=T [FLAGS]
#     --config=FILE --workdir=FOLDER [ARGUMENTS OF hq_jax.main]
#
# PYTHON=python3.12  runs the launcher (default: that of .venv, or python3)
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_venv.sh"

launch xpk "$@"
