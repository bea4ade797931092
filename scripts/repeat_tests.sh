#!/usr/bin/env bash
# Run the tests that start and kill processes N times, to find what fails once in many: scripts/repeat_tests.sh N [LOAD]
# With LOAD (a number of busy processes, 4 say) every second time is beside such a load. FILES names other tests.
set -u
cd "$(dirname "$0")/.."
times=${1:?how many times} load=${2:-0}
files=${FILES:-tests/engine/test_kill.py tests/engine/test_journal.py tests/engine/test_s3.py tests/engine/test_ray_cluster.py
    tests/engine/test_ray_data.py tests/formats/test_s3_input.py tests/output/test_store_s3.py tests/cluster}
python=${PYTHON:-.venv/bin/python} failed=0 busy=()
rest() { [ ${#busy[@]} -eq 0 ] || kill "${busy[@]}" 2>/dev/null; busy=(); }
trap rest EXIT
for i in $(seq "$times"); do
    if [ "$load" -gt 0 ] && [ $((i % 2)) -eq 0 ]; then
        for _ in $(seq "$load"); do (while :; do :; done) & busy+=($!); done
    fi
    echo "== $i of $times, beside ${#busy[@]} busy processes"
    # shellcheck disable=SC2086  # several files
    "$python" -m pytest -q -p no:cacheprovider $files || failed=$((failed + 1))
    rest
done
echo "$failed of $times failed"
[ "$failed" -eq 0 ]
