#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# symbols.sh BUILD: only kvw_ leaves libkvwire.so, and every global of a folder's objects has its prefix.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${1:-build}
bad=0
hits=$(nm -D --defined-only "$build/libkvwire.so" | awk '{print $3}' | grep -v '^kvw_')
[ -z "$hits" ] || { printf 'libkvwire.so exports more than kvw_:\n%s\n' "$hits"; bad=1; }
[ -n "$(nm -D --defined-only "$build/libkvwire.so" | grep ' kvw_session_open')" ] ||
    { echo 'libkvwire.so does not export kvw_session_open'; bad=1; }
prefix() { # FOLDER PREFIX
    local objects hits
    objects=$(find "$build" -path "*.p/*" -name "$1_*.o" ! -path '*tests*' ! -path '*examples*' 2>/dev/null)
    [ -n "$objects" ] || return
    # shellcheck disable=SC2086
    hits=$(nm -g --defined-only $objects 2>/dev/null | awk 'NF == 3 {print $3}' | grep -vE "^($2|main$|_binary|__)" | sort -u)
    [ -z "$hits" ] || { printf '%s/ has globals without %s:\n%s\n' "$1" "$2" "$hits"; bad=1; }
}
prefix kvwire kvw_
prefix net kvn_
prefix compress kvc_
prefix gpu kvg_
prefix engine kve_
exit $bad
