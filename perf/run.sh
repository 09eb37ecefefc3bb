#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# perf/run.sh [--record] [--list] [ROW...] - measure rows of budgets.csv and hold them against their targets.
# Prints measured next to target and limit; exit 1 where one falls short. --record writes the results back,
# appends them to history.csv and prints the earlier ones of the same kind of machine.
# A row's command prints a line "RESULT value [limit]", the limit in the same unit, last one counts; or "SKIP why", where
# this machine can't run it: then the row is listed as skipped, and if nothing is worse the exit status is 77.
set -euo pipefail
. "$(dirname "$0")/../examples/setup.sh"
if [ "${1:-}" != --list ]; then
    # shellcheck disable=SC2086
    kvw_need $kvw_packages_build $kvw_packages_tests $kvw_packages_cost $kvw_packages_e2e $kvw_packages_oracle $kvw_packages_perf
    kvw_get_model
    kvw_build build -Dtests=enabled # transport_bench is a tests' program
fi
cd "$kvw_root"
export KVW_MODEL=$kvw_model
if [ "${1:-}" != --list ]; then
    KVW_ORACLE_PYTHON=$(kvw_oracle_python) || exit 1
    export KVW_ORACLE_PYTHON
    KVW_ZIPNN_PYTHON=$(kvw_zipnn_python) || exit 1
    export KVW_ZIPNN_PYTHON
fi
exec python3 perf/budgets.py "$@"
