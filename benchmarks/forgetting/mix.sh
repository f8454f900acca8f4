#!/usr/bin/env bash
# mix.sh DATA WORK RATE SEED MIX: errors of weights between the base model and those
# trained without a method, taken before the first step of a training from them.
set -euo pipefail
data=$1 work=$2 name=none-$3-$4 mix=$5
here=$(cd "$(dirname "$0")" && pwd)
out="$work/forgetting/$name-mix$mix"
mkdir -p "$out"
[ -e "$out/mixed.pt" ] ||
  pft-export model.checkpoint="$work/forgetting/$name/model.pt" \
    base="$data/models/nequix-mp-1.pt" mix="$mix" out="$out/mixed.pt"
CHECKPOINT="$out/mixed.pt" RUN="$out/run" STEPS=1 \
  "$here/train.sh" "$data" "$work" none 1e-9 "$4"
