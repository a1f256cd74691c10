#!/usr/bin/env bash
# ReinMax's VAE of four categorical variables with eight classes each (Liu et al. 2023, arXiv:2304.08612): 784-512-256, so
# few states (4096) that the exact gradient is at hand, which the laboratory holds every estimator against.
#
#   bash scripts/reproduce_reinmax.sh DIR            3 seeds, 160 epochs; about 10 hours on two CPU cores
#   bash scripts/reproduce_reinmax.sh DIR --quick    one seed, 3 epochs: TRUNCATED, about 15 minutes
#
# DIR holds TFDS's mnist. The paper trains on grey pixels as if they were probabilities; here they are binarized
# dynamically, so that the bound is one, and nats are not the paper's. Expected: ReinMax is ahead of the straight-through
# Gumbel-Softmax estimator, and its gradient is nearer to the exact one.
# Writes results/reinmax/: results.md, figures/compare_runs.png, gradients/results.csv, report.html.
set -euo pipefail
source "$(dirname "$0")/words.sh"
read_words "DIR [--quick]" "" "$@"
bash scripts/setup.sh
output=results/reinmax draws=2000 length=(--seed=0,1,2 --epochs=160)
if [ -n "$quick" ]; then
  echo "TRUNCATED: 3 epochs of one seed in place of 160 of three; its order is not the paper's claim"
  output=results/reinmax_quick draws=400 length=(--epochs=3 --eval_every=1)
fi
.venv/bin/python -m experiments.train --dataset=mnist --data_dir="$data" --posterior=categorical --latent_dim=4 \
  --categories=8 --hidden=512-256 --objective=elbo --batch_size=100 --learning_rate=5e-4 --eval_samples=100 \
  --estimator=reinmax,st_gumbel_softmax,gumbel_softmax --temperature=1.3 "${length[@]}" --workdir="$output"
runs=("$output"/runs/estimator=reinmax*)
.venv/bin/python -m experiments.compare_estimators --workdir="${runs[0]}" --batch_size=8 --draws="$draws" \
  --data_dir="$data" --output="$output/gradients" \
  --estimators=reinmax,st_gumbel_softmax,straight_through,gumbel_rao,leave_one_out
.venv/bin/python -m experiments.report --workdir="$output"
