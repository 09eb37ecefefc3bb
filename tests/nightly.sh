#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/nightly.sh [FOLDER] - what tests/run.sh has no time for; an hour and a half on two quiet cores. Each step's output goes to
# FOLDER (build/nightly), a line a step to standard output. Exits 1 if one failed. NIGHTLY.md has the figures of the last runs.
#
#   suites    clang, llama, long, peers (see tests/run.sh --help); vllm and beside are asked for by KVW_NIGHTLY_VLLM=1 (12 GB of memory)
#   fuzz      each fuzz target for KVW_FUZZ_SECONDS (300)
#   lives     tests/sim/nightly.sh: 100,000 random lives of the packet layer; 10,000 of cores, 2,000 of batches, and
#             100,000 notifications, each looked at beside its data
#   pairs     every kind of ends of the DPDK transport over veth, under ASan and UBSan
#   mesh      tests/mesh/nightly.sh: 8 x 8 nodes, killed and restarted, several seeds; 1,000 seeds of it simulated
#   mixed     tests/e2e/mixed.py: 1,000 requests over HTTP at concurrency 32, one client in ten leaves
#   prefix    tests/e2e/prefix.py: the second request with 1,500 tokens of the first: time to its first token, bytes moved
#   chunks    tests/gpu/nightly.sh: 10^5 chunks of each codec through the kernels of gpu/, both ways
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
out=${1:-build/nightly}
mkdir -p "$out" || exit 1
bad=0
step() { # NAME COMMAND...
    local name=$1 begun=$SECONDS status
    shift
    "$@" >"$out/$name.log" 2>&1
    status=$?
    [ $status -eq 0 ] || bad=1
    echo "$name: exit $status, $((SECONDS - begun)) s: $(grep -v '^ *$' "$out/$name.log" | tail -n 1)"
}
for suite in clang llama long peers ${KVW_NIGHTLY_VLLM:+vllm beside}; do step "$suite" tests/run.sh "$suite"; done
KVW_FUZZ_SECONDS=${KVW_FUZZ_SECONDS:-300} step fuzz tests/run.sh fuzz
step pairs meson test -C build-asan --suite kvwire:pairs
step lives tests/sim/nightly.sh
KVN_SIM_SEEDS=10000 step cores build/tests/sim/test_core_world_sim --tap --timeout 7200
KVN_SIM_SEEDS=2000 KVN_SIM_NOTES=100000 step batches build/tests/sim/test_batch_world_sim --tap --timeout 7200
step mesh tests/mesh/nightly.sh
step mixed python3 tests/e2e/mixed.py
step prefix python3 tests/e2e/prefix.py
step chunks tests/gpu/nightly.sh build
exit $bad
