#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/sim/nightly.sh [SEEDS [FIRST [BUILD]]] - live many random lives (sim/world.h), 100,000 unless told, on every
# core; prints each one that breaks a promise, then the sums. Exit 0: none did.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2
seeds=${1:-100000} first=${2:-1} build=${3:-build} chunk=500
world=$(mktemp)                 # a copy: the build may go on meanwhile
out=$(mktemp -d)
trap 'rm -rf "$world" "$out"' EXIT
cp "$build/tests/sim/sim_world" "$world" && chmod +x "$world" || exit 2

live() { # FIRST COUNT: a crash is lived again seed by seed, to name its seed
    "$world" "$1" "$2" >"$out/$1" 2>&1
    [ $? -le 1 ] && return
    for ((s = $1; s < $1 + $2; ++s)); do
        "$world" "$s" 1 >"$out/$1.$s" 2>&1
        [ $? -le 1 ] || echo "FAILED seed $s: the program ended by itself" >>"$out/$1.$s"
    done
    rm -f "$out/$1"
}
export -f live
export world out

date "+%F %H:%M: $seeds seeds from $first, $(git rev-parse --short HEAD)"
seq "$first" "$chunk" $((first + seeds - 1)) | while read -r s; do
    n=$((first + seeds - s)); echo "$s $((n < chunk ? n : chunk))"
done | nice -n 19 xargs -P "$(nproc)" -L 1 bash -c 'live "$0" "$1"'
cat "$out"/* | grep -vE '^[0-9]+ seeds from'
cat "$out"/* | awk '/^[0-9]+ seeds from/ {
        seeds += $1; failed += $5; packets += $7; puts += $9; msgs += $11; falls += $13; cpu += $16 }
    /ended by itself/ { ++failed }
    END { printf "%d seeds, %d failed; %.1f M packets, %d puts, %d messages, %d connections fell; %.0f s of CPU\n",
        seeds, failed, packets / 1e6, puts, msgs, falls, cpu; exit failed > 0 }'
