#!/usr/bin/env bash
# Measures the signal-to-noise ratio of the gradient against K, near the optimum of a linear-Gaussian model with 20
# dimensions: "Tighter variational bounds are not necessarily better" (Rainforth et al. 2018, arXiv:1802.04537), and the
# repair by DReG (Tucker et al. 2018, arXiv:1810.04152). Also measures two score-function estimators: VIMCO, and
# VIMCO-star, which repairs VIMCO (Daudel et al. 2026, arXiv:2602.01412).
#
#   bash scripts/reproduce_snr.sh            K = 4 to 256, 50000 gradients each; 18 minutes of CPU time
#   bash scripts/reproduce_snr.sh --quick    K = 4 to 64, 1000 gradients each: TRUNCATED; half a minute of CPU time
#   bash scripts/reproduce_snr.sh control    the negative controls alone; 2 minutes of CPU time
#
# The argument cuda13 installs jax for an NVIDIA GPU.
#
# Expected: for theta the SNR grows with the square root of K (slope +0.5 of the logarithms). For phi the SNR of the
# plain gradient falls with the square root of K (slope -0.5). The SNR of DReG for phi grows: the slope is 0.26 from K =
# 4 to 16, 0.42 to 64 and 0.48 to 256, and +0.39 over all. The SNR of VIMCO falls (slope -0.39), and that of VIMCO-star
# grows (slope +0.55): at K = 256 its variance is 1/4800 of VIMCO's. An SNR estimated from R gradients has a floor of
# sqrt(2 / (pi R)); 10000 gradients would flatten the slope for phi to -0.4.
#
# The negative controls are the estimators with a slip (experiments/published/slips.py), with at most 5000 gradients.
#
# Writes results/snr/: results.csv, figures/snr.png, report.html; and results/snr_control/: results.csv.
set -euo pipefail
source "$(dirname "$0")/common.sh"
read_arguments "[control] [--quick]" "" "$@"
bash scripts/setup.sh $device
output=results/snr length=(--num_samples=4,16,64,256 --draws=50000 --reference_draws=20000)
controls=(--num_samples=4,16,64 --draws=5000)
if [ -n "$quick" ]; then
  echo "TRUNCATED: 1000 gradients instead of 50000, K up to 64 instead of 256"
  output=results/snr_quick length=(--num_samples=4,16,64 --draws=1000) controls=("${length[@]}")
fi
measure() {
  .venv/bin/python -m experiments.compare_estimators --problem=rainforth --objective=iwae "$@"
}
if [ -z "$control" ]; then
  measure --estimators=reparam,dreg,vimco,vimco_star "${length[@]}" --output="$output"
  .venv/bin/python -m experiments.report --workdir="$output"
fi
slips=reparam_with_4_samples,reparam_of_a_frozen_density,dreg_with_4_samples,vimco_without_direct_term
measure --import=experiments.published.slips --estimators="$slips,vimco_star_over_k_minus_1" "${controls[@]}" \
  --output="${output}_control"
