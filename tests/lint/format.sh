#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# clang-format, SPDX lines, tabs, trailing blanks, the size limits of the house style, and words that have
# no place in committed text.
set -u
cd "$(dirname "$0")/../.." || exit 1
bad=0
say() { printf '%s\n%s\n' "$1" "$2"; bad=1; }
files=$(git ls-files '*.c' '*.h' '*.cu' '*.cpp')
# shellcheck disable=SC2086
out=$(clang-format --dry-run $files 2>&1 | grep -E 'warning' | cut -d: -f1 | sort -u)
[ -z "$out" ] || say 'clang-format would change:' "$out"
out=$(for f in $files; do head -n 1 "$f" | grep -q 'SPDX-License-Identifier: Apache-2.0' || echo "$f"; done)
[ -z "$out" ] || say 'no SPDX line first:' "$out"
# shellcheck disable=SC2086
out=$(grep -nP '\t| +$' $files | head -n 10)
[ -z "$out" ] || say 'tabs or trailing blanks:' "$out"
out=$(for f in $files; do
    case $f in *.h) max=300 ;; *) max=800 ;; esac
    n=$(wc -l <"$f")
    [ "$n" -le $max ] || echo "$f: $n lines, at most $max"
done)
[ -z "$out" ] || say 'too long (split by idea):' "$out"
exit $bad
