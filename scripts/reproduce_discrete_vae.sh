#!/usr/bin/env bash
# Trains a VAE with 200 bits on MNIST with each estimator of bits, at K = 4, as the papers on discrete latents do:
# learned prior, centred inputs, dynamic binarization, batches of 50, Adam at 1e-4, 50000 training images. Then compares
# the gradients of all estimators at equal budgets, with the parameters that leave_one_out has learned.
#
#   bash scripts/reproduce_discrete_vae.sh DIR               linear network (784-200), 1e5 steps, 3 seeds; half a day on
#                                                            two CPU cores
#   bash scripts/reproduce_discrete_vae.sh DIR nonlinear     784-200-200-200, leaky ReLU of slope 0.3, 3e4 steps, 3
#                                                            seeds; half a day
#   bash scripts/reproduce_discrete_vae.sh DIR ... --quick   either network, 5e3 steps of one seed at ten times the
#                                                            learning rate: TRUNCATED; half an hour
#   bash scripts/reproduce_discrete_vae.sh DIR ... control   either network, the negative control alone: 5 to 10
#                                                            minutes of CPU time
#
# DIR holds TFDS's mnist (bash scripts/prepare_data.sh mnist DIR). The argument cuda13 installs jax for an NVIDIA GPU.
#
# Differences from the papers: the papers train for 1e6 steps. The set-up is that of DisARM and ARMS, except that
# the prior learns like everything else, by Adam at 1e-4, and the first weights are LeCun's. The papers of Double CV and
# RODEO have a fixed uniform prior, batches of 100 and a rate of 1e-3. RELAX's paper has static binarization, batches of
# 24, rates from a grid, and layers of 200 ReLUs as its surrogate; here the surrogate has 100 tanh units and starts at
# temperature 0.5. Control variates learn at RODEO's rate of 1e-3.
#
# Expected: these orders of the bound on 10000 held-out training images.
#   arms before disarm                     Dimitriev & Zhou 2021, arXiv:2105.14141
#   disarm before leave_one_out            Dong et al. 2020, arXiv:2006.10680
#   rodeo before double_cv                 Shi et al. 2022, arXiv:2202.09497
#   relax before rebar, linear network     Grathwohl et al. 2017, arXiv:1711.00123
#   reinmax before st_gumbel_softmax       Liu et al. 2023, arXiv:2304.08612
# The costs differ: rebar and relax evaluate the bound more often for each sample than the others do. vimco maximises
# the bound of several samples, so its -log p(x) may improve while its ELBO does not.
#
# The negative control is an estimator with a slip (experiments/published/slips.py), beside those that it is ranked
# with, after 5e3 steps of 3 seeds at ten times the learning rate.
#
# Writes results/discrete_vae_*/: results.md, figures/compare_runs.png (the bound against steps and seconds),
# report.html, gradients_evaluations/ and gradients_flops/ (results.csv, figures/); and
# results/discrete_vae_*_control/: results.md, figures/.
set -euo pipefail
source "$(dirname "$0")/common.sh"
read_arguments "DIR [linear | nonlinear] [control] [--quick]" "linear|nonlinear" "$@"
draws=1000 network=(--hidden=none) flops=1.6e8 output=results/discrete_vae_linear length=(--epochs=100 --seed=0,1,2 --learning_rate=1e-4)
if [ "$choice" = nonlinear ]; then
  flops=2.5e8 network=(--hidden=200-200 --activation=leaky_relu:negative_slope=0.3) output=results/discrete_vae_nonlinear
  length=(--epochs=30 --seed=0,1,2 --learning_rate=1e-4)
fi
if [ -n "$quick" ]; then
  echo "TRUNCATED: 5000 steps of one seed at 10 times the learning rate; the papers make no claim about this length"
  length=(--epochs=5 --eval_every=1 --seed=0 --learning_rate=1e-3) draws=100 output+=_quick
fi
bash scripts/setup.sh $device
# train OBJECTIVE ESTIMATORS FLAGS: trains the VAE by the objective with each estimator
train() {
  keep_going .venv/bin/python -m experiments.train "${network[@]}" "${length[@]}" --workdir="$output" --dataset=mnist \
    --data_dir="$data" --validation_size=10000 --posterior=bernoulli:signed=true --latent_dim=200 --prior=learned \
    --data_mean --num_samples=4 --batch_size=50 --eval_samples=100 --optimizer=adam:cv_learning_rate=1e-3 \
    --objective="$1" --estimator="$2" "${@:3}"
}
# measure BUDGET: compares the gradients of all estimators, where one gradient may cost BUDGET, with the parameters of
# the run of leave_one_out with seed 0
measure() {
  keep_going .venv/bin/python -m experiments.compare_estimators --workdir="$output" --run=estimator=leave_one_out,seed=0 --data_dir="$data" --batch_size=32 \
    --draws="$draws" --budget="$1" --output="$output/gradients_${1%:*}" \
    --estimators=leave_one_out,disarm,arms,double_cv,rodeo,rebar,relax,muprop,nvil,reinforce,st_gumbel_softmax,reinmax,gumbel_rao,straight_through,gumbel_softmax
}
if [ -z "$control" ]; then
  train elbo leave_one_out,disarm,arms,double_cv,rodeo,rebar,relax,st_gumbel_softmax,reinmax
  train iwae vimco
  measure evaluations:8
  measure "flops:$flops"
  .venv/bin/python -m experiments.report --workdir="$output"
fi
output+=_control length=(--epochs=5 --eval_every=1 --seed=0,1,2 --learning_rate=1e-3)
train elbo leave_one_out,disarm,arms,disarm_without_average --import=experiments.published.slips
exit "$failed"
