#!/usr/bin/env bash
# Trains the toy problems of the papers on discrete latents with many estimators:
# - one coin and E (b - t)^2 (REBAR, Tucker et al. 2017, arXiv:1703.07370; RELAX, Grathwohl et al. 2017,
#   arXiv:1711.00123)
# - 128 coins and the powers 1.5, 2, 3 (ReinMax, Liu et al. 2023, arXiv:2304.08612)
# - three bits as one variable with eight classes (Kool et al. 2020, arXiv:2002.06043)
#
#   bash scripts/reproduce_toys.sh            5 seeds; on one CPU core 20 minutes for 128 coins, 2 minutes for the
#                                             others, and 10 minutes for the compiler the first time
#   bash scripts/reproduce_toys.sh --quick    500 steps, 2 seeds: TRUNCATED; 15 minutes, most of them for the compiler
#   bash scripts/reproduce_toys.sh control    the negative controls alone; 3 minutes
#
# The argument cuda13 installs jax for an NVIDIA GPU.
#
# One coin and three bits take 5000 steps with every estimator. 128 coins take 1000 steps, with the estimators of the
# paper's figure and two more. The learning rate is ten times the paper's, so 1000 steps go somewhat further than the
# paper's 8000 steps. For three bits, unordered_set and leave_one_out evaluate f twice, and each other estimator once or
# as often as it must.
#
# Expected:
# - One coin: estimators that use both values of f (local_expectation, arm, disarm) are at the optimum at once, for
#   t = 0.45 at a loss of 0.2025. In the papers REBAR and RELAX reach the optimum before REINFORCE. Here RELAX is ahead
#   of REINFORCE at every t, but REBAR only at 0.45 and 0.49. REBAR's control variate is the relaxed f alone, and
#   for a fair coin and t = 0.499 no choice of its scale and temperature makes REBAR's variance smaller than REINFORCE's,
#   because f at the mean is nearly 0. The relaxations stay above the optimum.
# - 128 coins: ReinMax is exact in the mean for power 2.
#
# The negative controls are estimators with a slip (experiments/published/slips.py), beside those that they are ranked
# with. For 128 coins they have two seeds.
#
# Writes results/toys/{bernoulli,polynomial,categorical}/: curves.csv, results.csv, figures/toy.png;
# results/toys/report.html; and the same tables in results/toys_control/{bernoulli,polynomial,categorical}/.
set -euo pipefail
source "$(dirname "$0")/common.sh"
read_arguments "[control] [--quick]" "" "$@"
bash scripts/setup.sh $device
output=results/toys coins=(--steps=1000 --records=41) length=()
if [ -n "$quick" ]; then
  echo "TRUNCATED: 500 steps of 2 seeds instead of 5000 or 1000 steps of 5 seeds"
  output=results/toys_quick coins=() length=(--steps=500 --seeds=2)
fi
train() {
  .venv/bin/python -m experiments.toy_bernoulli --toy="$1" --output="$output/$1" "${length[@]}" "${@:2}"
}
if [ -z "$control" ]; then
  train bernoulli
  train polynomial "${coins[@]}" \
    --estimators=local_expectation,leave_one_out,reinforce,straight_through,st_gumbel_softmax,gumbel_softmax,gumbel_rao,reinmax
  train categorical --num_samples=1
  .venv/bin/python -m experiments.report --workdir="$output"
fi
output+=_control slips=--import=experiments.published.slips
train bernoulli "$slips" --estimators=reinforce,rebar_with_a_wrong_sign
train polynomial "$slips" "${coins[@]}" --seeds=2 \
  --estimators=local_expectation,st_gumbel_softmax,reinmax_without_midpoint
train categorical "$slips" --num_samples=1 --estimators=unordered_set,leave_one_out_shrunk,reinforce
