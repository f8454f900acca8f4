#!/usr/bin/env bash
# Train Nequix MP on phonons, frames and, in one of two runs, bulk and shear moduli of 90
# binaries; validate on others. What is finished is kept.
# Usage: train.sh DATA WORK [STEPS [SEED [WEIGHT [HVP]]]]
set -euo pipefail
data=$(realpath "$1") work=$2 steps=${3:-100} seed=${4:-0} term=${5:-1} hvp=${6:-30}
forces=$(awk "BEGIN {print $hvp / 60}")
here="$(cd "$(dirname "$0")" && pwd)"
mkdir -p "$work"
work=$(realpath "$work")
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

[ -e "$work/val.json" ] || python "$here/pick_training.py" "$data" "$work"
for weight in "$term" 0; do
  run="$work/moduli-$weight-seed-$seed"
  [ -e "$run/summary.json" ] && continue
  resume=()
  [ ! -e "$run/checkpoints/last.ckpt" ] || resume=(resume=true)
  pft-train model.checkpoint="$data/models/nequix-mp-1.pt" \
    data.phonons.train="$work/phonons/train" data.phonons.val="$work/phonons/val" \
    data.phonons.batch_size=2 \
    data.upstream.train="$data/efs/mptrj-train.xyz.xz" \
    data.upstream.val="$data/efs/mptrj-val.xyz.xz" \
    data.upstream.batch_size=8 data.mode=joint \
    data.elastic.train="$work/train.json" data.elastic.val="$work/val.json" \
    data.elastic.batch_size=3 \
    loss.elastic.constants=0 loss.elastic.moduli="$weight" \
    loss.phonon.hvp="$hvp" loss.phonon.forces="$forces" loss.phonon.stress=0 \
    loss.upstream.energy=80 loss.upstream.forces=60 loss.upstream.stress=200 \
    loss.kind.hvp=l2 optimizer.lr=1e-4 scheduler=cosine \
    trainer.max_steps="$steps" trainer.max_epochs=-1 \
    trainer.check_val_every_n_epoch=null trainer.val_check_interval="$steps" \
    seed="$seed" logger=none data.cache_dir="$work/cache" \
    hydra.run.dir="$run" "${resume[@]}"
done
