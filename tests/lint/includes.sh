#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The arrows of README.md: kvwire/ includes nothing of ours; net/, compress/ and gpu/ include kvwire/ only;
# engine/ uses net/ through net.h and gpu/ through loaded.h alone; public headers don't include private ones. What it says of CUDA is
# tried on planted lines first.
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
# gpu/: the driver is asked through driver.h alone, so there is no runtime API, nor a launch by <<<>>>; PTX is in dev.h alone,
# beside its twin for the host. net/, kvwire/ and compress/ see VRAM as a struct kvw_mem, never a CUDA header.
cuda() { # FOLDER that has gpu/, net/, kvwire/, compress/: what is wrong there, a line each
    local asm='\b(__asm__|__asm|asm)\b *(\(|\{|$|\b(volatile|__volatile__|goto|inline)\b)'
    (
        cd "$1" || exit 1
        grep -rnE '\bcuda[A-Z][A-Za-z0-9_]* *\(|\bcuda[A-Z][A-Za-z]*_t\b|# *include *[<"](cuda|cublas)|libcudart|<<<' \
            --include='*.[ch]' --include='*.cu' --include='*.cpp' gpu | sed 's/^/CUDA runtime API in gpu\/: /'
        grep -rnE "$asm" --include='*.[ch]' --include='*.cu' --include='*.cpp' gpu | grep -v '^gpu/dev\.h:' | sed 's/^/asm outside gpu\/dev.h: /'
        grep -rnE '# *include *[<"](cuda|cublas|nv|.*gpu/)' --include='*.[ch]' --include='*.cpp' --include='*.in' net kvwire compress |
            sed 's/^/only gpu\/ sees CUDA: /'
    )
}
planted() { # FILE LINE EXPECTED: a tree of which FILE has LINE; what is found begins with EXPECTED, or is nothing
    local tree said
    tree=$(mktemp -d)
    mkdir "$tree"/{gpu,net,kvwire,compress}
    printf '%s\n' "$2" >"$tree/$1"
    said=$(cuda "$tree")
    rm -rf "$tree"
    case $3 in '') [ -z "$said" ] ;; *) [ "${said#"$3"}" != "$said" ] ;; esac ||
        { echo "includes.sh doesn't judge $1: '$2' as it should ('$3'): '$said'"; bad=1; }
}
planted gpu/run.c 'r = cudaMalloc(&p, 4);' 'CUDA runtime'
planted gpu/run.c 'r = cudaMalloc3D(&p, e);' 'CUDA runtime'
planted gpu/run.c 'cudaStream_t s;' 'CUDA runtime'
planted gpu/raw.cu '#include <cuda_runtime_api.h>' 'CUDA runtime'
planted gpu/raw.cu 'kernel<<<1, 32>>>(b);' 'CUDA runtime'
planted gpu/driver.c 'dlopen("libcudart.so", RTLD_NOW);' 'CUDA runtime'
planted gpu/driver.c '/* cudaMalloc: other allocators */ r = cuMemCreate(&h);' ''
planted gpu/raw.cu 'asm volatile("mov.u32 %0, %1;" : "=r"(v) : "r"(w));' 'asm outside'
planted gpu/parts.h '__asm__ __volatile__("membar.gl;");' 'asm outside'
planted gpu/mem.c '__asm("nop");' 'asm outside'
planted gpu/dev.h 'asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(bits));' ''
planted net/open.c '#include <cuda.h>' 'only gpu/'
planted net/open.h '#  include "../gpu/mem.h"' 'only gpu/'
planted kvwire/node.c '#include <gpu/driver.h>' 'only gpu/'
planted compress/l0.c '#include <cublasLt.h>' 'only gpu/'
planted kvwire/node.c '#include "gpu.h"' ''
hits=$(cuda .)
[ -z "$hits" ] || { printf '%s\n' "$hits"; bad=1; }
hits=$(grep -nE '^ *# *include *"' kvwire/{core,core_batch,core_stage,core_types,err,gpu,job,mem,codec,digest,node,plugin,pool,trace,transport}.h net/net.h |
    grep -vE '"(\.\./kvwire/)?(core|core_batch|core_stage|core_types|err|mem|codec|digest|job|node|pool|trace|transport)\.h"')
[ -z "$hits" ] || { printf 'installed headers include private ones:\n%s\n' "$hits"; bad=1; }
exit $bad
