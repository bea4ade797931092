#!/usr/bin/env bash
# Compiles every CUDA kernel as setup.py does and fails on register spills. Needs nvcc, no GPU.
# Usage: scripts/check_kernels.sh [ARCH ...]     (default: 80 90 100; NAME_smXY.cu is compiled for sm_XYa alone)
set -euo pipefail
cd "$(dirname "$0")/../kernels"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
for arch in "${@:-80 90 100}"; do for a in $arch; do archs+=("$a"); done; done
mapfile -t sources < <(find cuda -name '*.cu' | sort)
special() { sed -n 's/.*_sm\([0-9]*\)\.cu$/\1a/p' <<<"$1"; }
two_at_most() { while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n; done; }
for source in "${sources[@]}"; do
  arch=$(special "$source")
  mkdir -p "$work/$(dirname "$source")"
  nvcc -std=c++20 -O3 -fmad=false -I. -Iinclude -arch="compute_${arch:-80}" -ptx "$source" -o "$work/$source.ptx" &
  compilers+=($!)
  two_at_most
done
for pid in "${compilers[@]}"; do wait "$pid"; done
check() {
  local log=$work/$1.$2.log kernels registers
  ptxas -arch="sm_$2" -v "$work/$1.ptx" -o "$work/$1.$2.o" >"$log" 2>&1 || { cat "$log"; return 1; }
  kernels=$(grep -c 'Compiling entry' "$log" || true)
  [ "$kernels" -gt 0 ] || return 0
  registers=$(grep -o 'Used [0-9]* registers' "$log" | grep -o '[0-9]*' | sort -n | tail -1)
  if grep -E '[1-9][0-9]* bytes spill' "$log"; then
    echo "$1 sm_$2: registers spill"
    return 1
  fi
  echo "$1 sm_$2: $kernels kernels, at most $registers registers, no spills"
}
for source in "${sources[@]}"; do
  arch=$(special "$source")
  for a in ${arch:-"${archs[@]}"}; do
    check "$source" "$a" &
    pids+=($!)
    two_at_most
  done
done
for pid in "${pids[@]}"; do wait "$pid"; done
