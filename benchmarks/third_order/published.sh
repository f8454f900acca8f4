#!/usr/bin/env bash
# Third-order force constants of Nequix MP, its published fine-tuned weights and ours of
# ../paper, against DFT on Si and NaCl. Minutes on a CPU core.
# Usage: published.sh DATA WORK
set -euo pipefail
data=$(realpath "$1") work=$2
here="$(cd "$(dirname "$0")" && pwd)"
results="$here/../results"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

pft-evaluate task=third_order \
  phonons="[$data/third_order/Si-PBE,$data/third_order/NaCl222.yaml.xz]" \
  model.checkpoint="$data/models/nequix-mp-1-pft.pt" label=published \
  compare.base.checkpoint="$data/models/nequix-mp-1.pt" \
  compare.ours.checkpoint="$results/paper/cpu-cotraining-model.pt" \
  hydra.run.dir="$work/published"
mkdir -p "$results/third_order"
cp "$work/published/per_material.csv" "$results/third_order/published.csv"
