#!/usr/bin/env bash
# The comparison of every paper on discrete latents: a linear Bernoulli VAE (784-200, learned prior, centred inputs,
# dynamic binarization) on MNIST, trained with each estimator at K = 4.
#
#   bash scripts/reproduce_discrete_vae.sh DIR            1e5 steps, 3 seeds; about a day on two CPU cores
#   bash scripts/reproduce_discrete_vae.sh DIR --quick    5e3 steps, one seed, 10 times the learning rate: TRUNCATED
#
# DIR holds TFDS's mnist (scripts/prepare_data.sh mnist DIR). It goes on where it was cut off. Expected order of the bound
# (the papers', whose lengths are ten times this): rodeo, relax, rebar and arms before double_cv and disarm, before
# leave_one_out; reinmax before st_gumbel_softmax. Writes results/discrete_vae/: results.md, figures/compare_runs.png (the
# bound against steps and against seconds). The discrete rows of Dong et al. 2020 (arXiv:2006.10680) and Shi et al. 2022
# (arXiv:2202.09497): batch 50, Adam 1e-4, 50000 training images.
set -euo pipefail
data="${1:?usage: bash scripts/reproduce_discrete_vae.sh DIR [--quick]}"
data="$(cd "$data" && pwd)"
cd "$(dirname "$0")/.."
bash scripts/setup.sh
length=(--epochs=100 --seed=0,1,2 --learning_rate=1e-4 --workdir=results/discrete_vae)
if [ "${2:-}" = "--quick" ]; then
  echo "TRUNCATED: 5000 steps in place of 100000, one seed, another learning rate; its order is not the paper's claim"
  length=(--epochs=5 --eval_every=1 --seed=0 --learning_rate=1e-3 --workdir=results/discrete_vae_quick)
fi
exec .venv/bin/python -m experiments.train "${length[@]}" --dataset=mnist --data_dir="$data" --validation_size=10000 \
  --posterior=bernoulli --hidden=none --latent_dim=200 --learn_prior --data_mean --objective=elbo --num_samples=4 \
  --batch_size=50 --eval_samples=100 \
  --estimator=leave_one_out,disarm,arms,double_cv,rodeo,rebar,relax,st_gumbel_softmax,reinmax
