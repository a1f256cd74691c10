#!/usr/bin/env bash
# Measures the variance of the score-function, the pathwise and the measure-valued gradient of E f(z), z ~ N(1, 1),
# against the parameter k of the cost f, as in figures 2 to 4 of "Monte Carlo gradient estimation in machine learning"
# (Mohamed et al. 2020, arXiv:1906.10652). Measures the same for Bayesian logistic regression on the paper's data, which
# are of breast cancer, and with its prior: at parameters near the start of training, with the whole data set in each
# gradient.
#
#   bash scripts/reproduce_stochastic_costs.sh            10000 gradients each; about 5 minutes on two CPU cores
#   bash scripts/reproduce_stochastic_costs.sh --quick    1000 gradients each: TRUNCATED; 2 minutes
#   bash scripts/reproduce_stochastic_costs.sh control    the negative controls alone; half a minute of CPU time
#
# The argument cuda13 installs jax for an NVIDIA GPU.
#
# Expected:
# - (z - k)^2: with m = 1 - k, the variances of the gradient in mean and scale together are 4 m^2 + 12 (pathwise) and
#   3 m^4 + 74 m^2 + 89 (score function), in closed form. The measure-valued variance is below or near the pathwise
#   variance.
# - cos(k z) and exp(-k z^2): the variance of the score function is far above the pathwise variance for small k, and
#   below it from k = 1 or 2 on. The variance of the score function is bounded because the cost is bounded. The
#   pathwise variance grows with the slope of the cost, and so with k.
# - Logistic regression: the variance of the score function is orders of magnitude above both others.
#
# The negative controls are estimators with a slip (experiments/published/slips.py). A sum over samples in place of their
# mean needs several samples, so it is measured with K = 8.
#
# Writes results/costs/{quadratic,exponential,cosine,logistic_regression}/, results/costs/report.html, and
# results/costs_control/{quadratic,exponential,cosine,logistic_regression}/.
set -euo pipefail
source "$(dirname "$0")/common.sh"
read_arguments "[control] [--quick]" "" "$@"
bash scripts/setup.sh $device
output=results/costs draws=10000
if [ -n "$quick" ]; then
  echo "TRUNCATED: 1000 gradients instead of 10000"
  output=results/costs_quick draws=1000
fi
# measure PROBLEM VALUE ...: measures the gradients at each value of the problem's cost parameter, if it has one
measure() {
  local problems=()
  for value in "${@:2}"; do problems+=("$1:cost_parameter=$value"); done
  [ $# -gt 1 ] || problems=("$1")
  .venv/bin/python -m experiments.compare_estimators --problem="$(IFS=,; echo "${problems[*]}")" \
    --estimators=reinforce,reparam,measure_valued --draws="$draws" --output="$output/$1"
}
if [ -z "$control" ]; then
  measure quadratic -3 -2 -1 0 1 2 3
  measure exponential 0.1 0.3 1 3 10
  measure cosine 0.5 1 2 3 4 5
  measure logistic_regression
  .venv/bin/python -m experiments.report --workdir="$output"
fi
# control PROBLEM ESTIMATORS [K]: measures estimators with a slip at the point of the claim
control() {
  .venv/bin/python -m experiments.compare_estimators --import=experiments.published.slips --problem="$1" \
    --estimators="reparam,$2" --num_samples="${3:-1}" --draws="$draws" --output="${output}_control/${1%%:*}"
}
control quadratic:cost_parameter=-3 reparam_without_scale,reinforce_on_the_path,measure_valued_uncoupled
control exponential:cost_parameter=10 reinforce_summed 8
control cosine:cost_parameter=5 reinforce_summed 8
control logistic_regression reinforce_on_the_path
