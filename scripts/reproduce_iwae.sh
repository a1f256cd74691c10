#!/usr/bin/env bash
# Trains the models of Table 1 of "Importance weighted autoencoders" (Burda, Grosse & Salakhutdinov 2015,
# arXiv:1509.00519) on MNIST: VAE and IWAE with one and two stochastic layers and K = 1, 5, 50; batches of 20, tanh,
# Adam, 3280 passes in eight stages.
#
#   bash scripts/reproduce_iwae.sh DIR            K = 1, 5, 50. This form is meant for a GPU, where its time was not
#                                                 measured. On a CPU core K = 1 takes 1.5 hours with one layer and about
#                                                 4 with two, K = 5 a day and K = 50 weeks.
#   bash scripts/reproduce_iwae.sh DIR short      K = 1, 5 and the first five stages (121 passes): TRUNCATED; about 4
#                                                 hours of one CPU core
#   bash scripts/reproduce_iwae.sh DIR --quick    K = 1, 5, three stages (13 passes), L_100: TRUNCATED; 25 minutes
#   bash scripts/reproduce_iwae.sh DIR control    the negative controls alone; an hour of CPU time
#
# DIR holds TFDS's mnist (bash scripts/prepare_data.sh mnist DIR). The argument cuda13 installs jax for an NVIDIA GPU.
#
# Differences from the paper: Adam's epsilon is 1e-8 instead of 1e-4, the first weights are LeCun's instead of Glorot's,
# and the encoder's inputs are centred as the decoder's outputs are. As in the paper, the images are binarized anew in
# every step.
#
# Expected -log p(x) (by L_5000, the bound with 5000 samples) and, in parentheses, active units:
#
#                   K = 1            K = 5            K = 50
#   VAE, 1 layer    86.76 (19)       86.47 (20)       86.35 (20)
#   IWAE, 1 layer   86.76 (19)       85.54 (22)       84.78 (25)
#   VAE, 2 layers   85.33 (16+5)     85.01 (17+5)     84.78 (17+5)
#   IWAE, 2 layers  85.33 (16+5)     83.89 (21+5)     82.90 (26+7)
#
# The negative controls are estimators with a slip (experiments/published/slips.py), after 121 passes and by L_1000.
#
# Writes results/iwae/, results/iwae_short/ or results/iwae_quick/: results.md, figures/, report.html; and for each
# control a folder in results/iwae_control/ or results/iwae_quick_control/, such as elbo_k1_one_layer/: results.md,
# figures/.
set -euo pipefail
source "$(dirname "$0")/common.sh"
read_arguments "DIR [short] [control] [--quick]" short "$@"
output=results/iwae length=(--epochs=3280 --checkpoint_every=40 --eval_samples=5000) samples=5,50
controls=(--epochs=121 --checkpoint_every=10 --eval_samples=1000) control_output=results/iwae_control
bash scripts/setup.sh $device
if [ -n "$quick" ]; then
  echo "TRUNCATED: 13 passes instead of 3280, no K = 50, L_100 instead of L_5000"
  output=results/iwae_quick length=(--epochs=13 --eval_samples=100) samples=5
  controls=("${length[@]}") control_output=results/iwae_quick_control
elif [ "$choice" = short ]; then
  echo "TRUNCATED: 121 passes instead of 3280, no K = 50"
  output=results/iwae_short length=(--epochs=121 --checkpoint_every=10 --eval_samples=5000) samples=5
fi
one_layer="--latent_dim=50" two_layers="--latent_dim=100-50 --layer_hidden=100-100"
# train OBJECTIVE K FLAGS: trains the model with the flags that make its stochastic layers
train() {
  keep_going .venv/bin/python -m experiments.train --dataset=mnist --data_dir="$data" --activation=tanh --data_mean --batch_size=20 \
    --schedule=stages --learning_rate=1e-3 "${length[@]}" --workdir="$output" \
    --hidden=200-200 --objective="$1" --num_samples="$2" "${@:3}"
}
if [ -z "$control" ]; then
  for layers in "$one_layer" "$two_layers"; do
    train elbo "1,$samples" $layers
    train iwae "$samples" $layers
  done
  .venv/bin/python -m experiments.report --workdir="$output"
fi
# slip OBJECTIVE K LAYERS NAME: trains the model with the slip NAME; LAYERS is one_layer or two_layers
slip() {
  local output=$control_output/$1_k$2_$3 length=("${controls[@]}")
  train "$1" "$2" ${!3} --import=experiments.published.slips --estimator="$4"
}
slip elbo 1 one_layer reparam_without_scale
slip elbo 5 one_layer reparam_without_scale
slip iwae 5 one_layer reparam_with_1_sample
slip elbo 1 two_layers stl_with_frozen_samples
slip elbo 5 two_layers stl_with_frozen_samples
slip iwae 5 two_layers dreg_with_frozen_samples
exit "$failed"
