#!/usr/bin/env bash
# Train Nequix MP on force constants and compare base, ours and the published weights.
# Usage: run.sh DATA WORK gpu|cpu [cotraining|no_cotraining|efs] [OVERRIDE ...]
# DATA holds models/, efs/ and phonons/; WORK is filled. A run that was killed continues.
# With SKIP_TRAINING=1 only the table is made again.
set -euo pipefail
data=$(realpath "$1") work=$2 hardware=$3 variant=${4:-cotraining}
shift $(($# < 4 ? $# : 4))
here="$(cd "$(dirname "$0")" && pwd)"
results="$here/../results/paper"
mkdir -p "$work" "$results"
work=$(realpath "$work")
base="$data/models/nequix-mp-1.pt" published="$data/models/nequix-mp-1-pft.pt"
frames="$data/efs/mptrj-train.xyz.xz" val_frames="$data/efs/mptrj-val.xyz.xz"

[ -e "$work/displaced-40.xyz" ] ||
  python "$here/make_data.py" "$data/phonons/phonondb_pbesol" "$work"

val="$work/val" train="$work/train" displaced="$work/displaced.xyz" budget=()
case $hardware in
  gpu) budget=(trainer.accelerator=gpu data.num_workers=8) ;;
  # Validations of the whole pack would take as long as the training. The recipe with
  # co-training trains in small cells of all materials, the control in whole supercells.
  cpu) val="$work/val-40" && export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" ;;
  *) echo "run.sh: hardware is '$hardware'; expected gpu or cpu" >&2 && exit 2 ;;
esac
case $hardware-$variant in
  gpu-cotraining) run=(experiment=pft_paper_nequix data.upstream.train="$frames") ;;
  cpu-cotraining) run=(experiment=pft_paper_nequix_cpu data.upstream.train="$frames") ;;
  gpu-no_cotraining) run=(experiment=pft_paper_nequix_no_cotraining) ;;
  cpu-no_cotraining) run=(experiment=pft_paper_nequix_cpu data.mode=alternate) ;;
  gpu-efs)
    run=(experiment=pft_paper_nequix_efs data.upstream.train="$displaced")
    ;;
  cpu-efs)
    train="$work/train-40"
    run=(experiment=pft_paper_nequix_efs data.upstream.train="$work/displaced-40.xyz"
      data.phonons.batch_size=2 data.upstream.batch_size=4 optimizer.lr=2e-4
      scheduler=cosine callbacks.ema.decay=0.99 trainer.accelerator=cpu export=last
      trainer.devices=2 trainer.strategy=ddp
      trainer.max_steps=1000 trainer.max_epochs=-1
      trainer.check_val_every_n_epoch=null trainer.val_check_interval=250)
    ;;
  *) echo "run.sh: there is no variant '$variant'" >&2 && exit 2 ;;
esac

folder="$work/runs/$hardware-$variant"
if [ -z "${SKIP_TRAINING:-}" ]; then
  resume=()
  [ ! -e "$folder/checkpoints/last.ckpt" ] || resume=(resume=true)
  pft-train "${run[@]}" "${budget[@]}" model.checkpoint="$base" \
    data.phonons.train="$train" data.phonons.val="$val" \
    data.upstream.val="$val_frames" data.cache_dir="$work/cache" \
    hydra.run.dir="$folder" "${resume[@]}" "$@"
  cp "$folder/summary.json" "$results/$hardware-$variant.json"
  cp "$folder/model.pt" "$results/$hardware-$variant-model.pt"
  python "$here/curve.py" "$folder" "$results/$hardware-$variant-curve.csv"
fi

# The validation pack (PBEsol), and the materials with PBE labels as a transfer check.
for set in val pbe; do
  phonons="$data/phonons/phonondb_pbesol/val"
  [ $set = val ] || phonons="$data/phonons/pbe/*.yaml"
  pft-evaluate model=nequix model.checkpoint="$folder/model.pt" \
    phonons="$phonons" protocol=dft_cell upstream="$val_frames" \
    compare.base.model=nequix compare.base.checkpoint="$base" \
    compare.published.model=nequix compare.published.checkpoint="$published" \
    hydra.run.dir="$work/evaluation/$hardware-$variant-$set"
  cp "$work/evaluation/$hardware-$variant-$set/metrics.json" \
    "$results/$hardware-$variant-$set-metrics.json"
done
