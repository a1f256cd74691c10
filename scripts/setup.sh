#!/usr/bin/env bash
# Makes .venv where there is none and installs requirements.txt into it.
#
#   bash scripts/setup.sh          the CPU build of jax
#   bash scripts/setup.sh cuda13   jax for NVIDIA GPUs (any extra of jax: cuda12, cuda13, tpu)
#   PYTHON=python3.12 bash scripts/setup.sh
set -euo pipefail
cd "$(dirname "$0")/.."

wanted="$(cat requirements.txt) ${1:-}"
if [ -f .venv/installed ] && [ "$wanted" = "$(cat .venv/installed)" ]; then exit 0; fi

python="${PYTHON:-python3}"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "error: Python 3.11 or newer is needed, $python is $("$python" -V 2>&1); name another by PYTHON=..." >&2
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
