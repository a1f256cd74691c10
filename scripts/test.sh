#!/usr/bin/env bash
# Runs ruff and the tests. Makes .venv first, if it does not exist.
#
#   bash scripts/test.sh                      the fast tests; about nine minutes on two CPU cores
#   bash scripts/test.sh --slow               all tests, including those that take minutes each
#   bash scripts/test.sh -k checkpoint        passes its arguments on to pytest; here the fast tests about checkpoints
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
marks="not slow"
if [ "${1:-}" = "--slow" ]; then marks="slow or not slow"; shift; fi
# By default, files with few tests come last. Some of them take long, and one of the two workers would have nothing to do.
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "$marks" "$@"
