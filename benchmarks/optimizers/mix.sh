#!/usr/bin/env bash
# mix.sh DATA WORK OPTIMIZER RATE SEED MIX: errors of weights between base and trained,
# those before the first step of a training that starts from them.
set -euo pipefail
data=$1 work=$2 name=$3-$4-$5 mix=$6
here=$(cd "$(dirname "$0")" && pwd)
out="$work/optimizers/$name-mix$mix"
mkdir -p "$out"
[ -e "$out/mixed.pth" ] ||
  pft-export model.checkpoint="$work/optimizers/$name/model.pth" base=7net-0 \
    mix="$mix" out="$out/mixed.pth"
CHECKPOINT="$out/mixed.pth" RUN="$out/run" STEPS=1 \
  "$here/train.sh" "$data" "$work" adamw 1e-9 "$5"
