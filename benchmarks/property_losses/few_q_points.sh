#!/usr/bin/env bash
# few_q_points.sh DATA WORK SEED: all that is learnt of phonons are frequencies of 60
# crystals at Γ and the zone boundary. few_q_points.sh DATA WORK evaluates all seeds.
set -euo pipefail
data=$1 work=$2 seed=${3:-}
here=$(cd "$(dirname "$0")" && pwd)
[ -d "$work/phonons" ] || python "$here/pick.py" "$data/phonons/phonondb_pbesol" "$work/phonons"
[ -e "$work/table" ] || python "$here/few_q_points.py" "$work/phonons/train" "$work/table"
run="$work/frequencies_alone"
if [ -n "$seed" ]; then
  [ ! -e "$run/$seed/summary.json" ] || exit 0
  exec pft-train model.checkpoint="$data/models/nequix-mp-1.pt" \
    data.phonons.train="$work/phonons/watched" data.phonons.val="$work/phonons/watched" \
    data.phonons.batch_size=1 data.mode=joint \
    data.upstream.train="$data/efs/mptrj-train.xyz.xz" \
    data.upstream.val="$data/efs/mptrj-val.xyz.xz" data.upstream.batch_size=4 \
    data.measured.train="$work/table/frequencies.csv" \
    data.measured.val="$work/table/frequencies.csv" \
    data.measured.structures="$work/table" data.measured.batch_size=8 \
    loss.phonon.hvp=0 loss.phonon.forces=0 loss.phonon.stress=0 \
    loss.measured.frequencies="${WEIGHT:-30}" \
    loss.upstream.energy=80 loss.upstream.forces=60 loss.upstream.stress=200 \
    loss.reduction=structures optimizer.lr=7e-5 scheduler=cosine \
    trainer.max_steps=80 trainer.max_epochs=-1 trainer.check_val_every_n_epoch=null \
    trainer.val_check_interval=80 export=last seed="$seed" logger=none \
    data.cache_dir="$work/cache" hydra.run.dir="$run/$seed"
fi
compared=()
for model in "$run"/*/model.pt; do
  compared+=("compare.seed_$(basename "$(dirname "$model")").checkpoint=$model")
done
mkdir -p "$work/phonons/taught"
(cd "$work/phonons/taught" && find ../train -name '*.yaml.xz' | sort | head -n 16 | xargs ln -sft .)
for set in taught val; do
  pft-evaluate model.checkpoint="$data/models/nequix-mp-1.pt" label=base \
    phonons="$work/phonons/$set" "${compared[@]}" hydra.run.dir="$run-$set"
done
