#!/usr/bin/env bash
# train.sh DATA WORK METHOD RATE SEED: one training of the comparison in README.md.
# METHOD is a name below; WORK is that of ../paper/large.sh.
set -euo pipefail
data=$1 work=$2 method=$3 rate=$4 seed=$5
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=1
[ -d "$work/held" ] || python "$here/../optimizers/pick.py" \
  "$data/phonons/phonondb_pbesol_large" "$work/held" --split val

case $method in
  none) options=() ;;
  projection) options=(+callbacks.less._target_=methods.Projection trust_config=true) ;;
  delta*) options=(adaptation=delta adaptation.decay="${method#delta}") ;;
  warmup*) options=(scheduler.n_warmup="${method#warmup}") ;;
  anchor*) options=(callbacks.anchor.strength="${method#anchor}") ;;
  both*) options=(scheduler.n_warmup=20 callbacks.anchor.strength="${method#both}") ;;
  *) echo "no method $method" >&2; exit 2 ;;
esac
run=${RUN:-$work/forgetting/$method-$rate-$seed}
[ ! -e "$run/summary.json" ] || exit 0
steps=${STEPS:-80} resume=()
[ ! -e "$run/before.json" ] || resume=(resume=true)
base="$data/models/nequix-mp-1.pt"
exec pft-train experiment=pft_paper_nequix_cpu model.checkpoint="${CHECKPOINT:-$base}" \
  data.phonons.train="[$work/a.store,$work/b.store]" data.phonons.val="$work/held" \
  data.upstream.train="[$(IFS=,; set -- "$work"/labelled-*.xyz; echo "$*")]" \
  data.upstream.val="$data/efs/mptrj-val.xyz.xz" data.cache_dir="$work/cache" \
  loss.upstream.energy=110 loss.upstream.forces=70 loss.upstream.stress=250 \
  data.phonons.batch_size=4 trainer.devices=1 trainer.strategy=auto \
  trainer.max_steps="$steps" trainer.val_check_interval="$steps" \
  optimizer.lr="$rate" "${options[@]}" seed="$seed" logger=none hydra.run.dir="$run" \
  "${resume[@]}"
