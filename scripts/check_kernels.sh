#!/usr/bin/env bash
# Compiles every CUDA kernel as setup.py does and fails on register spills. Needs nvcc, no GPU.
# Usage: scripts/check_kernels.sh [ARCH ...]     (default: 80 90 100)
set -euo pipefail
cd "$(dirname "$0")/../kernels"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
for arch in "${@:-80 90 100}"; do for a in $arch; do archs+=("$a"); done; done
for source in cuda/*.cu; do
  ptx=$work/$(basename "$source" .cu).ptx
  nvcc -std=c++20 -O3 -fmad=false -I. -Iinclude -arch=compute_80 -ptx "$source" -o "$ptx" &
  compilers+=($!)
done
for pid in "${compilers[@]}"; do wait "$pid"; done
for source in cuda/*.cu; do
  for arch in "${archs[@]}"; do
    name=$(basename "$source" .cu)_$arch
    (
      ptxas -arch="sm_$arch" -v "$work/$(basename "$source" .cu).ptx" -o "$work/$name.o" >"$work/$name.log" 2>&1 ||
        { cat "$work/$name.log"; exit 1; }
      kernels=$(grep -c 'Compiling entry' "$work/$name.log" || true)
      [ "$kernels" -gt 0 ] || exit 0
      registers=$(grep -o 'Used [0-9]* registers' "$work/$name.log" | grep -o '[0-9]*' | sort -n | tail -1)
      if grep -E '[1-9][0-9]* bytes spill' "$work/$name.log"; then
        echo "$source sm_$arch: registers spill"
        exit 1
      fi
      echo "$source sm_$arch: $kernels kernels, at most $registers registers, no spills"
    ) &
    pids+=($!)
    while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n; done
  done
done
for pid in "${pids[@]}"; do wait "$pid"; done
