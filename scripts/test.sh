#!/usr/bin/env bash
# Ruff and the test suite, in .venv (made where there is none).
#
#   bash scripts/test.sh            the fast suite
#   bash scripts/test.sh --slow     also what takes minutes each
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
marks="not slow"
if [ "${1:-}" = "--slow" ]; then marks="slow or not slow"; shift; fi
exec .venv/bin/python -m pytest -n 2 -m "$marks" "$@"
