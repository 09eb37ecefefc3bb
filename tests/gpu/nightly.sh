#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# nightly.sh BUILD [LAUNCHES [CODEC [FIRST]]]: as many random chunks through the kernels on the harness as CI has no time for: by
# default 40,000 launches of l0 bf16, about 10^5 chunks, and a tenth of that of each other codec and dtype. About 20 minutes of
# CPU. With a codec ("e8 bf16") all launches are of that one; FIRST is the seed of the first, so that a long run can be made in
# slices: 10^5 chunks of each are
#   for c in 'l0 bf16' 'l0 f16' 'l8 e4m3' 'l8 e5m2' 'e8 bf16' 'e8 f16' 'e4 bf16' 'e4 f16' 'raw f32' 'raw bf16' 'raw e4m3'; do
#       for i in $(seq 0 39); do nice -n 19 tests/gpu/nightly.sh build 1000 "$c" $((1000000 + 1000 * i)) || echo "$c $i"; done
#   done | tee nightly.log
# Prints TAP of each; exit 1 if one differs from the plain C code.
set -u
build=${1:?usage: nightly.sh BUILD [LAUNCHES [CODEC [FIRST]]]}
launches=${2:-40000}
first=${4:-1000000} # seeds that CI doesn't have
bad=0
run() { # LAUNCHES CODEC
    "$build/tests/gpu/test_kernels_plain" "$first" "$1" "$2" | { grep -v SKIP; true; }
    [ "${PIPESTATUS[0]}" = 0 ] || bad=1
}
if [ $# -ge 3 ]; then
    run "$launches" "$3"
    exit $bad
fi
for codec in 'l0 bf16' 'l0 f16' 'l8 e4m3' 'l8 e5m2' 'e8 bf16' 'e8 f16' 'e4 bf16' 'e4 f16' 'raw f32' 'raw bf16' 'raw e4m3'; do
    n=$launches
    [ "$codec" = 'l0 bf16' ] || n=$((launches / 10))
    run "$n" "$codec"
done
exit $bad
