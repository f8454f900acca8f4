#!/usr/bin/env bash
# rates.sh DATA WORK ADAPTATION RATE [SEED [OVERRIDE ...]]: one training of the comparison
# of rates in README.md. WORK/phonons is made by ../property_losses/pick.py.
set -euo pipefail
data=$1 work=$2 adaptation=$3 rate=$4 seed=${5:-0}
shift $(($# > 5 ? 5 : $#))
here=$(cd "$(dirname "$0")" && pwd)
[ -d "$work/phonons" ] ||
  python "$here/../property_losses/pick.py" "$data/phonons/phonondb_pbesol" "$work/phonons"
run="$work/rates/$adaptation-$rate-$seed"
[ ! -e "$run/summary.json" ] || exit 0
case $adaptation in
  freeze) terms=(adaptation=freeze 'adaptation.freeze=[embedding,interaction_0]') ;;
  *) terms=(adaptation="$adaptation") ;;
esac
exec pft-train model.checkpoint="$data/models/nequix-mp-1.pt" "${terms[@]}" \
  data.phonons.train="$work/phonons/train" data.phonons.val="$work/phonons/val" \
  data.phonons.batch_size=4 data.mode=joint \
  data.upstream.train="$data/efs/mptrj-train.xyz.xz" \
  data.upstream.val="$data/efs/mptrj-val.xyz.xz" data.upstream.batch_size=4 \
  probe=commensurate loss.phonon.hvp=300 loss.phonon.forces=5 loss.phonon.stress=0 \
  loss.upstream.energy=80 loss.upstream.forces=60 loss.upstream.stress=200 \
  loss.kind.hvp=l2 loss.reduction=structures optimizer.lr="$rate" scheduler=cosine \
  trainer.max_steps="${STEPS:-80}" trainer.max_epochs=-1 \
  trainer.check_val_every_n_epoch=null trainer.val_check_interval="${STEPS:-80}" \
  export=last seed="$seed" logger=none data.cache_dir="$work/cache" hydra.run.dir="$run" "$@"
