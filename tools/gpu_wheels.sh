#!/usr/bin/env bash
# Wheels for a GPU machine without a network: mamba-ssm and causal-conv1d, built here for one architecture without a
# GPU, and every other package that the machine lacks.  docs/gpu.md says how they are used.
#
#   tools/gpu_wheels.sh --out wheels              # builds and collects; what is built stays, so call it again at will
#   tools/gpu_wheels.sh --out wheels --check      # installs them, offline, on top of what the machine has, and asks
set -euo pipefail

usage="usage: tools/gpu_wheels.sh --out FOLDER [--work FOLDER] [--arch 90] [--python python3.12] [--jobs 2]
         [--bare tools/bare_machine.toml] [--mamba 2.3.2.post1] [--conv 1.7.0] [--check]"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out='' work='' arch=90 python=python3.12 jobs=2 bare=$root/tools/bare_machine.toml
mamba=2.3.2.post1 conv=1.7.0 check=no
# The compiler, pinned together: unpinned, pip mixes in parts of a newer CUDA than torch was built with.
compiler=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85
  nvidia-cuda-runtime==13.0.96)

die() { echo "gpu_wheels: $*" >&2; exit 2; }
say() { echo "[$(date +%H:%M:%S)] $*"; }

while [ $# -gt 0 ]; do
  case $1 in
    --out | --work | --arch | --python | --jobs | --bare | --mamba | --conv)
      [ $# -ge 2 ] || die "$1 wants a value"
      printf -v "${1#--}" '%s' "$2"; shift 2 ;;
    --check) check=yes; shift ;;
    -h | --help) echo "$usage"; exit 0 ;;
    *) die "unknown argument $1"$'\n'"$usage" ;;
  esac
done
[ -n "$out" ] || die "--out is missing"$'\n'"$usage"
[[ $arch =~ ^[0-9]+a?$ ]] || die "--arch $arch: a number such as 80, 90 or 120"
command -v "$python" >/dev/null || die "$python: not found; --python wants the GPU machine's Python, for example python3.12"
mkdir -p "$out"; out=$(cd "$out" && pwd); work=${work:-$out.work}
mkdir -p "$work"; work=$(cd "$work" && pwd)
packages() { "$work/bare/bin/python" "$root/tools/gpu_missing.py" --bare "$bare" "$@"; }

# An environment with what the machine has; torch's Linux wheel is the CUDA build.
prepare() {
  local asked; asked=$("$python" "$root/tools/gpu_missing.py" --bare "$bare" installed; "$python" -V)
  if [ "$(cat "$work/bare.done" 2>/dev/null)" != "$asked" ]; then
    say "environment with what the machine has"
    rm -rf "$work/bare" "$work/bare.done" "$work/cuda"
    "$python" -m venv "$work/bare"
    packages installed > "$work/installed.txt"
    "$work/bare/bin/python" -m pip install -q -r "$work/installed.txt"
    # What came along and is not said to be there: with older versions, nothing may have asked for it.
    packages unlisted > "$work/unlisted.txt"
    [ ! -s "$work/unlisted.txt" ] || "$work/bare/bin/python" -m pip uninstall -q -y -r "$work/unlisted.txt"
    echo "$asked" > "$work/bare.done"
  fi
  if [ "$(cat "$work/cuda/done" 2>/dev/null)" != "${compiler[*]}" ]; then
    say "CUDA compiler: ${compiler[*]}"
    rm -rf "$work/cuda" "$work/compiler"
    "$work/bare/bin/python" -m pip install -q --no-deps --target "$work/compiler" "${compiler[@]}"
    mkdir "$work/cuda"
    # torch's packages have the headers of cuBLAS and cuSPARSE.  Hard links, because nvcc looks beside itself.
    cp -al "$work"/bare/lib/python3*/site-packages/nvidia/cu13/. "$work/cuda/"
    cp -alf "$work/compiler/nvidia/cu13/." "$work/cuda/"
    ln -sfn lib "$work/cuda/lib64"
    ln -sf libcudart.so.13 "$work/cuda/lib/libcudart.so"
    chmod +x "$work"/cuda/bin/* "$work"/cuda/nvvm/bin/*
    "$work/cuda/bin/nvcc" --version >/dev/null || die "nvcc of $work/cuda does not run"
    echo "${compiler[*]}" > "$work/cuda/done"
  fi
}

# build NAME VERSION EXTENSION: a wheel that holds the extension, for one architecture.
build() {
  local name=$1 version=$2 extension=$3 torch key source listing
  torch=$("$work/bare/bin/python" -c 'import sys, torch; print(f"torch{torch.__version__}-cp{sys.version_info[0]}{sys.version_info[1]}")')
  key=$work/built/$name-$version-sm_$arch-$torch
  if ! compgen -G "$key/*.whl" >/dev/null; then
    say "$name $version for sm_$arch, $torch: minutes"
    source=$work/source/$name
    rm -rf "$source" "$key.part"; mkdir -p "$source" "$key.part"
    export CUDA_HOME=$work/cuda PATH=$work/bare/bin:$PATH MAX_JOBS=$jobs
    export CAUSAL_CONV1D_FORCE_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE MAMBA_KEEP_CUDA_BUILD=TRUE
    # Without debug information, and with the device code compressed, they are a quarter of the size.
    export NVCC_APPEND_FLAGS=--compress-mode=size CFLAGS=-g0 CXXFLAGS=-g0
    "$work/bare/bin/python" -m pip download -q --no-deps --no-binary :all: --no-build-isolation -d "$source" "$name==$version"
    tar xzf "$source"/*.tar.gz -C "$source" --strip-components=1
    one_architecture "$source/setup.py"
    "$work/bare/bin/python" -m pip wheel -q --no-deps --no-build-isolation -w "$key.part" "$source" \
      > "$work/$name.log" 2>&1 || { tail -40 "$work/$name.log" >&2; die "$name was not built; all of it: $work/$name.log"; }
    mv "$key.part" "$key"
  fi
  # A switch that was overlooked gives a wheel of Python alone, which would pass for the real one.
  # Listed first: grep -q leaves at the first hit, and a pipe that breaks under the writer would be an error.
  listing=$("$work/bare/bin/python" -m zipfile -l "$(echo "$key"/*.whl)")
  grep -q "$extension.*\.so" <<< "$listing" \
    || die "$key holds no $extension; delete the folder and call again"
  cp "$key"/*.whl "$out/"
}

# setup.py has a list of architectures and no switch for it: one inserted line makes it one.
one_architecture() {
  [ "$(grep -c '^    # HACK: The compiler flag' "$1")" = 1 ] \
    || die "$1 is another than this script knows: set cc_flag there by hand, see docs/gpu.md"
  sed -i -e "s/^    # HACK: The compiler flag/    cc_flag = [\"-gencode\", \"arch=compute_$arch,code=sm_$arch\"]\n&/" \
    -e '/"-lineinfo",/d' "$1"
}

# What pip would install on top of what the machine has.
collect() {
  say "packages that the machine lacks"
  packages wanted "$out"/{mamba_ssm,causal_conv1d}-*.whl > "$work/wanted.txt"
  "$work/bare/bin/python" -m pip install -q --dry-run --report "$work/report.json" -r "$work/wanted.txt"
  packages missing "$work/report.json" > "$work/missing.txt"
  find "$out" -maxdepth 1 -name '*.whl' ! -name 'mamba_ssm-*' ! -name 'causal_conv1d-*' -delete
  "$work/bare/bin/python" -m pip wheel -q --no-deps -w "$out" -r "$work/missing.txt"
}

# Offline, into an empty folder before what the machine has, as gpu_check.sh does it.
check_wheels() {
  local site=$work/site
  [ -x "$work/bare/bin/python" ] || die "call it without --check first"
  rm -rf "$site"
  "$work/bare/bin/python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$out"/*.whl
  export PYTHONPATH=$root:$site
  packages complete || die "the wheels are not complete"
  say "every requirement is met"
  "$work/bare/bin/python" -c 'import torch, selective_scan_cuda, causal_conv1d_cuda, mamba_ssm, causal_conv1d'
  say "the CUDA extensions load"
  "$root/tools/gpu_check.sh" --python "$work/bare/bin/python" --selections
  # Without a GPU it ends with 1 and says what is missing: that it speaks is what is asked.
  local said; said=$("$work/bare/bin/python" -m scanproof.cli.app doctor 2>&1) || true
  echo "$said"
  grep -q 'selective_scan_cuda loads' <<< "$said" || die "doctor does not see the extensions"
}

if [ "$check" = yes ]; then
  check_wheels
else
  prepare
  build mamba-ssm "$mamba" selective_scan_cuda
  build causal-conv1d "$conv" causal_conv1d_cuda
  collect
fi
packages sizes "$out"
