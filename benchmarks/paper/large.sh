#!/usr/bin/env bash
# Train Nequix MP on all materials of both PBEsol packs, on two CPU cores.
# Usage: large.sh DATA WORK STAGE START [OVERRIDE ...]
# DATA holds models/, efs/, phonons/phonondb_pbesol and phonons/phonondb_pbesol_large;
# WORK is filled. START is the potential that the stage starts from: the base model, or
# what a stage before has written. A run that was killed continues. With
# SKIP_TRAINING=1 only the comparison is made again.
set -euo pipefail
data=$(realpath "$1") work=$2 stage=$3 start=$(realpath "$4")
shift 4
here="$(cd "$(dirname "$0")" && pwd)"
results="$here/../results/paper"
mkdir -p "$work" "$results"
work=$(realpath "$work")
base="$data/models/nequix-mp-1.pt" frames="$data/efs/mptrj-train.xyz.xz"
val_frames="$data/efs/mptrj-val.xyz.xz"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

[ -e "$work/displaced-40.xyz" ] ||
  python "$here/make_data.py" "$data/phonons/phonondb_pbesol" "$work"
# Two halves, since a process reads five materials a second.
if [ ! -e "$work/halves" ]; then
  rm -rf "$work"/{a,b,a-third,b-third}
  mkdir -p "$work"/{a,b,a-third,b-third}
  number=0
  for file in "$data"/phonons/phonondb_pbesol{,_large}/train/*.xz; do
    half=$([ $((number % 2)) = 0 ] && echo a || echo b)
    ln -s "$file" "$work/$half/"
    number=$((number + 1))
  done
  for half in a b; do
    find "$work/$half" -name '*.xz' | LC_ALL=C sort | awk 'NR % 3 == 1' |
      xargs -d '\n' cp -Pt "$work/$half-third"
  done
  touch "$work/halves"
fi
pids=()
for half in a b; do
  pft-prepare phonons="$work/$half" cutoff=6 out="$work/$half.store" & # or goes on
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid"; done

# What the base model says of frames as it was trained on, of the same rattled, and of
# rattled crystals: many, since a few are learnt by heart and others forgotten.
rattle() { # NAME STRUCTURES OPTION ...
  [ -e "$work/$1.xyz" ] ||
    pft-prepare task=rattle structures="$2" rattle.min_atoms=1 "${@:3}" \
      out="$work/$1.xyz"
}
rattle crystals-a "$work/a-third" rattle.n_rattled=1
rattle crystals-b "$work/b-third" rattle.n_rattled=2 "rattle.displacement=[0.01,0.08]"
rattle frames "$frames" rattle.n_rattled=5 "rattle.displacement=[0.01,0.12]"
upstream=()
for source in "$frames" "$work"/{crystals-a,crystals-b,frames}.xyz; do
  labelled="$work/labelled-$(basename "$source" | cut -d. -f1).xyz"
  [ -e "$labelled" ] ||
    pft-prepare task=pseudolabel structures="$source" model.checkpoint="$base" \
      out="$labelled"
  upstream+=("$labelled")
done

folder="$work/runs/$stage"
if [ -z "${SKIP_TRAINING:-}" ]; then
  resume=()
  [ ! -e "$folder/before.json" ] || resume=(resume=true)
  pft-train experiment=pft_paper_nequix_cpu model.checkpoint="$start" \
    data.phonons.train="[$work/a.store,$work/b.store]" data.phonons.val="$work/val-40" \
    data.upstream.train="[$(IFS=,; echo "${upstream[*]}")]" \
    data.upstream.val="$val_frames" data.cache_dir="$work/cache" \
    loss.upstream.energy=110 loss.upstream.forces=70 loss.upstream.stress=250 \
    functional.phonons=PBEsol optimizer.lr=3e-4 trainer.max_steps=1020 trainer.val_check_interval=255 \
    hydra.run.dir="$folder" "${resume[@]}" "$@"
  cp "$folder/summary.json" "$results/large-$stage.json"
  cp "$folder/model.pt" "$results/large-$stage-model.pt"
  python "$here/curve.py" "$folder" "$results/large-$stage-curve.csv"
fi

# Of val what run.sh keeps has the published weights.
for set in val pbe; do
  phonons="$data/phonons/phonondb_pbesol/val" published=()
  [ $set = val ] || {
    phonons="$data/phonons/pbe/*.yaml*"
    published=(compare.published.model=nequix
      compare.published.checkpoint="$data/models/nequix-mp-1-pft.pt")
  }
  out="$work/evaluation/large-$stage-$set"
  pft-evaluate task=trade_off model.checkpoint="$folder/model.pt" base="$base" \
    mix="[0.5,0.75]" phonons="$phonons" protocol=dft_cell upstream="$val_frames" \
    devices=2 hydra.run.dir="$out" "${published[@]}"
  cp "$out/metrics.json" "$results/large-$stage-$set-metrics.json"
done
