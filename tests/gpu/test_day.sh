#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# test_day.sh BUILD FAKECUDA IMAGE-TEXT: gpu/day.sh from end to end on the stand-in: every step leaves its CSV with the rows it
# should have, all chunks are equal, and a step that fails neither stops the others nor goes unsaid. Prints TAP.
set -u
build=$1 day=$(dirname "$0")/../../gpu/day.sh
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
export KVW_LIBCUDA=$2 KVW_LIBCUBLASLT=$2 DAY_SMALL=1 DAY_IMAGE=$work/image
printf '%s' "$3" >"$work/image"
n=0 failed=0
check() { # TEXT COMMAND...
    local text=$1
    shift
    n=$((n + 1))
    if "$@" >/dev/null 2>&1; then echo "ok $n - $text"; else echo "not ok $n - $text"; failed=1; fi
}
rows() { [ "$(($(wc -l <"$1") - 1))" = "$2" ]; }
bash "$day" "$build" "$work/out" >"$work/said" 2>&1
status=$?
[ $status = 0 ] || sed 's/^/# /' "$work/said"
check 'the script ends well' test $status = 0
check 'facts name the rung' grep -q '^ladder,"GPU 0: dma-buf"' "$work/out/facts.csv"
check 'four ceilings' rows "$work/out/ceilings.csv" 4
check 'seven kinds of chunk, all equal' awk -F, 'NR > 1 {++n; if ($2 < 1 || $2 != $3) bad = 1} END {exit n != 7 || bad}' "$work/out/parity.csv"
check 'speed at two sizes: four codecs, two directions, two memories' rows "$work/out/speed.csv" 32
check 'a model: copy, product, two prompts with three rows beside, two steps' rows "$work/out/model.csv" 12
check 'each with a figure above 0' awk -F, 'NR > 1 && $1 !~ /end after/ && !($4 > 0) {bad = 1} END {exit NR != 13 || bad}' "$work/out/model.csv"
check 'two processes see the same bytes' grep -q '^wrong bytes,0,' "$work/out/pair.csv"
check 'a yardstick that is absent says so in a sentence' grep -q '^fp8 cast,\(encode\|absent,.*no torch that finds a GPU\)' "$work/out/yard.csv"
check 'no part of a file is left' test -z "$(find "$work/out" -name '*.part')"
FAKECUDA_NONE=1 bash "$day" "$build" "$work/none" >"$work/said" 2>&1
check 'without a GPU it ends badly' test $? != 0
check 'and each step is in the table' test "$(grep -c ',1,' "$work/none/steps.csv")" = 6
check 'with its reason' grep -q 'the driver finds no GPU' "$work/none/speed.err"
echo "1..$n"
exit $failed
