#!/usr/bin/env bash
# Runs the fast tests with the oldest and with the newest supported jax. Python 3.11 gets jax 0.10; Python 3.12 and
# newer get the newest jax.
#
#   bash scripts/test_matrix.sh                                          python3.11, and the newest of 3.14, 3.13, 3.12
#   bash scripts/test_matrix.sh python3.11 python3.13 -- -k checkpoint   these two; words after -- go to pytest
#
# Each Python gets its own environment under .matrix/. It is an error to name a Python that is not installed.
set -euo pipefail
cd "$(dirname "$0")/.."
runs() {  # whether that Python starts; pyenv has commands for Pythons that are not installed
  "$1" -c "" 2>/dev/null
}
pythons=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do
  pythons+=("$1")
  shift
done
if [ "${1:-}" = "--" ]; then shift; fi
if [ ${#pythons[@]} -eq 0 ]; then
  for python in python3.11 python3.14 python3.13 python3.12; do
    if [ ${#pythons[@]} -lt 2 ] && runs "$python"; then pythons+=("$python"); fi
  done
fi
[ ${#pythons[@]} -gt 0 ] || {
  echo "error: neither python3.11 nor a newer Python is installed under this name; name the interpreters" >&2
  exit 1
}
[ ${#pythons[@]} -gt 1 ] || echo "warning: only ${pythons[0]} is installed, so only one jax is tested" >&2
for python in "${pythons[@]}"; do
  runs "$python" || {
    echo "error: $python is not installed; install it or name another" >&2
    exit 1
  }
done
for python in "${pythons[@]}"; do
  environment=".matrix/$(basename "$python")"
  [ -x "$environment/bin/python" ] || "$python" -m venv "$environment"
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
  "$environment/bin/python" -c 'import sys, jax; print(f"Python {sys.version.split()[0]}, jax {jax.__version__}", flush=True)'
  "$environment/bin/python" -m pytest -n 2 -m "not slow" "$@"
done
