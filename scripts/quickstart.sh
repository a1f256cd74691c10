#!/usr/bin/env bash
# Installs the packages into .venv and trains a VAE for 200 epochs on scikit-learn's 8x8 digits. No data are downloaded.
#
#   bash scripts/quickstart.sh            on the CPU; 10 to 20 seconds on two cores, after the installation
#   bash scripts/quickstart.sh cuda13     on an NVIDIA GPU
#
# Expected: a test -log p(x) of about 22.5 nats (K = 500) and 8 active units.
#
# Writes results/quickstart/: tables, pictures, checkpoints.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh "${1:-}"
.venv/bin/python -m experiments.train --workdir=results/quickstart
