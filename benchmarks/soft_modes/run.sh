#!/usr/bin/env bash
# Imaginary modes of 40 PBEsol materials by Nequix MP, its published fine-tuned weights
# and ours of ../paper, beside DFT's. Forty minutes on one core. What is finished is
# kept.
# Usage: run.sh DATA WORK
set -euo pipefail
data=$(realpath "$1") work=$2
here="$(cd "$(dirname "$0")" && pwd)"
results="$here/../results"
mkdir -p "$work" "$results/soft_modes"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

python "$here/pick.py" "$data/phonons/phonondb_pbesol" "$work/phonons"
pft-evaluate task=soft_modes phonons="$work/phonons" \
  model.checkpoint="$data/models/nequix-mp-1.pt" label=base \
  compare.published.checkpoint="$data/models/nequix-mp-1-pft.pt" \
  compare.ours.checkpoint="$results/paper/cpu-cotraining-model.pt" \
  protocol=mdr_analytic soft_modes.generations=0 hydra.run.dir="$work/out"
python "$here/agreement.py" "$work/out" "$data/phonons/phonondb_pbesol/index.csv" \
  --out "$results/soft_modes/imaginary.json"
