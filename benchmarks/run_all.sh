#!/usr/bin/env bash
# Every benchmark, one after the other; each writes its CSV as it goes. Without a GPU: the CPU half.
#
#   benchmarks/run_all.sh [--cpu | --gpu] [--quick] [--out FOLDER]
#
# --cpu, --gpu   only that half (default: both; the GPU half needs a GPU)
# --quick        few repetitions of small shapes, to see that everything runs; into build/benchmarks unless --out is given
# --out FOLDER   default benchmarks/results; only from there does report.py fill the documents
#
# PYTHON is the interpreter (python3). ROBOCACHE_TEST_DATA: folder of real recordings, for decode.py. BENCHMARK_CACHE:
# folder for the sample logs of end_to_end.py and memory.py (2 GB). ROBOCACHE_COMMIT: the
# commit, where the tree is no git checkout.
# What is missing on a machine is skipped, saying what. Exit status 1: something that ran failed.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} out="" quick="" half=both
while [ $# -gt 0 ]; do
  case $1 in
    --cpu) half=cpu ;;
    --gpu) half=gpu ;;
    --quick) quick=yes ;;
    --out) out=${2:?--out needs a folder}; shift ;;
    *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
  esac
  shift
done
out=${out:-$([ -n "$quick" ] && echo build/benchmarks || echo benchmarks/results)}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
failed=()

step() { # NAME COMMAND...
  local name=$1 begin=$SECONDS
  shift
  echo "== $name"
  if "$@"; then echo "== $name: $((SECONDS - begin)) s"; else failed+=("$name"); echo "== $name: failed"; fi
}

have() { # NAME MODULE...: says what is missing
  local name=$1
  shift
  "$python" - "$@" <<'PY' && return
import importlib.util, sys
missing = [m for m in sys.argv[1:] if importlib.util.find_spec(m) is None]
sys.exit(f"missing: {', '.join(missing)}" if missing else 0)
PY
  echo "== $name: skipped"
  return 1
}

if gpu=$("$python" -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "")') && [ -n "$gpu" ]; then
  echo "GPU: $gpu"
elif [ "$half" = gpu ]; then
  echo "no CUDA device: the GPU half cannot run"
  exit 1
else
  echo "no CUDA device: only the CPU half runs; GPU result files stay as they are"
  half=cpu
fi

if [ "$half" != cpu ]; then
  few=() sizes=()
  [ -z "$quick" ] || few=(--repetitions 5) sizes=(--sizes small)
  step "resample on the GPU" "$python" benchmarks/throughput.py resample --time-limit "${TIME_LIMIT_RESAMPLE:-170}" --out "$out/phase1_trajectory.csv" ${sizes[@]+"${sizes[@]}"} ${few[@]+"${few[@]}"}
  step "fuse on the GPU" "$python" benchmarks/throughput.py fuse --time-limit "${TIME_LIMIT_FUSE:-60}" --out "$out/phase2_multimodal.csv" ${sizes[@]+"${sizes[@]}"} ${few[@]+"${few[@]}"}
  step "voxels on the GPU" "$python" benchmarks/voxels.py --out "$out/phase3_voxelization.csv" ${sizes[@]+"${sizes[@]}"} ${few[@]+"${few[@]}"}
  if [ -n "${ROBOCACHE_URDF:-}" ]; then
    step "kinematics on the GPU" "$python" benchmarks/kinematics.py --urdf "$(dirname "$ROBOCACHE_URDF")" --out "$out/phase4_action_space.csv" ${sizes[@]+"${sizes[@]}"} ${few[@]+"${few[@]}"}
  else
    echo "== kinematics: skipped, set ROBOCACHE_URDF to a panda.urdf"
  fi
  step "latency" "$python" benchmarks/latency.py --out "$out/latency.csv"
  step "precision" "$python" benchmarks/precision.py --out "$out/precision.csv" ${few[@]+"${few[@]}"}
  step "energy" "$python" benchmarks/energy.py --out "$out/energy.csv" ${few[@]+--seconds 0.2}
  if [ -n "${CUTLASS_INCLUDE:-}" ]; then
    step "Hopper's instructions" "$python" benchmarks/hopper.py --cutlass "$CUTLASS_INCLUDE" --out "$out/hopper.csv" ${few[@]+"${few[@]}"}
  else
    echo "== Hopper's instructions: skipped, set CUTLASS_INCLUDE to CUTLASS' include folder"
  fi
  step "attention" "$python" benchmarks/attention.py --out "$out/attention.csv" ${few[@]+"${few[@]}"}
fi

if [ "$half" != gpu ]; then
  cpu=(--device cpu --skip torch.compile triton cupy)
  align=() repetitions=(--repetitions 15) sizes=(--sizes small medium)
  if [ -n "$quick" ]; then
    align=(--episodes 2 --seconds 5 --repetitions 2) repetitions=(--repetitions 2) sizes=(--sizes small)
  fi
  step "resample on the CPU" "$python" benchmarks/throughput.py resample "${cpu[@]}" "${sizes[@]}" "${repetitions[@]}" --out "$out/cpu_phase1_trajectory.csv"
  step "fuse on the CPU" "$python" benchmarks/throughput.py fuse "${cpu[@]}" "${sizes[@]}" "${repetitions[@]}" --out "$out/cpu_phase2_multimodal.csv"
  step "voxels on the CPU" "$python" benchmarks/voxels.py --device cpu "${sizes[@]}" "${repetitions[@]}" --out "$out/cpu_phase3_voxelization.csv"
  if have align_cpu polars scipy; then
    step "align_cpu" "$python" benchmarks/align_cpu.py ${align[@]+"${align[@]}"} --out "$out/cpu_align.csv"
  fi
  husky=${ROBOCACHE_TEST_DATA:-../shared/data}/bags/husky.mcap
  if [ -n "$quick" ]; then
    echo "== decode, end_to_end, memory: not in a quick run"
  else
    if [ ! -f "$husky" ]; then
      echo "== decode: skipped, no $husky (set ROBOCACHE_TEST_DATA)"
    elif have decode mcap mcap_ros2 zstandard; then
      step "decode" "$python" benchmarks/decode.py "$husky" "${BENCHMARK_CACHE:-build/benchmark_logs}/decode/log.mcap" --out "$out/cpu_decode.csv"
    fi
    if have end_to_end mcap zstandard rosbags pandas; then
      step "end_to_end" "$python" benchmarks/end_to_end.py "${BENCHMARK_CACHE:-build/benchmark_logs}" --out "$out/cpu_end_to_end.csv"
      step "memory" "$python" benchmarks/memory.py "${BENCHMARK_CACHE:-build/benchmark_logs}" --out "$out/cpu_memory.csv"
    fi
  fi
fi

[ "$out" != benchmarks/results ] || step "report" "$python" benchmarks/report.py
if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
