#!/usr/bin/env bash
# anchor.sh DATA WORK: what callbacks.anchor changes of ours, with 8 structures of each
# crystal; DATA as for run.sh. Both are those of an environment with SevenNet.
set -euo pipefail
data=$1 work=$2
here=$(cd "$(dirname "$0")" && pwd)
export OMP_NUM_THREADS=1
mkdir -p "$work"
python "$here/frames.py" "$data/efs/mptrj-val.xyz.xz" "$work/mptrj.xyz"
for crystal in GaN_222 SiO2_221; do
  python "$here/data.py" "$data/phonons/phonopy_examples/phonopy_${crystal}_rd.yaml.xz" \
    "$work/${crystal%%_*}"
done
for crystal in GaN SiO2; do
  labels=() mixes=()
  for seed in 0 1 2; do
    for strength in 0 100; do
      run=$work/anchor/$crystal-8-s$seed-a$strength
      [ -f "$run/summary.json" ] ||
        pft-train experiment=one_material model.checkpoint=7net-0 seed="$seed" \
          data.phonons.train="$work/$crystal/train-8.yaml" data.cache_dir="$work/cache" \
          logger=none callbacks.anchor.strength="$strength" hydra.run.dir="$run"
      labels+=("compare.$(basename "$run").checkpoint=$run/model.pth")
    done
    for mix in 6 8; do # tenths
      name=$crystal-8-s$seed-m$mix
      pft-export model.checkpoint="$work/anchor/$crystal-8-s$seed-a0/model.pth" \
        base=7net-0 mix="0.$mix" out="$work/anchor/$name.pth"
      mixes+=("compare.$name.checkpoint=$work/anchor/$name.pth")
    done
  done
  evaluate() { # SET LABEL ...
    local out=$work/evaluation/$1-$crystal
    pft-evaluate label=base model.checkpoint=7net-0 "${@:2}" \
      phonons="$work/$crystal/reference.yaml" upstream="$work/mptrj.xyz" \
      hydra.run.dir="$out"
    cp "$out/metrics.json" "$here/../results/equitrain/$1-$crystal-metrics.json"
  }
  evaluate anchor "${labels[@]}"
  evaluate mix "${mixes[@]}"
done
