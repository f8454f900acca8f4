#!/bin/sh
# Train the quickstart's base model on the ordinary frames only (no phonons), on one CPU core.
# Usage: train_base.sh EXAMPLE_FOLDER WORK_FOLDER     (needs mace-torch; prints the errors at the end)
set -eu
example=$(cd "$1" && pwd)
mkdir -p "$2"
cd "$2"
xz -dc "$example/upstream_train.xyz.xz" > train.xyz
xz -dc "$example/upstream_val.xyz.xz" > val.xyz
export OMP_NUM_THREADS=1
"${MACE_RUN_TRAIN:-mace_run_train}" \
  --name base --seed 1 --device cpu --default_dtype float32 --work_dir . \
  --train_file train.xyz --valid_file val.xyz \
  --energy_key energy --forces_key forces --stress_key stress --E0s average \
  --model MACE --num_interactions 2 --r_max 4.5 --hidden_irreps "16x0e + 16x1o" \
  --correlation 2 --max_ell 2 --num_radial_basis 8 --MLP_irreps 16x0e --radial_MLP "[32, 32]" \
  --loss universal --energy_weight 2 --forces_weight 10 --stress_weight 50 \
  --batch_size 4 --valid_batch_size 8 --lr 0.01 --ema --ema_decay 0.99 --amsgrad \
  --scheduler ExponentialLR --lr_scheduler_gamma 0.988 \
  --max_num_epochs "${EPOCHS:-301}" --eval_interval 10 --patience 1000 --error_table PerAtomMAE
cp base.model "$example/base.model"
