#!/usr/bin/env bash
# The fast suite on the oldest and the newest supported jax: Python 3.11 has jax 0.10, 3.12 and newer the newest.
#
#   bash scripts/test_matrix.sh                                python3.11, and the newest of 3.14, 3.13, 3.12 at hand
#   bash scripts/test_matrix.sh python3.11 python3.13 -- -k checkpoint
#
# Each Python gets an environment of its own under .matrix/. A Python that is named and is not there is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
runs() {  # whether that Python is there, and no placeholder for one (as pyenv has them)
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
  echo "error: there is neither python3.11 nor a newer one; name the interpreters" >&2
  exit 1
}
[ ${#pythons[@]} -gt 1 ] || echo "${pythons[0]} alone, so one jax alone" >&2
for python in "${pythons[@]}"; do
  runs "$python" || {
    echo "error: there is no $python" >&2
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
