#!/usr/bin/env bash
# Train SevenNet-0 on force constants for an hour on two cores, and compare with it.
# Usage: run.sh DATA WORK [OVERRIDE ...]
# DATA and WORK are those of ../paper/run.sh; DATA/phonons holds phonondb_pbesol_large
# too. A run that was killed continues. With SKIP_TRAINING=1 only the comparison is
# made again.
set -euo pipefail
data=$(realpath "$1") work=$2
shift 2
here="$(cd "$(dirname "$0")" && pwd)"
results="$here/../results/sevennet"
mkdir -p "$work" "$results"
work=$(realpath "$work")
base=7net-0 val_frames="$data/efs/mptrj-val.xyz.xz"
large="$data/phonons/phonondb_pbesol_large"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

[ -e "$work/displaced-40.xyz" ] ||
  python "$here/../paper/make_data.py" "$data/phonons/phonondb_pbesol" "$work"
# Of the larger pack those of small supercells, which are read fastest.
[ -e "$work/train.store" ] || {
  python "$here/small_materials.py" "$large" "$work/small"
  pft-prepare phonons="[$work/train,$work/small]" cutoff=5 out="$work/train.store"
}
# What the potential says of frames as it was trained on, and of rattled crystals.
[ -e "$work/rattled.xyz" ] ||
  pft-prepare task=rattle structures="$work/small-half" rattle.n_rattled=1 \
    rattle.min_atoms=1 out="$work/rattled.xyz"
for frames in "$data/efs/mptrj-train.xyz.xz" "$work/rattled.xyz"; do
  labelled="$work/labelled-$(basename "$frames" | cut -d. -f1).xyz"
  [ -e "$labelled" ] ||
    pft-prepare task=pseudolabel structures="$frames" model.checkpoint="$base" \
      out="$labelled"
done

folder="$work/runs/sevennet-0"
if [ -z "${SKIP_TRAINING:-}" ]; then
  resume=()
  [ ! -e "$folder/checkpoints/last.ckpt" ] || resume=(resume=true)
  pft-train experiment=pft_sevennet_cpu model.checkpoint="$base" \
    data.phonons.train="$work/train.store" data.phonons.val="$work/val-40" \
    data.upstream.train="[$work/labelled-mptrj-train.xyz,$work/labelled-rattled.xyz]" \
    data.upstream.val="$val_frames" data.cache_dir="$work/cache" \
    hydra.run.dir="$folder" "${resume[@]}" "$@"
  cp "$folder/summary.json" "$results/sevennet-0.json"
  cp "$folder/model.pth" "$results/sevennet-0-model.pth"
  python "$here/../paper/curve.py" "$folder" "$results/sevennet-0-curve.csv"
fi

for set in val pbe; do
  phonons="$data/phonons/phonondb_pbesol/val"
  [ $set = val ] || phonons="$data/phonons/pbe/*.yaml*"
  pft-evaluate model.checkpoint="$folder/model.pth" phonons="$phonons" \
    protocol=dft_cell upstream="$val_frames" compare.base.checkpoint="$base" \
    hydra.run.dir="$work/evaluation/sevennet-0-$set"
  cp "$work/evaluation/sevennet-0-$set/metrics.json" \
    "$results/sevennet-0-$set-metrics.json"
done
