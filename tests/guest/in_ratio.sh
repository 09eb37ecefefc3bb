#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# in_ratio.sh - what suite.py runs in a guest with rxe0 (10.77.1.1) and rxe1 (10.77.1.2): the verbs transport beside perftest.
here=$(dirname "$0")
. "$here/tap.sh"

# ratio NAME BOUND WHAT PAIRS [BLOCKS]: perf/rows/verbs.py's figures from fewer and shorter runs. For a busy machine's
# noise the best of each side are compared, twice if need be, and the bound has a margin of a fifth; perf/budgets.csv has the true ones.
ratio() {
    local name=$1 bound=$2 out ratio met=false
    shift 2
    for _ in first second; do
        out=$("$here/ratio.py" "$@" 2>&1)
        ratio=$(sed -n 's/^[a-z0-9]*: ratio=.* best=\([0-9.]*\)$/\1/p' <<<"$out")
        [ -n "$ratio" ] && awk "BEGIN { exit !($ratio $bound) }" && met=true && break
    done
    if $met; then
        echo "ok - $name: $ratio ($bound; $(tail -n 1 <<<"$out"))"
    else
        echo "not ok - $name: '$ratio' is not $bound"
    fi
    sed 's/^/    /' <<<"$out"
    ! grep -q '^requests' <<<"$out" || awk -F'fewer=' '/^requests/ { print ($2 >= 50 ? "ok" : "not ok") " - gathering takes fewer work requests: " $0 }' <<<"$out"
}

ratio "puts of 64 KiB beside ib_write_bw" ">= 0.76" 64k 3
ratio "puts of 1 MiB beside ib_write_bw" ">= 0.76" 1m 3
ratio "puts of 4 KiB beside ib_write_lat" "<= 1.8" lat 3
ratio "scattered blocks beside one write each" ">= 0.8" gather 3 10000

# Batches through node.h: each error, a thousand posts, a removed region, a release under way. Then 100,000 scattered pieces of
# 4 KiB beside one piece of the same bytes, in turns.
KVW_BATCH_OVER="verbs 10.77.1.1 10.77.1.2" criterion "batches over verbs" "$build/tests/kvwire/test_batch_node" --jobs 1
out=$(scattered "$build/perf/batch" verbs 10.77.1.1:9313 10.77.1.2:0 10.77.1.1:9313 100000 5 2>&1)
status=$?
goodput=$(sed -n 's/^RESULT //p' <<<"$out")
check "100,000 scattered pieces over verbs, written and read back: $(tail -n 1 <<<"$out")" [ $status = 0 ]
check "their goodput: $goodput x contiguous (>= 0.95)" awk "BEGIN { exit !($goodput >= 0.95) }"
sed 's/^/    /' <<<"$out"
