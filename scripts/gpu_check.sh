#!/usr/bin/env bash
# Checks this project on a machine with one GPU, and measures its speed there, in less than eight minutes. Nothing is
# installed or downloaded: jax, flax, optax, orbax-checkpoint, matplotlib, absl-py, jaxtyping and tqdm must be there. The
# tests of the core also need pytest and scipy.
#
#   bash scripts/gpu_check.sh OUT             with python3, or with the Python that the variable PYTHON names
#   bash scripts/gpu_check.sh OUT --small     small sizes, for a CPU; about two minutes on two cores
#
# Writes OUT/gpu_check.md, OUT/gpu_check.json and OUT/gpu_check.log.
set -euo pipefail
if [[ $# -lt 1 || $1 == -* ]]; then
  echo "usage: bash scripts/${0##*/} OUT [--small]" >&2
  exit 2
fi
mkdir -p "$1"
output=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" -m experiments.gpu_check --output="$output" "${@:2}"
