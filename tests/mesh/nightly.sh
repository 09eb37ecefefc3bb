#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/mesh/nightly.sh [SEEDS [BUILD]] - the full mesh, 8 senders x 8 receivers, over udp for so many seeds (5), and 1,000
# seeds of the simulated one. Prints rows for the table in README.md. Exit 0: every promise was kept.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2
seeds=${1:-5} build=${2:-build} bad=0
out=$(mktemp)
trap 'rm -f "$out"' EXIT
for ((seed = 1; seed <= seeds; ++seed)); do
    python3 tests/mesh/mesh.py "$build/tests/mesh/mesh_node" --seed "$seed" >"$out" || { bad=1; grep -vE '^(ok|1\.\.|# ROW)' "$out"; }
    grep '^# ROW' "$out" | sed "s/^# ROW/| $(date +%F)/"
done
KVN_SIM_SEEDS=1000 "$build/tests/sim/test_core_mesh_sim" --tap --timeout 7200 || bad=1
exit $bad
