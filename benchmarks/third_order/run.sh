#!/usr/bin/env bash
# Train Nequix MP on Si, NaCl and ZnTe, on the Hessian alone and on third order beside
# it, three seeds each, and compare on AlN and MgO, which no training has seen.
# Usage: run.sh DATA WORK [STEPS [RATE]]
# DATA holds models/nequix-mp-1.pt, efs/mptrj-*.xyz.xz and third_order (calculations of
# phono3py's tests and examples). What is finished is kept.
set -euo pipefail
data=$(realpath "$1") work=$2 steps=${3:-60} rate=${4:-3e-5}
here="$(cd "$(dirname "$0")" && pwd)"
mkdir -p "$work"
work=$(realpath "$work")
third="$data/third_order"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

for seed in 0 1 2; do
  for weight in 0 300; do
    run="$work/weight-$weight-seed-$seed"
    [ -e "$run/summary.json" ] && continue
    resume=()
    [ ! -e "$run/checkpoints/last.ckpt" ] || resume=(resume=true)
    pft-train model.checkpoint="$data/models/nequix-mp-1.pt" \
      data.phonons.train="[$third/Si-PBE,$third/NaCl222.yaml.xz,$third/zb-ZnTe-PBEsol_ZnTe.yaml.xz]" \
      data.phonons.val="[$third/AlN332.yaml.xz,$third/MgO-222rd-444rd.yaml.xz]" \
      data.phonons.options.third_order=true data.phonons.batch_size=3 \
      data.upstream.train="$data/efs/mptrj-train.xyz.xz" \
      data.upstream.val="$data/efs/mptrj-val.xyz.xz" \
      data.upstream.batch_size=4 data.mode=joint \
      loss.phonon.third_order="$weight" loss.phonon.hvp=300 loss.phonon.forces=5 \
      loss.phonon.stress=0 loss.upstream.energy=80 loss.upstream.forces=60 \
      loss.upstream.stress=200 loss.kind.hvp=l2 loss.kind.third_order=l2 \
      loss.reduction=structures optimizer.lr="$rate" scheduler=cosine \
      trainer.max_steps="$steps" trainer.max_epochs=-1 \
      trainer.check_val_every_n_epoch=null trainer.val_check_interval="$steps" \
      seed="$seed" logger=none data.cache_dir="$work/cache" \
      hydra.run.dir="$run" "${resume[@]}"
  done
done
python "$here/compare.py" "$data" "$work" --out "$here/../results/third_order/trained_gently.json"
