#!/usr/bin/env bash
# Trains flax's VAE example: 784-500-20-500-784, statically binarized MNIST, Adam at 1e-3, batches of 128, the KL in
# closed form, ten epochs of 50000 images.
#
#   bash scripts/reproduce_flax_vae.sh DIR            3 seeds; about 10 minutes on two CPU cores
#   bash scripts/reproduce_flax_vae.sh DIR --quick    2 epochs of one seed: TRUNCATED; a minute
#   bash scripts/reproduce_flax_vae.sh DIR control    the negative control alone; 4 minutes
#
# DIR holds TFDS's mnist (bash scripts/prepare_data.sh mnist DIR). The argument cuda13 installs jax for an NVIDIA GPU.
#
# Expected: flax's README states a test loss of about 104 after ten epochs. The loss is minus the ELBO in nats.
#
# The negative control is one seed of an estimator with a slip (experiments/published/slips.py).
#
# Writes results/flax_vae/: results.md, figures/, report.html; and results/flax_vae_control/: results.md, figures/.
set -euo pipefail
source "$(dirname "$0")/common.sh"
read_arguments "DIR [control] [--quick]" "" "$@"
bash scripts/setup.sh $device
output=results/flax_vae length=(--seed=0,1,2 --epochs=10)
if [ -n "$quick" ]; then
  echo "TRUNCATED: 2 epochs of one seed instead of 10 of three"
  output=results/flax_vae_quick length=(--epochs=2)
fi
train() {
  keep_going .venv/bin/python -m experiments.train --dataset=mnist --data_dir="$data" --binarization=static \
    --validation_size=10000 --hidden=500 --latent_dim=20 --batch_size=128 --eval_every=1 "${length[@]}" "$@"
}
if [ -z "$control" ]; then
  train --workdir="$output"
  .venv/bin/python -m experiments.report --workdir="$output"
fi
train --import=experiments.published.slips --estimator=reparam_without_scale --seed=0 --workdir="${output}_control"
exit "$failed"
