#!/usr/bin/env bash
# Brendan Frey's face, 1965 grey frames of 28 x 20 pixels, with a discretized logistic likelihood: a posterior with a
# diagonal covariance against one with a full covariance, in bits per dimension.
#
#   bash scripts/reproduce_frey_faces.sh DIR            3 seeds of each posterior, 500 epochs; 12 minutes on two CPU cores
#   bash scripts/reproduce_frey_faces.sh DIR --quick    one seed, 50 epochs: TRUNCATED; a minute
#
# DIR holds frey_faces.npz. No number was published for these small networks.
# Expected: the full covariance is no worse, since the diagonal one is a special case. It is no better either: the two
# are level within 0.01 bits (4 nats). With both, the ELBO stays 20.8 nats below L_500, itself a lower bound, so more
# than the correlations keeps q from the true posterior.
# Writes results/frey_faces/: results.md, figures/, report.html.
set -euo pipefail
source "$(dirname "$0")/words.sh"
read_words "DIR [--quick]" "" "$@"
bash scripts/setup.sh $device
output=results/frey_faces length=(--seed=0,1,2 --epochs=500)
if [ -n "$quick" ]; then
  echo "TRUNCATED: 50 epochs of one seed instead of 500 of three"
  output=results/frey_faces_quick length=(--epochs=50)
fi
go_on .venv/bin/python -m experiments.train --dataset=frey_faces --data_dir="$data" --likelihood=discretized_logistic \
  --binarization=none --posterior=normal,full_covariance --hidden=200 --latent_dim=10 --batch_size=100 \
  "${length[@]}" --workdir="$output"
.venv/bin/python -m experiments.report --workdir="$output"
exit "$failed"
