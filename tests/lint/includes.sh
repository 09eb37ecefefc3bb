#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The arrows of README.md: kvwire/ includes nothing of ours; net/, compress/ and gpu/ include kvwire/ only;
# engine/ uses net/ through net.h and gpu/ through loaded.h alone; public headers don't include private ones.
set -u
cd "$(dirname "$0")/../.." || exit 1
bad=0
check() { # FOLDER FORBIDDEN-REGEX [ALLOWED-REGEX]
    local hits
    hits=$(grep -rnHE --include='*.[ch]' --include='*.in' --include='*.cu' \
        "^ *# *include *\"([^\"]*/)?\.\./($2)/|^ *# *include *\"($2)/" "$1" | grep -vE "${3:-^$}")
    [ -z "$hits" ] || { printf '%s may not include that:\n%s\n' "$1/" "$hits"; bad=1; }
}
# parts.c.in is the build's composition root: the one file that knows every part (kvwire/node.h).
check kvwire 'net|compress|gpu|engine|perf|tests' '^kvwire/parts\.c\.in:'
check net 'compress|gpu|engine|perf|tests'
check compress 'net|gpu|engine|perf|tests'
check gpu 'net|compress|engine|perf|tests'
check engine 'net|perf|tests|gpu' '"(\.\./)+(net/net|gpu/loaded)\.h"'
check engine/route 'kvwire|serve|model|text|gguf|kernels' # the router's judgement stands alone: the simulator runs it, too
check examples 'engine|perf|tests'
check perf/kvperf 'kvwire|net|compress|gpu|engine|tests' # installed headers only, by <kvwire/...>
# gpu/: the driver is asked through driver.h alone, so there is no runtime API; PTX is in dev.h alone, beside its twin
# for the host. net/ sees VRAM as a struct kvw_mem, never a CUDA header.
hits=$(grep -nE '\bcuda[A-Z][A-Za-z]*\(|# *include *[<"]cuda_runtime|\bcuda[A-Z][a-z]+_t\b' gpu/*.[ch] gpu/*.cu 2>/dev/null)
[ -z "$hits" ] || { printf 'gpu/ may not use the CUDA runtime API:\n%s\n' "$hits"; bad=1; }
hits=$(grep -nE '\b(__asm__|asm)\b *(volatile|__volatile__)? *\(' gpu/*.[ch] gpu/*.cu 2>/dev/null | grep -v '^gpu/dev\.h:')
[ -z "$hits" ] || { printf 'asm outside gpu/dev.h:\n%s\n' "$hits"; bad=1; }
hits=$(grep -rnE '# *include *[<"](cuda|.*gpu/)' net kvwire compress --include='*.[ch]')
[ -z "$hits" ] || { printf 'only gpu/ sees CUDA:\n%s\n' "$hits"; bad=1; }
hits=$(grep -nE '^ *# *include *"' kvwire/{core,core_batch,core_stage,core_types,err,gpu,job,mem,codec,digest,node,plugin,pool,trace,transport}.h net/net.h |
    grep -vE '"(\.\./kvwire/)?(core|core_batch|core_stage|core_types|err|mem|codec|digest|job|node|pool|trace|transport)\.h"')
[ -z "$hits" ] || { printf 'installed headers include private ones:\n%s\n' "$hits"; bad=1; }
exit $bad
