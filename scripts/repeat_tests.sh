#!/usr/bin/env bash
# Run the tests that start and kill processes N times, to find what fails once in many: scripts/repeat_tests.sh N [LOAD]
# With LOAD (a number of busy processes, 4 say) every second time is beside such a load.
#
# JOBS=4   so many of them at the same time, each with temporary folders and Ray clusters of its own
# FILES    other tests
# LOGS     where the log of a time that failed is kept; build/repeat_tests
# PYTHON   the interpreter; .venv/bin/python
set -u
cd "$(dirname "$0")/.." || exit
times=${1:?how many times} load=${2:-0} jobs=${JOBS:-1}
files=${FILES:-tests/engine/test_kill.py tests/engine/test_journal.py tests/engine/test_s3.py tests/engine/test_ray_cluster.py
    tests/engine/test_ray_data.py tests/formats/test_s3_input.py tests/output/test_store_s3.py tests/cluster}
python=${PYTHON:-.venv/bin/python} logs=${LOGS:-build/repeat_tests}
mkdir -p "$logs" || exit
memory=/dev/shm
[ -w $memory ] || memory=/tmp
work=$(mktemp -d $memory/rt.XXXX) # a short path: Ray's sockets below it may have 107 characters
end() {
    local running
    running=$(jobs -p)
    # shellcheck disable=SC2086  # several processes
    [ -z "$running" ] || kill $running 2>/dev/null
    wait
}
trap 'end; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

once() { # the number of the time
    trap end EXIT
    trap 'exit 130' INT TERM
    local own="$work/$1" log="$logs/$1.log" beside="" code=0 begin=$SECONDS
    mkdir "$own"
    if [ "$load" -gt 0 ] && [ $(($1 % 2)) -eq 0 ]; then
        for _ in $(seq "$load"); do (while :; do :; done) & done
        beside=", beside $load busy processes"
    fi
    # shellcheck disable=SC2086  # several files
    RAY_TMPDIR="$own" "$python" -m pytest -q -p no:cacheprovider --basetemp "$own/tests" $files >"$log" 2>&1 &
    wait $! || code=$?
    echo "$1 of $times: $((SECONDS - begin)) s$beside, $(tail -n 1 "$log" | sed 's/ in [0-9].*//')"
    rm -rf "$own"
    if [ "$code" -eq 0 ]; then rm "$log"; else echo "   exit code $code, its log: $log"; fi
    return "$code"
}

failed=0 running=0
next() { # waits for one
    wait -n || failed=$((failed + 1))
    running=$((running - 1))
}
for i in $(seq "$times"); do
    [ "$running" -lt "$jobs" ] || next
    once "$i" &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do next; done
echo "$failed of $times failed"
[ "$failed" -eq 0 ]
