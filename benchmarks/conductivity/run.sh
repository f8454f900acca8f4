#!/usr/bin/env bash
# Conductivities of eight cubic materials by Nequix MP and its published fine-tuned
# weights, beside the published rows. Some five minutes a material and model on one
# core. What is finished is kept.
# Usage: run.sh DATA WORK
set -euo pipefail
data=$(realpath "$1") work=$2
here="$(cd "$(dirname "$0")" && pwd)"
results="$here/../results/conductivity"
mkdir -p "$work" "$results"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

python "$here/pick.py" "$data/kappa/phononDB-PBE-structures.extxyz" "$work/cubic.extxyz"
pft-evaluate task=conductivity protocol=matbench structures="$work/cubic.extxyz" \
  model.checkpoint="$data/models/nequix-mp-1.pt" label=base \
  compare.published.checkpoint="$data/models/nequix-mp-1-pft.pt" \
  reference="$data/kappa/kappas_phononDB_PBE_noNAC.json.gz" \
  hydra.run.dir="$work/out"
python "$here/compare.py" "$work/out" "$data/kappa/kappa-103-analysis.jsonl" \
  --out "$results/cubic.json"
