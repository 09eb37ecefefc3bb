#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# nightly.sh BUILD [LAUNCHES [CODEC [FIRST [VALUES]]]]: as many random chunks through the kernels on the harness as CI has no time
# for, each encoded, decoded, and decoded once more when it is damaged. By default 40,000 launches of each codec, about 10^5 chunks
# of up to 9,000 values (one or two blocks), a tenth of that of its other dtypes, and 400 launches each of chunks of up to 45,000.
# A chunk of 9,000 values takes 0.5 ms of a CPU (raw), 2 ms (l0, l8) or 4 ms (e8, e4): 25 minutes for all. With a codec ("e8 bf16")
# all launches are of that one; FIRST is the seed of the first, so that a long run can be made in slices:
#   for i in $(seq 0 9); do nice -n 19 tests/gpu/nightly.sh build 4000 'e8 bf16' $((2000000 + 4000 * i)) || echo "$i"; done
# Prints TAP of each; exit 1 if one differs from the plain C code.
set -u
build=${1:?usage: nightly.sh BUILD [LAUNCHES [CODEC [FIRST [VALUES]]]]}
launches=${2:-40000}
first=${4:-2000000} # seeds that CI doesn't have
bad=0
run() { # LAUNCHES CODEC VALUES
    "$build/tests/gpu/test_kernels_plain" "$first" "$1" "$2" "$3" | { grep -v SKIP; true; }
    [ "${PIPESTATUS[0]}" = 0 ] || bad=1
}
if [ $# -ge 3 ]; then
    run "$launches" "$3" "${5:-9000}"
    exit $bad
fi
for codec in 'l0 bf16' 'l8 e4m3' 'e8 bf16' 'e4 bf16' 'raw bf16'; do run "$launches" "$codec" 9000; done
for codec in 'l0 f16' 'l8 e5m2' 'e8 f16' 'e4 f16' 'raw f32' 'raw e4m3'; do run $((launches / 10)) "$codec" 9000; done
for codec in 'l0 bf16' 'l8 e4m3' 'e8 bf16' 'e4 bf16' 'raw bf16'; do run $((launches / 100)) "$codec" 45000; done
exit $bad
