#!/usr/bin/env bash
# train.sh DATA WORK OPTIMIZER RATE SEED: one training of the comparison in README.md.
# OPTIMIZER is adamw, muon or soap; WORK is that of ../sevennet/run.sh.
set -euo pipefail
data=$1 work=$2 optimizer=$3 rate=$4 seed=$5
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=1
[ -d "$work/held" ] || python "$here/pick.py" "$data/phonons/phonondb_pbesol_large" "$work/held"

case $optimizer in
  adamw) options=() ;;
  muon) options=(optimizer._target_=matrix.Muon) ;;
  soap) options=(optimizer._target_=matrix.Soap) ;;
  *) echo "no optimizer $optimizer" >&2; exit 2 ;;
esac
[ "$optimizer" = adamw ] ||
  options+=(+callbacks.matrices._target_=matrix.Matrices trust_config=true)
run=${RUN:-$work/optimizers/$optimizer-$rate-$seed}
[ ! -e "$run/summary.json" ] || exit 0
steps=${STEPS:-80}
exec pft-train experiment=pft_sevennet_cpu model.checkpoint="${CHECKPOINT:-7net-0}" \
  data.phonons.train="$work/train.store" data.phonons.val="$work/held" \
  data.upstream.train="[$work/labelled-mptrj-train.xyz,$work/labelled-rattled.xyz]" \
  data.upstream.val="$data/efs/mptrj-val.xyz.xz" data.cache_dir="$work/cache" \
  data.phonons.batch_size=4 trainer.devices=1 trainer.strategy=auto \
  trainer.max_steps="$steps" trainer.val_check_interval="$steps" \
  optimizer.lr="$rate" "${options[@]}" seed="$seed" logger=none hydra.run.dir="$run"
