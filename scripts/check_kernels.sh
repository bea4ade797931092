#!/usr/bin/env bash
# Compiles every CUDA kernel as setup.py does, its host side too, and fails on register spills. Needs nvcc, no GPU.
# The prototypes of benchmarks/hopper are compiled for sm_90a; the one that needs CUTLASS where CUTLASS_INCLUDE names its
# include folder.
# Usage: scripts/check_kernels.sh [ARCH ...]     (default: 80 90 100; NAME_smXY.cu is compiled for sm_XYa alone)
set -euo pipefail
cd "$(dirname "$0")/../kernels"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
for arch in "${@:-80 90 100}"; do for a in $arch; do archs+=("$a"); done; done
# The longest first, so that none of them runs alone at the end.
mapfile -t sources < <(find cuda -name '*.cu' | sort | sort -s -t_ -k2,2r)
prototypes=../benchmarks/hopper
sources+=("$prototypes/bulk.cu" "$prototypes/cluster.cu")
if [ -n "${CUTLASS_INCLUDE:-}" ]; then sources+=("$prototypes/wgmma.cu"); else
  echo "$prototypes/wgmma.cu was not compiled: set CUTLASS_INCLUDE to CUTLASS' include folder"
fi
check() {
  local source=$1 special log virtual codes=() more=()
  special=$(sed -n 's/.*_sm\([0-9]*\)\.cu$/\1a/p' <<<"$source")
  log=$work/$(basename "$source").log
  if [[ $source == "$prototypes"/* ]]; then
    special=90a
    more=(--expt-relaxed-constexpr ${CUTLASS_INCLUDE:+-I"$CUTLASS_INCLUDE"})
  fi
  if [ -n "$special" ]; then codes=("-gencode=arch=compute_$special,code=sm_$special"); else
    for a in "${archs[@]}"; do
      if [[ $source == cuda/align/* ]] && [ "$a" -ge 90 ]; then virtual=90; else virtual=80; fi
      codes+=("-gencode=arch=compute_$virtual,code=sm_$a")
    done
  fi
  nvcc -std=c++20 -O3 -fmad=false -I. -Iinclude ${more[@]+"${more[@]}"} "${codes[@]}" -Xptxas -v -c "$source" -o "$log.o" >"$log" 2>&1 ||
    { cat "$log"; return 1; }
  awk -v source="$source" '
    /Compiling entry function/ { match($0, /sm_[0-9]+a?/); arch = substr($0, RSTART, RLENGTH); kernels[arch]++ }
    /bytes spill/ && !/ 0 bytes spill stores, 0 bytes spill loads/ { print source, arch ": registers spill:", $0; bad = 1 }
    match($0, /Used [0-9]+ registers/) { n = substr($0, RSTART + 5, RLENGTH - 15) + 0; if (n > most[arch]) most[arch] = n }
    END { if (bad) exit 1
          for (a in kernels) print source, a ": " kernels[a] " kernels, at most " most[a] " registers, no spills" }' "$log"
}
for source in "${sources[@]}"; do
  check "$source" &
  pids+=($!)
  while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n || true; done
done
for pid in "${pids[@]}"; do wait "$pid"; done
