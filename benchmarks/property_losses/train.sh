#!/usr/bin/env bash
# train.sh DATA WORK ARM SEED: one training of the comparison in README.md.
# ARM is one of hvp, probes, frequencies, thermal, all.
set -euo pipefail
data=$1 work=$2 arm=$3 seed=$4
here=$(cd "$(dirname "$0")" && pwd)
[ -d "$work/phonons" ] || python "$here/pick.py" "$data/phonons/phonondb_pbesol" "$work/phonons"

frequencies=loss.phonon.frequencies=30
thermal=(loss.phonon.entropy=1 loss.phonon.free_energy=3 loss.phonon.heat_capacity=4)
case $arm in
  hvp) terms=() ;;
  probes) terms=(probe.n_probes="${PROBES:-4}") ;;
  frequencies) terms=("$frequencies") ;;
  thermal) terms=("${thermal[@]}") ;;
  all) terms=("$frequencies" "${thermal[@]}") ;;
  *) echo "no arm $arm" >&2; exit 2 ;;
esac
run="$work/runs/$arm-$seed"
[ ! -e "$run/summary.json" ] || exit 0
exec pft-train model.checkpoint="$data/models/nequix-mp-1.pt" \
  data.phonons.train="$work/phonons/train" data.phonons.val="$work/phonons/watched" \
  data.phonons.batch_size=4 data.mode=joint \
  data.upstream.train="$data/efs/mptrj-train.xyz.xz" \
  data.upstream.val="$data/efs/mptrj-val.xyz.xz" data.upstream.batch_size=4 \
  probe=commensurate loss.phonon.hvp=300 loss.phonon.forces=5 loss.phonon.stress=0 \
  loss.property_share=0.25 "${terms[@]}" \
  loss.upstream.energy=80 loss.upstream.forces=60 loss.upstream.stress=200 \
  loss.kind.hvp=l2 loss.reduction=structures optimizer.lr=7e-5 scheduler=cosine \
  trainer.max_steps="${STEPS:-80}" trainer.max_epochs=-1 \
  trainer.check_val_every_n_epoch=null trainer.val_check_interval="${STEPS:-80}" \
  export=last seed="$seed" logger=none data.cache_dir="$work/cache" hydra.run.dir="$run"
