#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tidy.sh BUILD [BASE] - the checks of .clang-tidy on the C files that differ from BASE (the commit before the last) and that BUILD compiles.
# Some seconds; the whole tree takes minutes: tidy.sh BUILD --all.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${1:?the build folder}
base=${2:-HEAD~1}
command -v clang-tidy >/dev/null || { echo "tidy: there is no clang-tidy here (apt-get install clang-tidy)"; exit 1; }
[ -f "$build/compile_commands.json" ] || { echo "tidy: $build has no compile_commands.json"; exit 1; }

# The lint finds what it is for.
planted=$(mktemp --suffix=.c)
trap 'rm -f "$planted"' EXIT
printf 'int f(int n)\n{\n    int *p = 0;\n\n    if (n > 3)\n        p = &n;\n    return *p;\n}\n' >"$planted"
if clang-tidy --config-file=.clang-tidy --quiet "$planted" -- -std=gnu11 >/dev/null 2>&1; then
    echo "tidy: a planted NULL that is read wasn't found"
    exit 1
fi

if [ "$base" = --all ]; then
    changed=$(git ls-files '*.c')
else # a shallow clone has no commit before the last: then all that its one commit has
    changed=$(git diff --name-only --diff-filter=d "$base" -- '*.c' 2>/dev/null || git ls-files '*.c')
fi
files=$(python3 - "$build" "$changed" <<'PY'
import json, os, sys
build, changed = sys.argv[1], sys.argv[2].split()
known = {os.path.relpath(os.path.realpath(os.path.join(c["directory"], c["file"]))) for c in json.load(open(build + "/compile_commands.json"))}
print("\n".join(f for f in changed if f in known))
PY
)
[ -n "$files" ] || { echo "tidy: no C file differs from $base"; exit 0; }
echo "$files" | xargs -P "$(nproc)" -n 4 clang-tidy -p "$build" --quiet 2> >(grep -v 'warnings\? generated' >&2)
