#!/usr/bin/env bash
# What there is to find out on a GPU, most valuable first, on a machine that may have no network.  docs/gpu.md says more.
#
#   tools/gpu_check.sh --wheels wheels --out results                  # every step that is not done yet
#   tools/gpu_check.sh --wheels wheels --out results proof extensions # these, and not again what is done
#   tools/gpu_check.sh --help
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=python3 wheels='' work=${TMPDIR:-/tmp}/scanproof-gpu rest=()
while [ $# -gt 0 ]; do
  case $1 in
    --python | --wheels | --work)
      [ $# -ge 2 ] || { echo "gpu_check: $1 wants a value" >&2; exit 2; }
      printf -v "${1#--}" '%s' "$2"; shift 2 ;;
    *) rest+=("$1"); shift ;;
  esac
done
command -v "$python" >/dev/null || { echo "gpu_check: $python: not found" >&2; exit 2; }
mkdir -p "$work"; work=$(cd "$work" && pwd)
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
if [ -n "$wheels" ]; then
  compgen -G "$wheels/*.whl" >/dev/null || { echo "gpu_check: $wheels holds no wheels; tools/gpu_wheels.sh makes them" >&2; exit 2; }
  # Beside what the machine has, not into it: what is newer here is found first.
  names=$(cd "$wheels" && sha256sum -- *.whl)
  if [ "$(cat "$work/site.done" 2>/dev/null)" != "$names" ]; then
    rm -rf "$work/site"
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$work/site" "$wheels"/*.whl
    printf '%s\n' "$names" > "$work/site.done"
  fi
  export PYTHONPATH=$root:$work/site${PYTHONPATH#"$root"}
fi
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
# Autotuning takes minutes the first time: what it chose stays for the next call.
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$work/triton}
# In the caller's folder: the paths that were given are relative to it.
exec "$python" "$root/tools/gpu_check.py" --work "$work" ${rest[@]+"${rest[@]}"}
