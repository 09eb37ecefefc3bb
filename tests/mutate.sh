#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/mutate.sh [OPTION...] - apply the mutations of tests/mutations/*.txt one by one to a copy of the tree and say
# which test kills each. It takes seconds to minutes a mutation, so it is no part of tests/run.sh. --help has the
# options and the format.
exec python3 "$(dirname "$0")/mutate.py" "$@"
