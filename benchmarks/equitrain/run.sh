#!/usr/bin/env bash
# run.sh DATA WORK PYTHON: DATA holds efs/ (MPtrj frames) and phonons/phonopy_examples/,
# WORK is filled, PYTHON is that of Equitrain's own environment. pft-train and
# pft-evaluate are those of the environment that this runs in, with SevenNet.
set -euo pipefail
data=$1 work=$2 python=$3
here=$(cd "$(dirname "$0")" && pwd)
export OMP_NUM_THREADS=1
mkdir -p "$work"

python "$here/frames.py" "$data/efs/mptrj-val.xyz.xz" "$work/mptrj.xyz"

# CRYSTAL SIZE SEED EPOCHS EARLY: Equitrain for 110 to 235 s of processor time, which also
# writes what it has after some 60 s, and ours for as long as the recipe takes.
both() {
  local name=$1-$2-s$3
  if [ ! -f "$work/eq/$name/summary.json" ]; then
    "$python" "$here/train_equitrain.py" "$work/$1/train-$2.xyz" "$work/$1/valid-$2.xyz" \
      "$work/eq/$name" --epochs "$4" --early "$5" --seed "$3"
  fi
  if [ ! -f "$work/ours/$name/summary.json" ]; then
    /usr/bin/time -f "%U %S %e" -o "$work/ours/$name.time" \
      pft-train experiment=one_material model.checkpoint=7net-0 seed="$3" \
      data.phonons.train="$work/$1/train-$2.yaml" data.cache_dir="$work/cache" \
      logger=none callbacks.anchor.strength=0 hydra.run.dir="$work/ours/$name"
  fi
}

for crystal in GaN_222 SiO2_221; do
  "$python" "$here/data.py" "$data/phonons/phonopy_examples/phonopy_${crystal}_rd.yaml.xz" \
    "$work/${crystal%%_*}"
done
mkdir -p "$work/ours" "$work/eq"
both GaN 2 0 64 21
both GaN 4 0 20 10
both GaN 8 0 16 5
both GaN 8 1 10 5
both GaN 8 2 10 5
both GaN 16 0 5 2
both SiO2 8 0 8 4

for crystal in GaN SiO2; do
  labels=()
  for folder in "$work"/eq/"$crystal"-* "$work"/ours/"$crystal"-*; do
    [ -f "$folder/summary.json" ] || continue
    label=$(basename "$(dirname "$folder")")-$(basename "$folder")
    labels+=("compare.$label.checkpoint=$folder/model.pth")
    [ ! -f "$folder/early.pth" ] || labels+=("compare.$label-early.checkpoint=$folder/early.pth")
  done
  pft-evaluate label=base model.checkpoint=7net-0 "${labels[@]}" \
    phonons="$work/$crystal/reference.yaml" upstream="$work/mptrj.xyz" \
    hydra.run.dir="$work/evaluation/$crystal"
done
python "$here/table.py" "$work" --out "$here/../results/equitrain/sevennet-0.json"
