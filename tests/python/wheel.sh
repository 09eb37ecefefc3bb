#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# wheel.sh FOLDER - build the wheel as `pip install .` does, install it into a fresh virtual environment in FOLDER, and use it there: import
# where neither DPDK, RDMA, NumPy nor PyTorch is, and the README's example. Prints TAP.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
n=0 bad=0
rm -rf "$folder/venv" "$folder/dist"
mkdir -p "$folder/dist"
unset KVWIRE_LIBRARY KVWIRE_PLUGINS PYTHONPATH
check() { # NAME COMMAND...
    local name=$1
    shift
    n=$((n + 1))
    if "$@" >"$folder/out" 2>&1; then
        echo "ok $n - $name"
    else
        echo "not ok $n - $name"
        tail -n 12 "$folder/out" | sed 's/^/# /'
        bad=1
    fi
}
build() {
    python3 -m venv "$folder/venv" &&
        "$folder/venv/bin/pip" --disable-pip-version-check wheel --no-deps -C build-dir="$folder/meson" -w "$folder/dist" "$root"
}
install() { "$folder/venv/bin/pip" --disable-pip-version-check install "$folder"/dist/kvwire-*.whl; }
needs_nothing() { # the library wants the C library alone
    local so
    so=$(find "$folder/venv" -name libkvwire.so)
    [ -n "$so" ] && ! ldd "$so" | grep -vE 'linux-vdso|libm\.|libc\.|libdl\.|libpthread\.|ld-linux'
}
elsewhere() { (cd / && "$folder/venv/bin/python" -m kvwire) && grep -q "$folder/venv" "$folder/out" && grep -q '^udp *yes' "$folder/out"; }
example() {
    sed -n '/^```python$/,/^```$/{//d;p}' "$root/kvwire/python/README.md" | sed '/^$/q' >"$folder/example.py"
    [ "$(wc -l <"$folder/example.py")" -gt 4 ] && (cd / && "$folder/venv/bin/python" "$folder/example.py") && grep -qx "b'first token'" "$folder/out"
}
check "the wheel is built" build
check "it installs" install
check "its library needs nothing but the C library" needs_nothing
check "python -m kvwire, from the wheel" elsewhere
check "the README's example" example
echo "1..$n"
exit $bad
