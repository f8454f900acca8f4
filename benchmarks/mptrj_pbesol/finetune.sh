#!/usr/bin/env bash
# Fine-tune one base model with and without co-training and keep both summaries.
# Usage: finetune.sh mace|nequip BASE_MODEL WORK_FOLDER [cotraining|no-cotraining]
# WORK_FOLDER is what make_data.py filled. Run it in the environment of the backend.
set -euo pipefail
backend=$1 base=$2 work=$3 only=${4:-both}
results="$(cd "$(dirname "$0")/../results" && pwd)/mptrj_pbesol"
mkdir -p "$results"
export OMP_NUM_THREADS=1

# The published recipe, but for what small, barely converged models on a CPU need:
# small batches, a learning rate to match, K = 2, and weights under which neither kind
# of step drowns the other in the optimiser's moments.
common=(
  model="$backend" model.checkpoint="$base"
  data.phonons.train="$work/phonons/train" data.phonons.val="$work/phonons/val"
  data.upstream.val="$work/mptrj-val.xyz" data.upstream.batch_size=8
  loss.reduction=structures scheduler=cosine callbacks.ema.decay=0.95
  engine=reverse_over_reverse trainer.accelerator=cpu trainer.max_epochs=-1
  trainer.check_val_every_n_epoch=null export=last
)
case $backend in
  nequip)
    phonon_steps=800
    common+=(data.phonons.batch_size=4 optimizer.lr=1e-2 loss.phonon.hvp=400)
    upstream=(loss.upstream.energy=70 loss.upstream.forces=130 loss.upstream.stress=1000)
    ;;
  mace)
    phonon_steps=1000
    common+=(data.phonons.batch_size=2 optimizer.lr=5e-3 loss.phonon.hvp=550)
    upstream=(loss.upstream.energy=75 loss.upstream.forces=310 loss.upstream.stress=2000)
    ;;
esac

run() { # NAME OVERRIDE ...
  [ "$only" = both ] || [ "$only" = "$1" ] || return 0
  local name="$backend-$1"
  shift
  pft-train "$@" hydra.run.dir="$work/runs/$name"
  cp "$work/runs/$name/summary.json" "$results/$name.json"
}

run cotraining experiment=pft_paper "${common[@]}" "${upstream[@]}" \
  data.upstream.train="$work/mptrj-train.xyz" data.upstream_per_phonon=2 \
  trainer.max_steps=$((3 * phonon_steps)) trainer.val_check_interval="$phonon_steps"
run no-cotraining experiment=pft_paper_no_cotraining "${common[@]}" \
  trainer.max_steps="$phonon_steps" trainer.val_check_interval=$((phonon_steps / 2))
