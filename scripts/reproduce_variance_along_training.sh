#!/usr/bin/env bash
# Measures the variance of the encoder's gradient at ten checkpoints of a VAE on the digits: sticking the landing
# (Roeder et al. 2017, arXiv:1703.09194) and DReG (Tucker et al. 2018, arXiv:1810.04152) against the plain pathwise
# gradient.
#
#   bash scripts/reproduce_variance_along_training.sh            2000 gradients each; half an hour on two busy CPU cores
#   bash scripts/reproduce_variance_along_training.sh --quick    40 epochs, 200 gradients each: TRUNCATED; 2 minutes
#   bash scripts/reproduce_variance_along_training.sh control    trains, and measures the negative controls alone;
#                                                                  a minute of CPU time
#
# The argument cuda13 installs jax for an NVIDIA GPU.
#
# Expected: both variances are below the plain variance, and would be zero at the true posterior. Sticking the landing
# has a fifth of the plain variance at epoch 20 and a quarter at epoch 200. The ratio does not fall further because the
# posterior comes no nearer to the true one: the gap between ELBO and log p(x) stays at half a nat. DReG with K = 8 has
# an eighth of the plain variance at epoch 20 and a sixth at epoch 200.
#
# The negative controls are estimators with a slip (experiments/published/slips.py), at the end of training.
#
# Writes results/along_training/{elbo,iwae}/: the trained run with report.html, and in variance/ the measurement with
# results.csv and figures/variance_epoch.png; and results/along_training_control/{elbo,iwae}/variance/: results.csv.
set -euo pipefail
source "$(dirname "$0")/common.sh"
read_arguments "[control] [--quick]" "" "$@"
bash scripts/setup.sh $device
output=results/along_training epochs=200 draws=2000
if [ -n "$quick" ]; then
  echo "TRUNCATED: 40 epochs instead of 200, 200 gradients instead of 2000"
  output=results/along_training_quick epochs=40 draws=200
fi
# compare OBJECTIVE K ESTIMATORS OUTPUT: measures the estimators at checkpoints of the VAE that was trained by the objective
compare() {
  .venv/bin/python -m experiments.compare_estimators --workdir="$output/$1" --num_samples="$2" --estimators="$3" \
    --draws="$draws" --reference_draws=$((2 * draws)) --batch_size=32 --output="$4/$1/variance" "${@:5}"
}
# measure OBJECTIVE K ESTIMATORS SLIP: trains a VAE by the objective, and measures the estimators at its checkpoints, and
# the slip at the last one
measure() {
  .venv/bin/python -m experiments.train --objective="$1" --num_samples="$2" --epochs="$epochs" --keep=10 \
    --eval_every=$((epochs / 10)) --checkpoint_every=$((epochs / 10)) --workdir="$output/$1"
  if [ -z "$control" ]; then
    compare "$1" "$2" "$3" "$output" --checkpoint=all
    .venv/bin/python -m experiments.report --workdir="$output/$1"
  fi
  compare "$1" "$2" "reparam,$4" "${output}_control" --import=experiments.published.slips
}
measure elbo 1 reparam,stl stl_with_frozen_samples
measure iwae 8 reparam,dreg dreg_with_frozen_samples
