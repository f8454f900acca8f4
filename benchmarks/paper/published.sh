#!/usr/bin/env bash
# Compare all published Nequix weights on the materials that run.sh keeps back.
# Usage: published.sh DATA WORK
# Nothing is trained. Files of JAX (.nqx) are read without it. An evaluation that was
# stopped continues.
set -euo pipefail
data=$(realpath "$1") work=$2
here="$(cd "$(dirname "$0")" && pwd)"
results="$here/../results/paper"
mkdir -p "$work" "$results"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

others=()
while read -r name file; do
  others+=("compare.$name.model=nequix" "compare.$name.checkpoint=$data/models/$file")
done <<'FILES'
published nequix-mp-1-pft.pt
no_cotraining nequix-mp-1-pft-nocotrain.nqx
omat nequix-omat-1.nqx
oam nequix-oam-1.nqx
oam_published nequix-oam-1-pft.nqx
FILES

for set in val pbe; do
  phonons="$data/phonons/phonondb_pbesol/val"
  [ $set = val ] || phonons="$data/phonons/pbe/*.yaml"
  pft-evaluate model=nequix model.checkpoint="$data/models/nequix-mp-1.pt" \
    phonons="$phonons" protocol=dft_cell upstream="$data/efs/mptrj-val.xyz.xz" \
    "${others[@]}" hydra.run.dir="$work/evaluation/all-published-$set"
  cp "$work/evaluation/all-published-$set/metrics.json" \
    "$results/all-published-$set-metrics.json"
done
