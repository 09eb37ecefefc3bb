#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The arrows of README.md: kvwire/ includes nothing of ours; net/, compress/ and gpu/ include kvwire/ only;
# engine/ uses net/ through net.h alone; public headers don't include private ones.
set -u
cd "$(dirname "$0")/../.." || exit 1
bad=0
check() { # FOLDER FORBIDDEN-REGEX [ALLOWED-REGEX]
    local hits
    hits=$(grep -nHE "^ *# *include *\"(\.\./)*($2)/" "$1"/*.[ch] "$1"/*/*.[ch] "$1"/*/*.cu 2>/dev/null |
        grep -vE "${3:-^$}")
    [ -z "$hits" ] || { printf '%s may not include that:\n%s\n' "$1/" "$hits"; bad=1; }
}
check kvwire 'net|compress|gpu|engine|perf|tests'
check net 'compress|gpu|engine|perf|tests'
check compress 'net|gpu|engine|perf|tests'
check gpu 'net|compress|engine|perf|tests'
check engine 'net|perf|tests' '"(\.\./)net/net\.h"'
check examples 'engine|perf|tests'
hits=$(grep -nE '^ *# *include *"' kvwire/{err,mem,codec,digest,transport,kvwire}.h net/net.h |
    grep -vE '"(\.\./kvwire/)?(err|mem|codec|digest|transport|kvwire)\.h"')
[ -z "$hits" ] || { printf 'installed headers include private ones:\n%s\n' "$hits"; bad=1; }
exit $bad
