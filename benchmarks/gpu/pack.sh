#!/usr/bin/env bash
# Make .gpu/ in the project's root, which git ignores: all that a visit to a GPU without a
# network needs beside torch, Lightning and JAX. At most 50 MiB; some ten minutes.
#   bash benchmarks/gpu/pack.sh [SHARED] [OUT]
# SHARED (default ../shared) holds data/: the Nequix models, phonondb_pbesol, MPtrj frames.
# PYTHONS lists interpreters that have this project, each with some framework; the first
# that can do it makes each file. Models of none come along without the CPU's numbers.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd); cd "$root"
data=$(realpath "${1:-../shared}")/data; out=$(realpath -m "${2:-.gpu}")
read -ra pythons <<<"${PYTHONS:-python3}"
rm -rf "$out"; mkdir -p "$out"/{whl,models,data,reference,code}

first() { # command of Python: by the first interpreter that manages it
  for python in "${pythons[@]}"; do
    PYTHONPATH=$root:$root/benchmarks/gpu "$python" "$@" >"$out/last.log" 2>&1 && return
  done
  echo "no interpreter could do: $*"; tail -n 3 "$out/last.log"; return 1
}

echo "wheels, for Python 3.12"
get=(python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12
  --implementation cp --abi cp312 --abi abi3 --abi none -d "$out/whl" --platform any)
for n in 39 35 34 31 28 27 24 17; do get+=(--platform "manylinux_2_${n}_x86_64"); done
get+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
core=(annotated-types antlr4-python3-runtime==4.9.3 ase==3.29.0 ase-db-backends filelock
  hydra-core==1.3.8 'lmdb>=1.6' 'omegaconf<2.4' phonopy==4.10.0 phonors platformdirs
  pydantic==2.14.4 pydantic-core==2.50.5 seekpath spglib symfc typing-inspection vesin)
frameworks=(configargparse e3nn==0.6.0 gitdb gitpython mace-torch==0.3.16 matscipy
  nequip==0.19.1 opt-einsum-fx orjson prettytable python-hostlist smmap torch-ema
  torch-runstats wcwidth)
jax=(e3nn-jax jraph nequix==0.4.5)
for name in "${core[@]}" "${frameworks[@]}" "${jax[@]}"; do
  case $name in
    antlr4*|python-hostlist) python3 -m pip wheel -q --no-deps -w "$out/whl" "$name" ;;
    *) "${get[@]}" "$name" ;;
  esac 2> >(grep -v WARNING >&2)
done
# From a copy, so that building leaves nothing behind; day.sh takes newer code beside it.
copy=$(mktemp -d); trap 'rm -rf "$copy"' EXIT
cp -r pyproject.toml README.md LICENSE "$copy"
tar -c --exclude=__pycache__ --exclude=pft_lightning/conf pft_lightning conf | tar -x -C "$copy"
python3 -m pip wheel -q --no-deps -w "$out/whl" "$copy" 2> >(grep -v WARNING >&2)
# Compiles itself where it is imported first, from its sources.
python3 -m pip download -q --no-deps --no-binary=openequivariance -d "$copy" openequivariance==0.7.0 \
  2> >(grep -v WARNING >&2) && mkdir -p "$out/stubs" &&
  tar -xzf "$copy"/openequivariance-*.tar.gz -C "$out/stubs" --strip-components=1 \
    --wildcards '*/openequivariance/*' || echo "without OpenEquivariance"
# SevenNet's wheel is 43 MB of published models; its code and version are enough here.
python3 -m pip download -q --no-deps -d "$copy" sevenn==0.13.0 2> >(grep -v WARNING >&2) &&
  mkdir -p "$out/stubs" && python3 benchmarks/gpu/pack.py code "$copy"/sevenn-*.whl "$out/stubs" ||
  echo "without SevenNet"
# The training step of Nequix in JAX imports the first two, SevenNet the last; what is
# done here uses none.
for name in wandb wandb_osh pandas; do
  mkdir -p "$out/stubs/$name"
  echo 'def __getattr__(name): return lambda *a, **k: None' >"$out/stubs/$name/__init__.py"
done
echo 'class TriggerWandbSyncHook: pass' >"$out/stubs/wandb_osh/hooks.py"

echo "models and data"
cp "$data/models/nequix-mp-1.pt" "$out/models/nequix.pt"
cp "$data/models/nequix-mp-1.nqx" "$out/models/nequix.nqx"
cp benchmarks/results/mptrj_pbesol/base-mace.model "$out/models/mace.model"
for split in train val; do
  cp "$data/efs/mptrj-$split.xyz.xz" "$out/data/upstream-$split.xyz.xz"
done
first benchmarks/gpu/pack.py nequip "$out/data/upstream-val.xyz.xz" "$out/models/nequip.ckpt" || true
first benchmarks/gpu/pack.py sevennet "$out/models/sevennet.pth" || true
first benchmarks/gpu/pack.py choose "$data/phonons/phonondb_pbesol" "$out/phonons"
for split in train val; do
  first -c 'from pft_lightning.cli.prepare import main; main()' "phonons=$out/phonons/$split" \
    "out=$out/data/$split.store" cutoff=6.0 n_workers=2 "hydra.run.dir=$out/prepare"
done
rm -rf "$out/phonons" "$out/prepare"

echo "numbers of the CPU"
for model in "$out"/models/*; do
  [ "${model##*.}" = nqx ] && continue
  first benchmarks/gpu/pack.py reference "$model" "$out/reference" || true
done

cp -r benchmarks/gpu benchmarks/hvp_cost "$out/code/"
find "$out" -name __pycache__ -prune -exec rm -rf {} +
cp benchmarks/gpu/day.sh "$out/"
git rev-parse --short HEAD >"$out/commit"
rm -f "$out/last.log"
size=$(du -sm --apparent-size "$out" | cut -f1)
echo "$out: $size MiB, $(ls "$out/whl" | wc -l) wheels"
[ "$size" -le 50 ] || { echo "more than 50 MiB: choose fewer materials"; exit 1; }
