#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Each public header (those that meson installs, and net/net.h, which kvwire/ may not install) compiles alone, as C and as C++.
set -u
cd "$(dirname "$0")/../.." || exit 1
bad=0
for h in kvwire/{core,core_batch,core_stage,core_types,err,gpu,job,mem,codec,digest,node,plugin,pool,trace,transport,wire}.h net/net.h; do
    ${CC:-cc} -std=gnu11 -Wall -Wextra -Wpedantic -Werror -fsyntax-only -x c "$h" || { echo "$h: not alone, in C"; bad=1; }
    ${CXX:-c++} -std=c++11 -Wall -Wextra -Werror -fsyntax-only -x c++ "$h" || { echo "$h: not alone, in C++"; bad=1; }
done
exit $bad
