#!/usr/bin/env bash
# A run on a slice of Cloud TPU VMs; docs/pods.md walks through it.
#
#   launch/tpu_pod.sh [--dry_run] VERB --name=N --zone=Z [FLAGS]
#   VERB: create, copy, install, run, logs, stop or delete
#
# run takes the arguments of hq_jax.main too. All flags of a verb:
# python3 -m hq_jax launch tpu_pod VERB --help
#
# PYTHON=python3.12  runs the launcher (default: that of .venv, or python3)
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_venv.sh"

launch tpu_pod "$@"
