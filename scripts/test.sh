#!/usr/bin/env bash
# Runs ruff and the test suite in .venv, which is made first if it does not exist.
#
#   bash scripts/test.sh                      the fast tests
#   bash scripts/test.sh --slow               all tests, also those that take minutes each
#   bash scripts/test.sh -k checkpoint        further words go to pytest
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
marks="not slow"
if [ "${1:-}" = "--slow" ]; then marks="slow or not slow"; shift; fi
exec .venv/bin/python -m pytest -n 2 -m "$marks" "$@"
