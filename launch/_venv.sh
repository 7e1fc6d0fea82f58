#!/usr/bin/env bash
# Sourced by the scripts beside it: goes to the repository root, and defines
# `run`, `become`, `install` and `launch`. PYTHON names the interpreter that .venv
# is made with; where it is not set, an existing .venv is used as it is.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

DRY_RUN=false
if [[ ${1-} == --dry_run ]]; then
  DRY_RUN=true
  shift
fi

# Runs a command, or prints it as one could type it.
run() {
  if $DRY_RUN; then
    local line
    printf -v line '%q ' "$@"
    echo "${line% }"
  else
    "$@"
  fi
}

# Runs the last command: this process becomes it, and a signal reaches it.
become() {
  if ! $DRY_RUN; then exec "$@"; fi
  run "$@"
}

# What an interpreter is, as one word such as 3.11.7.
version_of() {
  "$1" -c 'import platform; print(platform.python_version())'
}

check_python() {
  if ! command -v "$1" > /dev/null; then
    echo "PYTHON: no command '$1', wanted Python 3.11 or later" >&2
    exit 1
  fi
  if ! "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "PYTHON: '$1' is Python $(version_of "$1"), wanted 3.11 or later" >&2
    exit 1
  fi
}

# Makes .venv where there is none that works, or one of another version than
# PYTHON asks for.
make_venv() {
  local python=${PYTHON:-python3} found=none
  if [[ -x .venv/bin/python ]]; then
    found=$(version_of .venv/bin/python || echo broken)
    if [[ -z ${PYTHON-} && $found != broken ]]; then python=.venv/bin/python; fi
  fi
  check_python "$python"
  if [[ $found != "$(version_of "$python")" ]]; then
    "$python" -m venv --clear .venv
  elif [[ ! -x .venv/bin/pip ]]; then # it was killed half-way
    "$python" -m venv .venv
  fi
}

# Installs the package, $1 being such as '.[EXTRA]', into .venv. A stamp is left
# behind, so that the next call is quick until the requirements change.
install() {
  if $DRY_RUN; then
    run "${PYTHON:-python3}" -m venv --clear .venv
    run .venv/bin/python -m pip install --editable "$1"
    return
  fi
  make_venv
  local stamp=".venv/installed_$1" wanted
  wanted=$({ pwd; cat setup.cfg pyproject.toml; } | cksum)
  if [[ -f $stamp && $(< "$stamp") == "$wanted" ]]; then return; fi
  echo "installing $1 into $PWD/.venv; the first time takes minutes" >&2
  .venv/bin/python -m pip install --quiet --no-input \
    --disable-pip-version-check --editable "$1" < /dev/null
  echo "$wanted" > "$stamp"
}

# Runs a command of hq_jax.launch, which needs nothing but an interpreter. This
# process becomes it: a signal reaches it, and it alone.
launch() {
  local python=${PYTHON:-python3} command=$1
  shift
  if [[ -z ${PYTHON-} && -x .venv/bin/python ]]; then python=.venv/bin/python; fi
  check_python "$python"
  if $DRY_RUN; then set -- --dry_run "$@"; fi
  exec "$python" -m hq_jax.launch "$command" "$@"
}
