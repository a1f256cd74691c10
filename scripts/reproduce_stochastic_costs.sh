#!/usr/bin/env bash
# "Monte Carlo gradient estimation in machine learning" (Mohamed et al. 2020, arXiv:1906.10652): the variance of the
# score function, the pathwise and the measure-valued gradient of E f(z), z ~ N(1, 1), against the parameter k of the
# cost f (figures 2 to 4). The same for Bayesian logistic regression on the paper's data and prior, at one point near
# the start and on all patients at once.
#
#   bash scripts/reproduce_stochastic_costs.sh            about 5 minutes on two CPU cores
#   bash scripts/reproduce_stochastic_costs.sh --quick    1000 gradients each instead of 10000: TRUNCATED; 2 minutes
#
# Expected:
# - (z - k)^2: with m = 1 - k, the variances of the gradient in mean and scale together are 4 m^2 + 12 (pathwise) and
#   3 m^4 + 74 m^2 + 89 (score function), in closed form. The measure-valued variance is below or near the pathwise
#   one.
# - cos(k z) and exp(-k z^2): the score function is far above the pathwise gradient for small k and below it from k =
#   1 or 2 on. Its variance is bounded because the cost is, while the slope of the cost grows with k.
# - Logistic regression: the score function is orders of magnitude above both others.
# Writes results/costs/{quadratic,exponential,cosine,logistic_regression}/ and results/costs/report.html.
set -euo pipefail
source "$(dirname "$0")/words.sh"
read_words "[--quick]" "" "$@"
bash scripts/setup.sh $device
output=results/costs draws=10000
if [ -n "$quick" ]; then
  echo "TRUNCATED: 1000 gradients instead of 10000"
  output=results/costs_quick draws=1000
fi
# PROBLEM, and the values of its cost parameter, if it has one
measure() {
  local problems=()
  for value in "${@:2}"; do problems+=("$1:cost_parameter=$value"); done
  [ $# -gt 1 ] || problems=("$1")
  .venv/bin/python -m experiments.compare_estimators --problem="$(IFS=,; echo "${problems[*]}")" \
    --estimators=reinforce,reparam,measure_valued --draws="$draws" --output="$output/$1"
}
measure quadratic -3 -2 -1 0 1 2 3
measure exponential 0.1 0.3 1 3 10
measure cosine 0.5 1 2 3 4 5
measure logistic_regression
.venv/bin/python -m experiments.report --workdir="$output"
