#!/usr/bin/env bash
# Trains ReinMax's VAE of four variables with eight classes each (Liu et al. 2023, arXiv:2304.08612), 784-512-256, with
# three estimators at two temperatures. Then compares the gradients of many estimators with the exact gradient, which is
# known because z has only 4096 states.
#
#   bash scripts/reproduce_reinmax.sh DIR            3 seeds, 160 epochs; about four hours on one CPU core, estimated
#                                                    from the short run
#   bash scripts/reproduce_reinmax.sh DIR --quick    one seed, 20 epochs: TRUNCATED; 20 minutes on one CPU core
#   bash scripts/reproduce_reinmax.sh DIR control    the negative control alone; 160 epochs, with --quick 20 epochs and
#                                                    2 minutes of CPU time
#
# DIR holds TFDS's mnist (bash scripts/prepare_data.sh mnist DIR). The argument cuda13 installs jax for an NVIDIA GPU.
#
# Differences from the paper: the paper trains on grey pixels as if they were probabilities. Here the pixels are
# binarized dynamically, so that the bound is a bound; the nats are therefore not the paper's. As in the paper, the KL
# is in closed form. The temperatures are 1.3, which the paper found for ReinMax, and 0.5.
#
# Expected, by the bound of 10000 held-out training images: ReinMax at its better temperature is ahead of
# straight-through Gumbel-Softmax at its better one, and ReinMax's gradient is nearer to the exact gradient.
#
# The negative control is an estimator with a slip (experiments/published/slips.py), whose gradient is compared with the
# exact gradient.
#
# Writes results/reinmax/: results.md, figures/compare_runs.png, report.html. The gradients, with the parameters that
# ReinMax has learned, are in gradients/ (32 evaluations of f for each datum) and in gradients_flops/ (the FLOP that 32
# evaluations cost leave_one_out and ReinMax). The gradients of the control are in results/reinmax_control/gradients/.
set -euo pipefail
source "$(dirname "$0")/common.sh"
read_arguments "DIR [control] [--quick]" "" "$@"
bash scripts/setup.sh $device
output=results/reinmax draws=2000 length=(--seed=0,1,2 --epochs=160)
if [ -n "$quick" ]; then
  echo "TRUNCATED: 20 epochs of one seed instead of 160 of three"
  output=results/reinmax_quick draws=400 length=(--epochs=20 --eval_every=2)
fi
controls=${output}_control
trained="reinmax st_gumbel_softmax gumbel_softmax" relaxed="$trained gumbel_rao gapped_st reinmax_rao"
# at TEMPERATURE NAME ...: prints the names of the estimators with this temperature, joined by commas
at() {
  local joined
  joined=$(printf ",%s:temperature=$1" "${@:2}")
  echo "${joined:1}"
}
# train ESTIMATORS: trains the VAE with each estimator
train() {
  keep_going .venv/bin/python -m experiments.train --dataset=mnist --data_dir="$data" --validation_size=10000 \
    --posterior=categorical:categories=8 --latent_dim=4 --hidden=512-256 --objective=elbo_analytic --batch_size=100 \
    --learning_rate=5e-4 --eval_samples=100 --estimator="$1" "${length[@]}" --workdir="$output"
}
# compare BUDGET ESTIMATORS OUTPUT FLAGS: compares the gradients of the estimators, where one gradient may cost BUDGET
compare() {
  keep_going .venv/bin/python -m experiments.compare_estimators --workdir="$output" --run="estimator=reinmax:temperature=1.3,seed=0" --data_dir="$data" --batch_size=8 \
    --draws="$draws" --budget="$1" --estimators="$2" --output="$3" "${@:4}"
}
# measure BUDGET FOLDER: compares the gradients of all estimators, those with a temperature at both
measure() {
  compare "$1" "$(at 0.5 $relaxed),$(at 1.3 $relaxed),straight_through,generalized_st,leave_one_out,disarm_iw,carms,double_cv,rebar,relax,unordered_set,rao_blackwell_top_k,local_expectation" \
    "$output/$2"
}
if [ -z "$control" ]; then
  train "$(at 0.5 $trained),$(at 1.3 $trained)"
  measure evaluations:32 gradients
  measure flops:8.6e8 gradients_flops
  .venv/bin/python -m experiments.report --workdir="$output"
else
  output=$controls
  train "$(at 1.3 reinmax)"
fi
compare evaluations:32 "$(at 1.3 reinmax st_gumbel_softmax),$(at 0.5 st_gumbel_softmax),reinmax_without_midpoint" \
  "$controls/gradients" --import=experiments.published.slips
exit "$failed"
