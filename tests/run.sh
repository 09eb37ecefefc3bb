#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/run.sh [SUITE...] - install what is needed, build, and run the tests. Without arguments: all that this
# machine can run. The last line counts: "N passed, N failed[, N skipped]"; exit 0 only if none failed.
#
#   lint         arrows between folders, exported symbols, format, headers alone
#   unit         one file of ours at a time
#   conformance  the one suite that every transport passes
#   sim          the protocol under loss, reordering, duplicates, corruption; virtual clock, printed seeds
#   cost         instructions of a DATA packet, counted by valgrind's callgrind
#   fault        every open path with each of its steps failing
#   fuzz         the corpus, then each fuzz target for a few seconds (KVW_FUZZ_SECONDS, 5)
#   sanitize     unit, conformance, sim, fault and the corpus again under ASan and UBSan
#   e2e          kvserve: equal tokens over every transport, overlap, kill -9, bad input
#   veth         two hosts in network namespaces (needs root): UDP over IPv4 and IPv6, loss, small MTUs, lost links, kills
#   guest        in virtual machines of our own: RDMA verbs, DPDK on PCI NICs, two hosts with loss between them
#   oracle       tokenizer and logits beside llama.cpp (llama-cpp-python from PyPI)
set -uo pipefail
. "$(dirname "$0")/../examples/setup.sh"

all="lint unit conformance sim cost fault fuzz sanitize e2e veth guest oracle"
case "${1:-}" in -h | --help)
    sed -n '3,19s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
suites=${*:-$all}
for s in $suites; do
    case " $all " in *" $s "*) ;; *) kvw_die "no suite $s; there are: $all" ;; esac
done

passed=0 failed=0 skipped=0
count() { # PASSED FAILED SKIPPED
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
}

# meson's JUnit log knows the single tests inside each Criterion binary.
run_meson() { # BUILD SUITE...
    local build=$kvw_root/$1 args=() s
    shift
    for s in "$@"; do args+=(--suite "kvwire:$s"); done
    rm -f "$build/meson-logs/testlog.junit.xml"
    meson test -C "$build" --no-rebuild --print-errorlogs "${args[@]}" 2>&1 | grep -vE '^(ninja|$)'
    local status=${PIPESTATUS[0]}
    # shellcheck disable=SC2046
    count $(python3 - "$build/meson-logs/testlog.junit.xml" "$status" <<'PY'
import sys, xml.etree.ElementTree as E
p = f = s = 0
try:
    for case in E.parse(sys.argv[1]).getroot().iter("testcase"):
        kinds = {c.tag for c in case}
        if kinds & {"failure", "error"}:
            f += 1
        elif "skipped" in kinds:
            s += 1
        else:
            p += 1
except OSError:
    pass
if f == 0 and (sys.argv[2] != "0" or p + s == 0):  # a crash of the runner, or a suite without a test
    f = 1
print(p, f, s)
PY
)
}

# A program that prints TAP; its exit status counts too.
run_tap() { # NAME COMMAND...
    local name=$1 out status n_ok n_bad n_skip
    shift
    kvw_say "$name"
    out=$(mktemp)
    "$@" | tee "$out"
    status=${PIPESTATUS[0]}
    n_skip=$(grep -cE '^ok .*# SKIP' "$out")
    n_ok=$(($(grep -cE '^ok ' "$out") - n_skip))
    n_bad=$(grep -cE '^not ok ' "$out")
    [ "$status" -eq 0 ] || [ "$n_bad" -gt 0 ] || n_bad=1
    count "$n_ok" "$n_bad" "$n_skip"
    rm -f "$out"
}

# A program that only has an exit status.
run_plain() { # NAME COMMAND...
    local name=$1
    shift
    if "$@"; then
        echo "ok - $name"
        count 1 0 0
    else
        echo "not ok - $name"
        count 0 1 0
    fi
}

suite_lint() {
    kvw_say lint
    run_plain includes "$kvw_root/tests/lint/includes.sh"
    run_plain symbols "$kvw_root/tests/lint/symbols.sh" build
    run_plain format "$kvw_root/tests/lint/format.sh"
    run_plain headers "$kvw_root/tests/lint/headers.sh"
}

suite_cost() {
    run_tap "cost: instructions of a DATA packet" python3 "$kvw_root/tests/cost/cost.py" \
        "$kvw_root/build/tests/cost/cost_packet" "$kvw_root/tests/cost/cost.json"
}

suite_fuzz() {
    local seconds=${KVW_FUZZ_SECONDS:-5} target name corpus
    kvw_say "fuzz: the corpus"
    run_meson build fuzz
    CC=clang kvw_build build-fuzz -Dfuzz=true -Dbuildtype=debugoptimized -Db_lundef=false
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
    kvw_build build-asan -Db_sanitize=address,undefined -Dbuildtype=debugoptimized -Db_lundef=false
    kvw_say "unit, conformance, sim, fault and the corpus under ASan and UBSan"
    UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 ASAN_OPTIONS=detect_leaks=1 \
        run_meson build-asan unit conformance sim fault fuzz
    for net in none $(kvw_nets build-asan); do
        run_plain "kvserve under ASan and UBSan, $net" timeout 300 "$kvw_root/build-asan/engine/kvserve" run \
            --model "$kvw_model" --net "$net" --prompt "Count to five." --max-tokens 8 --json
    done
}

suite_e2e() {
    kvw_get_model
    run_tap "e2e: quickstart" python3 "$kvw_root/tests/e2e/quickstart.py"
    run_tap "e2e: equal tokens" python3 "$kvw_root/tests/e2e/equal.py"
    run_tap "e2e: overlap" python3 "$kvw_root/tests/e2e/overlap.py"
    run_tap "e2e: kill -9, dpdk" python3 "$kvw_root/tests/e2e/kill.py" dpdk
    run_tap "e2e: kill -9, udp" python3 "$kvw_root/tests/e2e/kill.py" udp
    run_tap "e2e: bad input" python3 "$kvw_root/tests/e2e/bad_input.py"
}

# Without qemu the suite says so itself, as a skip.
suite_guest() {
    # shellcheck disable=SC2086
    (kvw_need $kvw_packages_guest) || true
    kvw_get_model
    run_tap guest python3 "$kvw_root/tests/guest/suite.py"
}

suite_veth() {
    run_tap "veth" python3 "$kvw_root/tests/lab/veth.py"
}

suite_oracle() {
    local python
    kvw_get_model
    python=$(kvw_oracle_python) || exit 1
    kvw_say "oracle: tokenizer"
    run_plain "tokenizer ids equal llama.cpp's" "$python" "$kvw_root/tests/oracle/tokenizer.py" \
        "$kvw_root/build/tests/oracle/tokenize_lines" "$kvw_model"
    kvw_say "oracle: logits"
    run_plain "greedy continuations equal llama.cpp's" "$python" "$kvw_root/tests/oracle/logits.py" \
        --program "$kvw_root/build/tests/oracle/logits" --model "$kvw_model"
    kvw_say "oracle: what codecs do to the answers"
    run_plain "equal logits through raw and l0; E8 and E4 beside fp8 and Hadamard-int4" python3 "$kvw_root/tests/oracle/quality.py" --check \
        --windows 6 --program "$kvw_root/build/tests/oracle/quality" --model "$kvw_model"
}

# shellcheck disable=SC2086
kvw_need $kvw_packages_build $kvw_packages_test
kvw_get_model
kvw_build build -Dtests=enabled
for s in $suites; do
    case $s in
    unit | conformance | sim | fault)
        kvw_say "$s"
        run_meson build "$s"
        ;;
    *) "suite_$s" ;;
    esac
done
if [ $skipped -gt 0 ]; then
    echo "$passed passed, $failed failed, $skipped skipped"
else
    echo "$passed passed, $failed failed"
fi
[ $failed -eq 0 ] && [ $passed -gt 0 ]
