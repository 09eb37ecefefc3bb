#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/run.sh [SUITE...] - install what the named suites need, build, and run them. Without arguments: all that this
# machine can run. The last line counts: "N passed, N failed[, N skipped]"; exit 0 only if none failed.
# Only sanitize, e2e, guest and oracle download the model (93 MB); only guest and long install qemu.
#
#   lint         arrows between folders, circles within one, exported symbols, format, widths, headers alone
#   unit         one file of ours at a time
#   conformance  the one suite that every transport passes
#   sim          the protocol under loss, reordering, duplicates, corruption; virtual clock, printed seeds
#   simt         the kernels of gpu/ on the CPU, with a race checker, ASan and UBSan; the driver's stand-in
#   nvcc         the same kernels by nvcc, where it is: no spills, registers and instructions as gpu/sass.csv has them
#   cost         instructions of a DATA packet, counted by valgrind's callgrind
#   installed    the library as a stranger finds it: installed, examples built with pkg-config alone, run
#   python       the package kvwire: two processes, wrong arguments, types; its wheel in a fresh venv (needs PyPI)
#   fault        every open path with each of its steps failing
#   fuzz         the corpus, then each fuzz target for a few seconds (KVW_FUZZ_SECONDS, 5)
#   sanitize     unit, conformance, sim, fault and the corpus again under ASan and UBSan
#   tsan         what has threads (encoders, queues, the engine's workers) under ThreadSanitizer
#   kvperf       the benchmark as a user runs it: results that hold together, broken bytes, every exit status
#   e2e          kvserve: equal tokens over every transport, overlap, kill -9, bad input
#   veth         two hosts in network namespaces (needs root): UDP over IPv4 and IPv6, loss, small MTUs, lost links, kills
#   guest        in virtual machines of our own: RDMA verbs, DPDK on PCI NICs, two hosts with loss between them
#   oracle       greedy tokens and logits beside those that llama.cpp gave; what codecs do to the answers
#
# Only by name; tests/nightly.sh runs them (fuzz makes the build of clang, its warnings errors):
#
#   clang        the unit tests of the build of fuzz, under clang's ASan and UBSan
#   llama        tokenizer, keys of GGUF files and logits beside llama.cpp itself (llama-cpp-python from PyPI, ten minutes to compile)
#   long         equal tokens of prompts up to 2,000 tokens over everything; in a guest, verbs beside perftest
#   peers        Mooncake's own class beside kvwire.mooncake, SGLang's wrapper over both, two real NIXL agents over the plugin (0.7 GB from PyPI)
#   vllm         real vLLM servers on this CPU with KvwireConnector (2.9 GB from PyPI, 11 GB of memory, some 40 minutes); KVW_VLLM_PROMPTS (100),
#                KVW_VLLM_KEEP (60: seconds that staged KV is kept, which a machine under load exceeds),
#                KVW_VLLM_SHAPES (blocks window prefix ranks2to1 ranks1to2 preemption)
#   beside       vLLM's NixlConnector and MooncakeConnector beside KvwireConnector, and over our plugin and class: TTFT and hand-over;
#                KVW_BESIDE: prompts, turns and stacks ("12 2 kvwire nixl mooncake nixl-kvwire mooncake-kvwire"); KVW_BESIDE_LINK=1gbit:
#                prefill and decode in network namespaces with such a link between them (needs root)
set -uo pipefail
. "$(dirname "$0")/../examples/setup.sh"

all="lint unit conformance sim simt nvcc cost fault installed python fuzz sanitize tsan kvperf e2e veth guest oracle"
by_name="beside clang llama long peers vllm"
case "${1:-}" in -h | --help)
    sed -n '3,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"
    exit 0
    ;;
esac
suites=${*:-$all}
for s in $suites; do
    case " $all $by_name " in *" $s "*) ;; *) kvw_die "no suite $s; there are: $all $by_name" ;; esac
done

passed=0 failed=0 skipped=0
count() { # PASSED FAILED SKIPPED
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
}

# meson's JUnit log knows the single tests inside each Criterion binary.
slow=$(mktemp)   # "seconds name" of each thing that ran
failed_names=$(mktemp) # a line for each that failed
trap 'rm -f "$slow" "$failed_names"; [ -z "$prebuilt" ] || pkill -P "$prebuilt"' EXIT
run_meson() { # BUILD SUITE...
    local build=$kvw_root/$1 args=() s
    shift
    for s in "$@"; do args+=(--suite "kvwire:$s"); done
    rm -f "$build/meson-logs/testlog.junit.xml"
    meson test -C "$build" --no-rebuild --print-errorlogs "${args[@]}" 2>&1 | tee "$slow.now" | grep -vE '^(ninja|$)'
    local status=${PIPESTATUS[0]}
    sed -nE "s|^ *[0-9]+/[0-9]+ (.*[^ ]) +[A-Z]+ +([0-9.]+)s.*|\\2 ${build##*/}: \\1|p" "$slow.now" >>"$slow"
    rm -f "$slow.now"
    # shellcheck disable=SC2046
    count $(python3 - "$build/meson-logs/testlog.junit.xml" "$status" "$failed_names" "${build##*/}: $*" <<'PY'
import sys, xml.etree.ElementTree as E
p = f = s = 0
names = open(sys.argv[3], "a")
try:
    for case in E.parse(sys.argv[1]).getroot().iter("testcase"):
        kinds = {c.tag for c in case}
        if kinds & {"failure", "error"}:
            f += 1
            print(sys.argv[4], case.get("classname"), case.get("name"), file=names)
        elif "skipped" in kinds:
            s += 1
        else:
            p += 1
except OSError:
    pass
if f == 0 and (sys.argv[2] != "0" or p + s == 0):  # a crash of the runner, or a suite without a test
    f = 1
    print(sys.argv[4], "the runner ended with", sys.argv[2], file=names)
print(p, f, s)
PY
)
}

# A program that prints TAP; its exit status counts too.
run_tap() { # NAME COMMAND...
    local name=$1 out status n_ok n_bad n_skip begun=$SECONDS
    shift
    kvw_say "$name"
    out=$(mktemp)
    "$@" | tee "$out"
    status=${PIPESTATUS[0]}
    echo "$((SECONDS - begun)) $name" >>"$slow"
    n_skip=$(grep -cE '^ok .*# SKIP' "$out")
    n_ok=$(($(grep -cE '^ok ' "$out") - n_skip))
    n_bad=$(grep -cE '^not ok ' "$out")
    grep -E '^not ok ' "$out" | sed "s|^not ok|$name:|" >>"$failed_names"
    [ "$status" -eq 0 ] || [ "$n_bad" -gt 0 ] || { n_bad=1 && echo "$name ended with $status" >>"$failed_names"; }
    count "$n_ok" "$n_bad" "$n_skip"
    rm -f "$out"
}

# A program that only has an exit status.
run_plain() { # NAME COMMAND...
    local name=$1 begun=$SECONDS
    shift
    if "$@"; then
        echo "ok - $name"
        count 1 0 0
    else
        echo "not ok - $name"
        echo "$name" >>"$failed_names"
        count 0 1 0
    fi
    echo "$((SECONDS - begun)) $name" >>"$slow"
}

suite_lint() {
    kvw_say lint
    run_plain includes "$kvw_root/tests/lint/includes.sh"
    run_plain circles "$kvw_root/tests/lint/circles.py" build
    run_plain symbols "$kvw_root/tests/lint/symbols.sh" build
    run_plain abi "$kvw_root/tests/lint/abi.py" build
    run_plain format "$kvw_root/tests/lint/format.sh"
    run_plain shape "$kvw_root/tests/lint/shape.py"
    run_plain comments "$kvw_root/tests/lint/comments.py"
    run_plain headers "$kvw_root/tests/lint/headers.sh"
}

# Two kinds of ends of test_dpdk_veth are enough under sanitizers; the suite pairs has the others.
suite_conformance() {
    kvw_say conformance
    run_meson build conformance pairs
}

# The kernels by nvcc; a build without it has no such test.
suite_nvcc() {
    kvw_say nvcc
    if meson test -C "$kvw_root/build" --no-rebuild --list --suite kvwire:nvcc 2>/dev/null | grep -q sass; then
        run_meson build nvcc
    else
        echo "skipped: nvcc isn't there, so the kernels' registers and spills were not looked at"
        count 0 0 1
    fi
}

suite_installed() {
    run_tap installed "$kvw_root/tests/installed/run.sh" build
}

suite_python() {
    local venv=$kvw_root/build/venv
    kvw_venv "$venv" cffi mypy==2.4.1 types-cffi || exit 1
    run_tap "python: the package beside build/libkvwire.so" "$venv/bin/python" "$kvw_root/tests/python/suite.py" "$kvw_root/build/libkvwire.so"
    run_tap "python: its wheel" "$kvw_root/tests/python/wheel.sh" "$kvw_root/build/wheel"
}

build_nixl_plugin() { # FOLDER
    mkdir -p "$1"
    run_plain "libplugin_KVWIRE.so is built" g++ -std=c++20 -O2 -Wall -Wextra -fPIC -shared -fvisibility=hidden "$kvw_root/kvwire/nixl/plugin.cpp" \
        -o "$1/libplugin_KVWIRE.so" "$kvw_root/build/libkvwire.so" -Wl,-rpath,"$kvw_root/build"
}

suite_peers() {
    local venv=$kvw_root/build/venv-peers plugins=$kvw_root/build/nixl
    kvw_venv "$venv" cffi numpy mooncake-transfer-engine-non-cuda==0.3.13.post1 || exit 1
    kvw_venv "$venv" --no-deps nixl==1.5.1 nixl-cu13==1.5.1 || exit 1
    kvw_venv "$venv" --no-deps --no-compile sglang==0.5.23 || exit 1
    run_plain "kvwire.mooncake beside Mooncake's class, 1,000 batches" env KVWIRE_LIBRARY="$kvw_root/build/libkvwire.so" \
        PYTHONPATH="$kvw_root/kvwire/python" GLOG_minloglevel=3 "$venv/bin/python" "$kvw_root/tests/python/moon.py" 1000
    KVWIRE_LIBRARY=$kvw_root/build/libkvwire.so PYTHONPATH=$kvw_root/kvwire/python run_tap "SGLang's wrapper of Mooncake's class" \
        "$venv/bin/python" "$kvw_root/tests/python/sglang_calls.py"
    build_nixl_plugin "$plugins"
    # In the folder of NIXL's own plugins, so that UCX is found, too; NIXL_PLUGIN_DIR would hide it.
    ln -sf "$plugins/libplugin_KVWIRE.so" "$venv"/lib/python3*/site-packages/.nixl_cu13.mesonpy.libs/plugins/
    run_tap "two NIXL agents" "$venv/bin/python" "$kvw_root/tests/python/nixl_two.py"
}

need_vllm() { # sets python, the one with vLLM; and the model, as Hugging Face lays it out
    kvw_get_model
    python=$(kvw_vllm_python) || exit 1
    [ -f "$kvw_cache/smollm2-hf/tokenizer_config.json" ] ||
        "$python" "$kvw_root/tests/python/peers/gguf2hf.py" "$kvw_model" "$kvw_cache/smollm2-hf" >&2 || kvw_die "the model could not be converted"
}

# Its table is perf/results/vllm_beside.md's.
suite_beside() {
    local python
    need_vllm
    "$python" -c 'import nixl, mooncake' 2>/dev/null || "$python" -m pip install --disable-pip-version-check --no-deps \
        nixl==1.5.1 nixl-cu13==1.5.1 mooncake-transfer-engine-non-cuda==0.3.13.post1 >&2 || kvw_die "nixl and mooncake could not be installed"
    build_nixl_plugin "$kvw_root/build/nixl"
    # shellcheck disable=SC2086
    local two_hosts=${KVW_BESIDE_LINK:+python3 $kvw_root/tests/lab/lab.py run --mtu 1500 --rate $KVW_BESIDE_LINK -- $kvw_root/tests/lab/host_b.sh}
    NIXL_PLUGIN_DIR=$kvw_root/build/nixl KVWIRE_LIBRARY=$kvw_root/build/libkvwire.so run_tap "vLLM's connectors, by turns" \
        $two_hosts python3 "$kvw_root/tests/python/vllm_beside.py" "$python" "$kvw_cache/smollm2-hf" "$kvw_root/build/beside" \
        ${KVW_BESIDE:-12 2 kvwire nixl mooncake nixl-kvwire mooncake-kvwire}
}

# Its table is kvwire/python/RESULTS.md's.
suite_vllm() {
    local python
    need_vllm
    KVWIRE_LIBRARY=$kvw_root/build/libkvwire.so run_tap "vllm: two servers and a control" python3 "$kvw_root/tests/python/vllm_pair.py" \
        "$python" "$kvw_cache/smollm2-hf" "$kvw_root/build/vllm" "${KVW_VLLM_PROMPTS:-100}"
    # shellcheck disable=SC2086
    KVWIRE_LIBRARY=$kvw_root/build/libkvwire.so run_tap "vllm: block sizes, windows and ranks that differ" \
        python3 "$kvw_root/tests/python/vllm_shapes.py" "$python" "$kvw_cache/smollm2-hf" "$kvw_root/build/vllm-shapes" ${KVW_VLLM_SHAPES:-}
}

suite_cost() {
    run_tap "cost: instructions of a DATA packet" python3 "$kvw_root/tests/cost/cost.py" \
        "$kvw_root/build/tests/cost/cost_packet" "$kvw_root/tests/cost/cost.json"
}

# For builds that are run for what they check: gcc takes little more than half the time of -O2. Not -g1: gdb.py is tried, too.
light="-Dbuildtype=debug -Doptimization=1"

build_clang() {
    # shellcheck disable=SC2046,SC2086
    CC=clang kvw_build build-fuzz -Dtests=enabled -Dfuzz=true $light -Db_lundef=false $(werror clang)
}

suite_clang() {
    build_clang
    kvw_say "unit tests built by clang"
    UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 run_meson build-fuzz unit
}

build_asan() {
    # shellcheck disable=SC2046,SC2086
    kvw_build build-asan -Db_sanitize=address,undefined $light -Db_lundef=false $(werror gcc)
}

# The tests of the suite tsan alone are built: nothing else of build-tsan is run.
build_tsan() {
    # shellcheck disable=SC2046
    kvw_configure build-tsan -Dtests=enabled -Db_sanitize=thread -Dbuildtype=debugoptimized -Db_lundef=false $(werror gcc)
    # shellcheck disable=SC2046
    kvw_ninja build-tsan $(targets build-tsan tsan)
}

# What the later suites need is built while conformance, which sleeps most of its time, runs. A build that fails here is made
# again by its suite, which then says what is wrong.
prebuilt=
prebuild() {
    case " $suites " in *" conformance "*) ;; *) return ;; esac
    (
        chrt -i -p 0 $BASHPID
        for s in $suites; do
            case $s in
            clang | fuzz) (build_clang) ;;
            sanitize) (build_asan) ;;
            tsan) (build_tsan) ;;
            esac
        done
    ) >/dev/null 2>&1 &
    prebuilt=$!
}

await_prebuilt() {
    [ -z "$prebuilt" ] || wait "$prebuilt"
    prebuilt=
}

suite_fuzz() {
    local seconds=${KVW_FUZZ_SECONDS:-5} target name corpus
    kvw_say "fuzz: the corpus"
    run_meson build fuzz
    await_prebuilt
    build_clang
    for target in "$kvw_root"/build-fuzz/tests/fuzz/fuzz_*; do
        [ -f "$target" ] && [ -x "$target" ] || continue
        name=${target##*/fuzz_}
        corpus=$(mktemp -d)
        kvw_say "fuzz: $name for $seconds s"
        UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 run_plain "fuzz $name" "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -verbosity=0 \
            -print_final_stats=1 -artifact_prefix="$kvw_root/build-fuzz/crash-$name-" \
            "$corpus" "$kvw_root/tests/fuzz/corpus/$name"
        rm -rf "$corpus"
    done
}

# kvw_nets BUILD: the transports in it that this machine can run, beside none.
kvw_nets() {
    local verbs=verbs
    [ -z "$(ls /sys/class/infiniband 2>/dev/null)" ] || verbs=
    "$kvw_root/$1/engine/kvserve" run --model x --prompt x --net "?" 2>&1 |
        sed "s/.*this build has none//; s/,/ /g; s/ $verbs\>//"
}

suite_sanitize() {
    local net
    kvw_get_model
    await_prebuilt
    build_asan
    kvw_say "unit, conformance, sim, fault and the corpus under ASan and UBSan"
    UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 ASAN_OPTIONS=detect_leaks=1 \
        run_meson build-asan unit conformance sim fault fuzz
    for net in none $(kvw_nets build-asan); do
        run_plain "kvserve under ASan and UBSan, $net" timeout 300 "$kvw_root/build-asan/engine/kvserve" run \
            --model "$kvw_model" --net "$net" --prompt "Count to five." --max-tokens 8 --json
    done
}

suite_tsan() {
    await_prebuilt
    build_tsan
    kvw_say "what has threads, under ThreadSanitizer"
    run_meson build-tsan tsan
}

suite_e2e() {
    kvw_get_model
    run_tap "e2e: quickstart" python3 "$kvw_root/tests/e2e/quickstart.py"
    run_tap "e2e: equal tokens" python3 "$kvw_root/tests/e2e/equal.py"
    run_tap "e2e: overlap" python3 "$kvw_root/tests/e2e/overlap.py"
    run_tap "e2e: kill -9, dpdk" python3 "$kvw_root/tests/e2e/kill.py" dpdk
    run_tap "e2e: kill -9, udp" python3 "$kvw_root/tests/e2e/kill.py" udp
    run_tap "e2e: up, over HTTP" python3 "$kvw_root/tests/e2e/up.py"
    run_tap "e2e: several workers" python3 "$kvw_root/tests/e2e/many.py"
    run_tap "e2e: output, signals, batches" python3 "$kvw_root/tests/e2e/output.py"
    run_tap "e2e: traces of both ends, one timeline" python3 "$kvw_root/tests/e2e/trace.py"
    run_tap "e2e: captures, read by tshark" python3 "$kvw_root/tests/net/wireshark/dissect.py"
    run_tap "e2e: bad input" python3 "$kvw_root/tests/e2e/bad_input.py"
}

suite_kvperf() {
    run_tap "kvperf" python3 "$kvw_root/tests/kvperf/kvperf.py"
}

suite_guest() {
    kvw_get_model
    run_tap guest python3 "$kvw_root/tests/guest/suite.py" pci two verbs ends
}

suite_veth() {
    run_tap "veth" python3 "$kvw_root/tests/lab/veth.py"
}

suite_oracle() {
    kvw_get_model
    run_tap "oracle: llama.cpp's greedy tokens" python3 "$kvw_root/tests/oracle/expected.py" \
        --program "$kvw_root/build/tests/oracle/logits" --model "$kvw_model"
    kvw_say "oracle: what codecs do to the answers"
    run_plain "equal logits through raw and l0; E8 and E4 beside fp8 and Hadamard-int4" python3 "$kvw_root/tests/oracle/quality.py" --check \
        --windows 6 --program "$kvw_root/build/tests/oracle/quality" --model "$kvw_model"
}

suite_llama() {
    local python
    kvw_get_model
    python=$(kvw_oracle_python) || exit 1
    kvw_say "llama.cpp: tokenizer"
    run_plain "tokenizer ids equal llama.cpp's" "$python" "$kvw_root/tests/oracle/tokenizer.py" \
        "$kvw_root/build/tests/oracle/tokenize_lines" "$kvw_model"
    run_tap "llama.cpp: a prompt evaluated in one process goes on in another" env KVWIRE_LIBRARY="$kvw_root/build/libkvwire.so" \
        KVWIRE_PLUGINS="$kvw_root/build" PYTHONPATH="$kvw_root/kvwire/python" \
        "$python" "$kvw_root/examples/llama_cpp/handoff.py" "$kvw_model" --check "$kvw_root/tests/oracle/prompts.json"
    kvw_say "llama.cpp: families and chat templates"
    run_plain "each family continues as llama.cpp does" "$python" "$kvw_root/tests/oracle/families.py" --programs "$kvw_root/build/tests/oracle"
    run_plain "prompts are what the chat templates make" "$python" "$kvw_root/tests/oracle/templates.py" \
        --programs "$kvw_root/build/tests/oracle" --model "$kvw_model"
    kvw_say "llama.cpp: keys of a GGUF file"
    run_plain "each key is what engine/keys.c says it is to llama.cpp" "$python" "$kvw_root/tests/oracle/keys.py" \
        --programs "$kvw_root/build/tests/oracle" --model "$kvw_model"
    kvw_say "llama.cpp: logits"
    run_plain "greedy continuations equal llama.cpp's" "$python" "$kvw_root/tests/oracle/logits.py" \
        --program "$kvw_root/build/tests/oracle/logits" --model "$kvw_model"
}

suite_long() {
    kvw_get_model
    run_tap "long: equal tokens" python3 "$kvw_root/tests/e2e/equal.py" --all
    run_tap "long: verbs beside perftest, in a guest" python3 "$kvw_root/tests/guest/suite.py" ratio
}

# What the named suites need beside a build. Guest may do without: it then skips and says so.
# werror COMPILER: meson's --werror where the compiler is one whose warnings we know; another one's new warning is no failure.
werror() {
    case $1-$($1 -dumpversion 2>/dev/null) in gcc-12* | clang-14*) echo -Dwerror=true ;; esac
}

need_packages() {
    local s needed="$kvw_packages_build $kvw_packages_tests"
    for s in $suites; do
        case $s in
        lint) needed+=" $kvw_packages_lint" ;;
        simt) needed+=" $kvw_packages_simt" ;;
        cost) needed+=" $kvw_packages_cost" ;;
        clang | fuzz) needed+=" $kvw_packages_fuzz" ;;
        e2e) needed+=" $kvw_packages_e2e" ;;
        veth) needed+=" $kvw_packages_veth" ;;
        llama) needed+=" $kvw_packages_oracle" ;;
        python) needed+=" $kvw_packages_python" ;;
        vllm) needed+=" $kvw_packages_vllm" ;;
        beside) needed+=" $kvw_packages_vllm $kvw_packages_peers" ;;
        peers) needed+=" $kvw_packages_peers" ;;
        guest | long)
            # shellcheck disable=SC2086
            (kvw_need $kvw_packages_guest) || true
            ;;
        esac
    done
    # shellcheck disable=SC2086
    kvw_need $needed
}

# targets BUILD SUITE...: those of BUILD that the suites run; nothing stands for all of them.
targets() {
    python3 - "$kvw_root/$1" "${@:2}" <<'PY'
import json, os, sys
build, suites = os.path.realpath(sys.argv[1]), sys.argv[2:]
fixed = {"cost": ["tests/cost/cost_packet"], "kvperf": ["perf/kvperf/kvperf"]}
known = {"unit", "conformance", "pairs", "sim", "simt", "fault", "tsan", "python", "peers", "vllm", "beside"} | set(fixed)
if not set(suites) <= known:
    sys.exit()
def info(name):
    return json.load(open("%s/meson-info/intro-%s.json" % (build, name)))
files = {t["id"]: [os.path.relpath(os.path.realpath(f), build) for f in t["filename"]] for t in info("targets")}
fixed["python"] = fixed["peers"] = fixed["vllm"] = fixed["beside"] = [f for fs in files.values() for f in fs if f.startswith("libkvwire")]
needed = {f for s in suites for f in fixed.get(s, [])}
for test in info("tests"):
    if {"kvwire:" + s for s in suites} & set(test["suite"]):
        needed.update(f for target in test["depends"] for f in files[target])
print("\n".join(sorted(needed)))
PY
}

need_packages
# shellcheck disable=SC2046
kvw_configure build -Dtests=enabled $(werror gcc)
# shellcheck disable=SC2046,SC2086
kvw_ninja build $(targets build $suites)
took="packages and build $SECONDS" # then each suite, its own builds and downloads with it
prebuild
for s in $suites; do
    begun=$SECONDS
    case $s in
    unit | sim | simt | fault)
        kvw_say "$s"
        run_meson build "$s"
        ;;
    *) "suite_$s" ;;
    esac
    took+=" $s $((SECONDS - begun))"
done
# Wall-clock seconds; tests of one suite run beside each other.
slowest() {
    kvw_say "the slowest ten, in seconds; the whole run took $SECONDS"
    sort -rn "$slow" | head -n 10 | sed 's/^/  /'
}
slowest
echo "   seconds of each suite: $took"
if [ -s "$failed_names" ]; then
    kvw_say "what failed"
    sed 's/^/  /' "$failed_names"
fi
if [ $skipped -gt 0 ]; then
    echo "$passed passed, $failed failed, $skipped skipped"
else
    echo "$passed passed, $failed failed"
fi
[ $failed -eq 0 ] && [ $passed -gt 0 ]
