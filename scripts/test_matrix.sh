#!/usr/bin/env bash
# Runs the fast tests with the oldest and with the newest supported jax. Python 3.11 gets jax 0.10; Python 3.12 and
# newer get the newest jax.
#
#   bash scripts/test_matrix.sh                                          python3.11, and the newest of 3.14, 3.13, 3.12;
#                                                                        about twice as long as scripts/test.sh
#   bash scripts/test_matrix.sh python3.11 python3.13 -- -k checkpoint   these two; arguments after -- go to pytest
#
# A Python that is named but not installed is an error.
#
# Writes .matrix/: an environment for each Python.
set -euo pipefail
cd "$(dirname "$0")/.."
runs() {  # whether that Python starts; pyenv has a command even for a Python that is not installed
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
  echo "error: no python3.11, 3.12, 3.13 or 3.14 is installed; name the interpreters as arguments" >&2
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
