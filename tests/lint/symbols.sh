#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# symbols.sh BUILD: only kvw_ leaves libkvwire.so, and every global of a folder's objects has its prefix.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${1:-build}
bad=0
hits=$(nm -D --defined-only "$build/libkvwire.so" | awk '{print $3}' | grep -vE '^(kvw_|KVWIRE_)')
[ -z "$hits" ] || { printf 'libkvwire.so exports more than kvw_:\n%s\n' "$hits"; bad=1; }
[ -n "$(nm -D --defined-only "$build/libkvwire.so" | grep ' kvw_node_open')" ] ||
    { echo 'libkvwire.so does not export kvw_node_open'; bad=1; }
prefix() { # FOLDER PREFIX: its objects lie in build/FOLDER/*.a.p/, or in the core library's under its name
    local objects hits
    objects=$(find "$build" -path '*.a.p/*' \( -path "$build/$1/*" -o -path "$build/libkvwire_core.a.p/$1_*" \) -name '*.o')
    if [ -z "$objects" ]; then
        [ "$1" = gpu ] || { echo "no objects of $1/ in $build"; bad=1; }
        return
    fi
    # shellcheck disable=SC2086
    hits=$(nm -g --defined-only $objects | awk 'NF == 3 {print $3}' | grep -vE "^($2|__)" | sort -u)
    [ -z "$hits" ] || { printf '%s/ has globals without %s:\n%s\n' "$1" "$2" "$hits"; bad=1; }
}
prefix kvwire kvw_
prefix net kvn_
prefix compress kvc_
prefix gpu kvg_
prefix engine kve_
prefix perf/kvperf kvp_
prefix perf/cluster kcl_
exit $bad
