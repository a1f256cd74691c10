#!/usr/bin/env bash
# Trains quantized latents with each of their estimators, measures the error of their gradients, and prints one table.
#
#   bash scripts/compare_quantizers.sh              scikit-learn's digits, 100 epochs; 17 minutes on two busy CPU cores
#   bash scripts/compare_quantizers.sh DIR          MNIST, 784-200-200, 100 epochs; not measured
#   bash scripts/compare_quantizers.sh [DIR] --quick    5 epochs: TRUNCATED
#
# DIR holds TFDS's mnist (bash scripts/prepare_data.sh mnist DIR). Each setting has three seeds and three positions with
# one of 16 codes, which is 8.3 nats. `vq` is trained with the two losses of the codebook and without them.
#
# The error of the gradient is |mean - truth| / |truth|. For vq and fsq the truth is the gradient of the smoothed bound
# of --problem=quantized, which does not depend on the training. For stochastic_vq it is the sum over all 4096 states,
# for the encoder of a trained run on 16 test images.
#
# Expected: with the two losses, straight-through uses all 16 codes, and the rotation, DiVeQ and NSVQ use few. Without
# the losses, the rotation, DiVeQ and NSVQ use nearly all codes, and straight-through about 10. Stochastic codes have a
# better bound than deterministic ones.
#
# Writes results/quantizers/ (results/quantizers_mnist/): results.csv of each sweep and of each measurement, table.md.
set -euo pipefail
source "$(dirname "$0")/common.sh"
with_data=
for argument; do
  if [ -d "$argument" ]; then with_data=yes; fi
done
if [ -n "$with_data" ]; then
  read_arguments "DIR [--quick]" "" "$@"
  output=results/quantizers_mnist data_set=(--dataset=mnist --data_dir="$data" --hidden=200-200)
else
  read_arguments "[DIR] [--quick]" "" "$@"
  output=results/quantizers data_set=(--dataset=digits)
fi
bash scripts/setup.sh $device
length=(--epochs=100) draws=1000
if [ -n "$quick" ]; then
  echo "TRUNCATED: 5 epochs instead of 100"
  output=${output}_quick length=(--epochs=5) draws=100
fi
# sweep NAME POSTERIORS ESTIMATORS: trains three seeds of each setting
sweep() {
  keep_going .venv/bin/python -m experiments.train "${data_set[@]}" "${length[@]}" --latent_dim=3 --seed=0,1,2 \
    --posterior="$2" --estimator="$3" --workdir="$output/$1"
}
sweep vq vq:codes=16,vq:codes=16:codebook_loss=0:commitment_loss=0 vq_straight_through,rotation,diveq,nsvq
sweep fsq fsq:levels=4-4 vq_straight_through
sweep stochastic_vq stochastic_vq straight_through,reinmax,rebar
keep_going .venv/bin/python -m experiments.compare_estimators --problem=quantized --draws="$draws" --output="$output/smoothed"
keep_going .venv/bin/python -m experiments.compare_estimators --workdir="$output/stochastic_vq" \
  --run=estimator=reinmax,seed=0 --estimators=straight_through,reinmax,rebar --batch_size=16 --draws="$draws" \
  --output="$output/stochastic"
mkdir -p "$output"
PYTHONPATH=. .venv/bin/python scripts/quantizers_table.py "$output" | tee "$output/table.md"
exit "$failed"
