#!/usr/bin/env bash
# Bulk and shear moduli of Nequix MP, its published fine-tuned weights and ours of
# ../paper, on 120 binaries. Twenty minutes on two cores. What is finished is kept.
# Usage: run.sh DATA WORK
set -euo pipefail
data=$(realpath "$1") work=$2
here="$(cd "$(dirname "$0")" && pwd)"
results="$here/../results"
mkdir -p "$work" "$results/elastic"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

[ -e "$work/some.json" ] || python "$here/pick.py" \
  "$data/elastic/mp-binary-pbe-elasticity-2025.1.json.gz" "$work/some.json"
pft-evaluate task=elastic structures="$work/some.json" reference="$work/some.json" \
  model.checkpoint="$data/models/nequix-mp-1-pft.pt" label=published \
  compare.base.checkpoint="$data/models/nequix-mp-1.pt" \
  compare.ours.checkpoint="$results/paper/cpu-cotraining-model.pt" \
  protocol=mdr_analytic protocol.fmax=1e-3 devices=2 accelerator=cpu \
  hydra.run.dir="$work/out"
cp "$work/out/metrics.json" "$results/elastic/metrics.json"
