#!/usr/bin/env bash
# few_q_points.sh WORK: frequencies at Γ, X and L of four crystals are all that is learnt.
set -euo pipefail
work=$1
here=$(cd "$(dirname "$0")" && pwd)
example=$(python -c 'from importlib.resources import files; print(files("pft_lightning") / "example")')
taught=(Si MgO NaF SiC) others=(C LiF NaCl)
[ -e "$work/table" ] ||
  python "$here/few_q_points.py" "$example/phonons/train" "$work/table" --crystals "${taught[@]}"
compared=()
for seed in 0 1 2; do
  run="$work/runs/$seed"
  compared+=("compare.seed_$seed.checkpoint=$run/model.model")
  [ -e "$run/summary.json" ] || pft-train experiment=measured seed=$seed export=last \
    data.measured.train="$work/table/frequencies.csv" data.measured.val="$work/table/frequencies.csv" \
    data.measured.structures="$work/table" trainer.val_check_interval=200 \
    logger=none hydra.run.dir="$run"
done
for set in taught others; do
  declare -n names=$set
  files=$(printf "$example/phonons/train/%s.yaml.xz," "${names[@]}")
  pft-evaluate model.checkpoint="$example/base.model" label=base phonons="[${files%,}]" \
    "${compared[@]}" hydra.run.dir="$work/$set"
done
