#!/usr/bin/env bash
# Trains a VAE with the estimators of this project and with the plain score function, measures all gradients where the
# exact gradient is known, and compares the results with the expected numbers in scripts/expected.py.
#
#   bash scripts/reproduce.sh            3 seeds of 50 epochs, 10000 gradients; 15 minutes on two busy CPU cores
#   bash scripts/reproduce.sh --quick    one seed of 5 epochs, 500 gradients: TRUNCATED; half a minute
#
# With --quick the numbers are not compared with the expected ones. Packages of the checkout that are missing are
# installed first.
#
# Writes results/digits/ and results/gradients/: tables, figures and report.html; with --quick in results/quick/.
set -euo pipefail

# The choices of these experiments. They must suit the estimators; tests/test_commands.py says if they do not.
# `estimators` has names in ESTIMATORS of my_estimator/__init__.py, separated by commas.
estimators=my_estimator
posterior=normal
objective=elbo
num_samples=4
problem=linear_gaussian
rivals=reinforce,reparam

quick=
for argument; do
  if [ "$argument" != --quick ]; then
    echo "usage: bash scripts/reproduce.sh [--quick]" >&2
    exit 2
  fi
  quick=yes
done
cd "$(dirname "$0")/.."
default="../.."
code="${VAE:-$default}"
bash "$code/scripts/setup.sh"
export PYTHONPATH=".:$code" VAE_IMPORT=my_estimator
python="$code/.venv/bin/python"

output=results
length=(--seed=0,1,2 --epochs=50)
draws=10000
if [ -n "$quick" ]; then
  echo "TRUNCATED: 5 epochs of one seed instead of 50 of three, 500 gradients instead of 10000"
  output=results/quick
  length=(--epochs=5)
  draws=500
fi
"$python" -m experiments.train --estimator="$estimators,reinforce" --posterior="$posterior" \
  --objective="$objective" --num_samples="$num_samples" "${length[@]}" --workdir="$output/digits"
"$python" -m experiments.report --workdir="$output/digits"
"$python" -m experiments.compare_estimators --problem="$problem" --estimators="$estimators,$rivals" \
  --draws="$draws" --output="$output/gradients"
"$python" -m experiments.report --workdir="$output/gradients"
if [ -z "$quick" ]; then
  "$python" scripts/expected.py "$output"
fi
