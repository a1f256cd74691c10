#!/usr/bin/env bash
# Makes the virtual environment .venv and installs requirements.txt into it. If nothing has changed since the last time,
# the script ends at once.
#
#   bash scripts/setup.sh                        jax for CPUs; about two minutes
#   bash scripts/setup.sh cuda13                 jax for NVIDIA GPUs (or another extra of jax: cuda12, tpu)
#   PYTHON=python3.12 bash scripts/setup.sh      with another Python interpreter
#
# Writes .venv/.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted="$(cat requirements.txt) ${1:-}"
# Without an argument, jax for a GPU serves as well.
if [ -f .venv/installed ] && [[ "$(cat .venv/installed)" == "$wanted"* ]]; then exit 0; fi

python="${PYTHON:-python3}"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "error: $python is $("$python" -V 2>&1); set PYTHON to Python 3.11 or newer" >&2
  exit 1
}
extra=()
if [ -n "${1:-}" ]; then extra=("jax[$1]"); fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
if command -v uv >/dev/null; then
  uv pip install --quiet --compile-bytecode --python .venv/bin/python -r requirements.txt "${extra[@]}"
else
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt "${extra[@]}"
fi
printf '%s' "$wanted" >.venv/installed
