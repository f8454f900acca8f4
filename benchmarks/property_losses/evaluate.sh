#!/usr/bin/env bash
# evaluate.sh DATA WORK: all trainings that are there, on the materials that were kept back.
set -euo pipefail
data=$1 work=$2
compared=()
for run in "$work"/runs/*/model.pt; do
  name=$(basename "$(dirname "$run")")
  compared+=("compare.${name//-/_}.checkpoint=$run")
done
exec pft-evaluate model.checkpoint="$data/models/nequix-mp-1.pt" label=base \
  phonons="$work/phonons/val" upstream="$data/efs/mptrj-val.xyz.xz" \
  "${compared[@]}" hydra.run.dir="$work/evaluation"
