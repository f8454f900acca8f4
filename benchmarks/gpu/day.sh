#!/usr/bin/env bash
# One visit to a GPU, at most nine minutes: install what the pack brought, make all checks.
#   OUT=FOLDER bash .gpu/day.sh                        on the machine with the GPU
#   OUT=FOLDER bash .gpu/day.sh --device cpu --tiny    rehearsal; options are those of day.py
# SITE=none takes the environment as it is. SECONDS_IN_ALL is the length of the visit.
set -u
out=${OUT:?a folder for the results}
total=${SECONDS_IN_ALL:-530}
pack=$(cd "$(dirname "$0")" && pwd)
code=$pack/code
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=
mkdir -p "$out"
if [ "${SITE:-}" != none ]; then
  site=$pack/site
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$site" "$pack"/whl/*.whl || echo "some wheels were not installed"
  # What is there already wins over what stands in for it.
  for stub in "$pack"/stubs/*; do
    python3 -c "import $(basename "$stub")" 2>/dev/null || cp -r "$stub" "$site/"
  done
  # Code that travels beside the pack is newer than the pack's own.
  if [ -f pyproject.toml ] && [ -d pft_lightning ] && [ -d benchmarks/gpu ]; then
    tar -c --exclude=pft_lightning/conf pft_lightning | tar -x -C "$site"
    cp -r conf/. "$site/pft_lightning/conf/"
    code=$PWD/benchmarks
  fi
  export PYTHONPATH=$site PATH=$site/bin:$PATH
fi
[ -d "$code" ] || code=$PWD/benchmarks
PFT_COMMIT=$(git rev-parse --short HEAD 2>/dev/null || cat "$pack/commit" 2>/dev/null)
export PFT_COMMIT
exec python3 "$code/gpu/day.py" "$out" --pack "$pack" --seconds $((total - SECONDS)) "$@"
