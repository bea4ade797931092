#!/usr/bin/env bash
# Profiles one launch of each case of benchmarks/profile_case.py with Nsight Compute, into FOLDER:
# NAME.ncu-rep.xz (0.7 MB; xz -d gives the 7 MB that Nsight Compute opens) and NAME.csv (its raw page), which
# benchmarks/roofline.py reads.
# Usage: scripts/profile_ncu.sh FOLDER [NAME ...]     (default: all; KERNEL=regex keeps only kernels that match)
# The card's clocks are left alone. About 15 s a case.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:?usage: scripts/profile_ncu.sh FOLDER [NAME ...]}; shift
for tool in ncu xz; do command -v "$tool" >/dev/null || { echo "$tool is not on the PATH"; exit 1; }; done
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$folder"
if [ $# -gt 0 ]; then names=("$@"); else mapfile -t names < <("$python" benchmarks/profile_case.py --list); fi
failed=0
for name in "${names[@]}"; do
  begin=$SECONDS
  # Only what runs between the profiler's start and stop is seen: one call of the operator.
  if ncu --clock-control none --set full --profile-from-start off --kernel-name "regex:${KERNEL:-.*}" --launch-count 1 \
    --force-overwrite --export "$folder/$name" "$python" benchmarks/profile_case.py "$name" >"$folder/$name.log" 2>&1 &&
    ncu --import "$folder/$name.ncu-rep" --page raw --csv --print-units base >"$folder/$name.csv"; then
    rm "$folder/$name.log"
    xz -f "$folder/$name.ncu-rep"
    echo "$name: $(stat -c %s "$folder/$name.ncu-rep.xz") bytes, $((SECONDS - begin)) s"
  else
    echo "$name: failed, see $folder/$name.log"
    failed=1
  fi
done
exit $failed
