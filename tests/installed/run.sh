#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# run.sh BUILD - a stranger's view: install into an empty prefix, build the examples elsewhere with nothing but
# `pkg-config kvwire`, and run them; on libraries of one day; and of builds without DPDK, without gpu/, without nvcc. Prints TAP.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$root/${1:-build}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
n=0 bad=0
check() { # NAME COMMAND...
    local name=$1
    shift
    n=$((n + 1))
    if "$@" >"$work/out" 2>&1; then
        echo "ok $n - $name"
    else
        echo "not ok $n - $name"
        sed 's/^/# /' "$work/out" | tail -n 12
        bad=1
    fi
}
skip() { # NAME REASON
    n=$((n + 1))
    echo "ok $n - $1 # SKIP $2"
}
meson install -C "$build" --destdir "$work/prefix" --no-rebuild >"$work/out" 2>&1 || { cat "$work/out"; echo "Bail out! meson install failed"; exit 1; }
pc=$(dirname "$(find "$work/prefix" -name kvwire.pc)")
lib=$(dirname "$pc")
export PKG_CONFIG_PATH=$pc PKG_CONFIG_SYSROOT_DIR=$work/prefix LD_LIBRARY_PATH=$lib
mkdir "$work/src" && cp "$root"/examples/0[2-9]_*.c "$root"/examples/llama.h "$work/src" && cd "$work/src" || exit 1

headers_alone() {
    local h
    for h in "$work"/prefix/usr/local/include/kvwire/*.h; do
        # shellcheck disable=SC2046
        cc -std=c99 -Wall -Wextra -Werror -fsyntax-only -x c "$h" && c++ -std=c++17 -Wall -Wextra -Werror -fsyntax-only -x c++ "$h" || return 1
    done
}
build_all() {
    local f
    for f in 0[2-9]_*.c; do
        # shellcheck disable=SC2046
        cc -O2 -Wall -Wextra "$f" -o "${f%.c}" $(pkg-config --cflags --libs kvwire) || return 1
    done
}
# Of the two libraries that -lkvwire may stand for, the linker takes the static one.
build_static() {
    local f
    for f in 02_two_nodes 03_sender 03_receiver 06_own_loop; do
        # shellcheck disable=SC2046
        cc -O2 $f.c -o $f.static $(pkg-config --cflags kvwire) -Wl,-Bstatic $(pkg-config --libs kvwire) -Wl,-Bdynamic $(pkg-config --static --libs kvwire | sed 's/-lkvwire//') &&
            ! ldd $f.static | grep -q kvwire || return 1
    done
}
# Every name that the library exports has its page, and each says something.
pages() { # LIST OF THE ABI
    local name man=$work/prefix/usr/local/share/man
    sed -n 's/^symbol //p' "$1" >"$work/names" && [ "$(wc -l <"$work/names")" -gt 80 ] || return 1
    while read -r name; do
        [ "$(sed '1,/^.SH DESCRIPTION/d; /^.SH SEE/,$d' "$man/man3/$name.3" | wc -c)" -gt 20 ] || { echo "$name: no page, or an empty one"; return 1; }
    done <"$work/names"
    [ -s "$man/man7/kvwire.7" ] && [ "$(ls "$man/man3" | wc -l)" -eq "$(wc -l <"$work/names")" ] || return 1
    ! command -v groff || [ -z "$(groff -man -Tutf8 -ww "$man"/man3/*.3 "$man/man7/kvwire.7" 2>&1 >/dev/null)" ]
}
no_page() { # the control: a name that has none is missed
    { cat "$root/tests/lint/abi.txt"; echo "symbol kvw_node_frobnicate"; } >"$work/more"
    ! pages "$work/more"
}
no_dpdk_in() { ! ldd "$1" | grep -qE 'rte_|ibverbs|rdmacm'; }
only_kvw() { [ -z "$(nm -D --defined-only "$lib/libkvwire.so" | awk '{print $3}' | grep -vE '^(kvw_|KVWIRE_)')" ]; }
one_symbol() { # a plugin exports one
    local p name
    for p in "$lib"/kvwire/*.so; do
        case $p in *-cuda.so) name=kvw_gpu_plugin ;; *) name=kvw_plugin ;; esac
        [ "$(nm -D --defined-only "$p" | awk '{print $3}')" = $name ] || return 1
    done
}
pair() { # TRANSPORT RECEIVER'S SENDER'S PEER [SUFFIX]: five requests of 2,048 tokens at once
    timeout 120 "./03_receiver${5:-}" "$1" "$2" 5 2048 5 &
    local receiver=$! status
    timeout 120 "./03_sender${5:-}" "$1" "$3" "$4" 5 2048
    status=$?
    wait $receiver && [ $status -eq 0 ]
}
without_plugins() { # a transport that isn't there is refused with a sentence that names it
    KVWIRE_PLUGINS=/nonexistent ./03_receiver dpdk "$work/none.sock" >"$work/said" 2>&1 && return 1
    grep -q "no transport 'dpdk' is built in, and no plugin" "$work/said"
}
# The library of one day (grown.py), and programs of today on it; and the other way about.
programs="02_two_nodes 04_batch 05_serial 06_own_loop"
grow() { python3 "$root/tests/installed/grown.py" "$build" "$work/grown"; }
old_on_grown() {
    local p
    for p in $programs; do
        LD_LIBRARY_PATH=$work/grown/lib timeout 60 "./$p" || return 1
    done
}
new_on_old() {
    local p
    mkdir -p new && cp "$root/tests/installed/newer.c" .
    for p in $programs newer; do
        # shellcheck disable=SC2046
        cc -O2 -I"$work/grown/include" "$p.c" -o "new/$p" $(pkg-config --libs kvwire) && timeout 60 "new/$p" || return 1
    done
}
in_the_middle() { # the control: that would not pass
    # shellcheck disable=SC2046
    cc -O2 -I"$work/grown/middle" 02_two_nodes.c -o middle $(pkg-config --libs kvwire) || return 1
    ! timeout 60 ./middle
}
# The plugin on a machine where its DPDK isn't: the names of the libraries that it wants are nobody's.
without_dpdk() {
    mkdir gone && cp "$lib"/kvwire/libkvwire-dpdk.so gone && sed -i 's/librte_eal/librte_xyz/g' gone/libkvwire-dpdk.so
    KVWIRE_PLUGINS=$PWD/gone ./03_receiver dpdk "$work/none.sock" >"$work/said" 2>&1 && return 1
    grep -q "librte_xyz" "$work/said" || { cat "$work/said"; return 1; }
    KVWIRE_PLUGINS=$PWD/gone ./02_two_nodes
}
examples="examples/01_loopback examples/02_two_nodes examples/05_serial"
build_no_dpdk() { # what a machine without DPDK and rdma-core builds; and without gpu/, whether nvcc is there or not
    # shellcheck disable=SC2086
    meson setup "$work/bare" "$root" --buildtype=debug -Ddpdk=disabled -Dverbs=disabled -Dcuda=disabled &&
        ninja -C "$work/bare" $examples "$(basename "$(readlink -f "$lib/libkvwire.so")")" && ! of_gpu
}
run_no_dpdk() {
    local e
    for e in 01_loopback 02_two_nodes 05_serial; do
        "$work/bare/examples/$e" && no_dpdk_in "$work/bare/examples/$e" || return 1
    done
    no_dpdk_in "$(find "$work/bare" -maxdepth 1 -name 'libkvwire.so.*.*.*' -type f)" && [ -z "$(ls "$work/bare" | grep -E 'dpdk|verbs')" ]
}
# gpu/, its plugin and its tests in that build, a line each.
of_gpu() {
    meson introspect --targets --tests "$work/bare" |
        python3 -c 'import json, sys
names = {t["name"] for kind in json.load(sys.stdin).values() for t in kind}
print(*sorted(n for n in names if any(w in n for w in ("gpu", "cuda", "fatbin"))), sep="\n")' | grep .
}
# The same build where no nvcc is found, and no toolkit: this process and its children see them no more. gpu/ is built, the harness
# tests its kernels, and there is no plugin and no test of what nvcc makes.
hide_nvcc() {
    local at
    while at=$(command -v nvcc) && [ -x "$at" ]; do # bash names one that it may not run, too
        mount --bind /dev/null "$(readlink -f "$at")" || return 1
    done
    [ ! -d /usr/local/cuda ] || mount -t tmpfs none "$(readlink -f /usr/local/cuda)"
}
no_nvcc() {
    hide_nvcc && meson configure "$work/bare" -Dcuda=auto -Dtests=enabled || return 1
    # shellcheck disable=SC2086
    ninja -C "$work/bare" $examples gpu/libkvwire_gpu.a && of_gpu >"$work/names" && cat "$work/names" &&
        grep -qx kvwire_gpu "$work/names" && grep -qx 'gpu kernels, plain' "$work/names" && ! grep -xE 'kernels.fatbin|gpu sass' "$work/names"
}
with_nvcc() { # the plugin, bigger than its kernels; those for each architecture (kind 2), and PTX (1) for what comes after them
    python3 - "$build/kernels.fatbin" "$lib/kvwire/libkvwire-cuda.so" <<'PY'
import os, struct, sys
image = open(sys.argv[1], "rb").read()
magic, _, at, size = struct.unpack_from("<IHHQ", image)
found, end = set(), at + size
while at < end:
    kind, _, head, size = struct.unpack_from("<HHIQ", image, at)
    found.add((kind, struct.unpack_from("<I", image, at + 28)[0]))
    at += head + size
print(sorted(found))
sys.exit(magic != 0xba55ed50 or not found >= {(2, 80), (2, 90), (2, 100), (1, 80), (1, 100)} or os.path.getsize(sys.argv[2]) < len(image))
PY
}
check "installed headers compile alone, as C99 and C++17" headers_alone
check "examples build with pkg-config alone" build_all
check "the examples link by pkg-config --static" build_static
check "every exported name has a manual page" pages "$root/tests/lint/abi.txt"
check "the control: a name without one is missed" no_page
check "a program carries neither DPDK nor verbs" no_dpdk_in ./03_sender
check "libkvwire.so exports kvw_ alone" only_kvw
check "a plugin exports one symbol" one_symbol
check "02_two_nodes" ./02_two_nodes
check "02_two_nodes, static" ./02_two_nodes.static
check "04_batch, 1,000 pieces written and read back" ./04_batch
check "05_serial, staged and pulled by reference" ./05_serial
check "two processes over udp, 5 requests of 268 MB at once, every word" pair udp 127.0.0.1:7403 127.0.0.1:0 127.0.0.1:7403
check "the same, static" pair udp 127.0.0.1:7404 127.0.0.1:0 127.0.0.1:7404 .static
check "06_own_loop: many peers by two transports, one epoll, no thread" ./06_own_loop
check "06_own_loop, static" ./06_own_loop.static
check "07_pools: state of vLLM, MLA and a hybrid, each in two layouts" ./07_pools
if [ -f "$lib/kvwire/libkvwire-dpdk.so" ]; then
    check "two processes over dpdk, the plugin" pair dpdk "$work/link.sock" "$work/link.sock" -
    check "without plugins: a sentence" without_plugins
    check "where libdpdk isn't: a sentence, and udp works" without_dpdk
else
    skip "two processes over dpdk, the plugin" "this build has no DPDK"
fi
check "a library whose structs have grown at their ends is built" grow
check "programs of today run on it" old_on_grown
check "its programs run on today's library, which refuses fields that it doesn't know" new_on_old
check "the control: a program with a field in a struct's middle doesn't" in_the_middle
check "-Ddpdk=disabled, -Dverbs=disabled, -Dcuda=disabled: it builds" build_no_dpdk
check "and its examples run, over loop and udp" run_no_dpdk
export -f hide_nvcc no_nvcc of_gpu
export work examples
if unshare -rm true 2>/dev/null; then
    check "where no nvcc is: gpu/ and its tests are built, without the plugin" unshare -rm bash -c no_nvcc
    check "and the examples run" run_no_dpdk
else
    skip "where no nvcc is" "no namespace of mounts may be made here"
fi
if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then
    check "where nvcc is: the plugin is there, with kernels of each architecture" with_nvcc
else
    skip "where nvcc is" "none is here"
fi
echo "1..$n"
exit $bad
