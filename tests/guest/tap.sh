# SPDX-License-Identifier: Apache-2.0
# tap.sh - sourced by the scripts that run inside guests. Each line they print is a test of suite.py's count:
# "ok - NAME", "not ok - NAME", "ok - NAME # SKIP why"; other lines pass through as comments.
build=${KVW_BUILD:-build}

# check NAME COMMAND...: its exit status is the result; its output is shown if it failed.
check() {
    local name=$1 log
    shift
    log=$(mktemp)
    if "$@" >"$log" 2>&1; then
        echo "ok - $name"
    else
        echo "not ok - $name (status $?)"
        tail -n 15 "$log" | sed 's/^/    /'
    fi
    rm -f "$log"
}

# tells NAME COMMAND...: as check; the last line of its output becomes part of the name.
tells() {
    local name=$1 log status
    shift
    log=$(mktemp)
    "$@" >"$log" 2>&1
    status=$?
    if [ $status -eq 0 ]; then
        echo "ok - $name: $(tail -n 1 "$log")"
    else
        echo "not ok - $name (status $status)"
        tail -n 15 "$log" | sed 's/^/    /'
    fi
    rm -f "$log"
}

# says NAME WORDS COMMAND...: it must fail, and its output must have WORDS (an extended regular expression).
says() {
    local name=$1 words=$2 out status
    shift 2
    out=$("$@" 2>&1)
    status=$?
    if [ $status -ne 0 ] && grep -qE -- "$words" <<<"$out"; then
        echo "ok - $name: $(grep -m1 -E -- "$words" <<<"$out")"
    else
        echo "not ok - $name (status $status): wanted '$words', got '$(head -n 5 <<<"$out" | tr '\n' ' ')'"
    fi
}

# criterion NAME COMMAND...: a Criterion binary; each of its tests is one of ours, but those that a --filter left out.
criterion() {
    local name=$1 out status
    shift
    out=$("$@" --tap 2>&1 | grep -vE '^ok .*# SKIP test was skipped$'; exit "${PIPESTATUS[0]}")
    status=$?
    grep -E '^(not )?ok ' <<<"$out" | sed -E "s/^((not )?ok) +(- )?/\1 - $name: /"
    if [ $status -ne 0 ] && ! grep -qE '^not ok ' <<<"$out"; then
        echo "not ok - $name ended with status $status"
    elif ! grep -qE '^(not )?ok ' <<<"$out"; then
        echo "not ok - $name: no test ran"
    fi
    [ $status -eq 0 ] || grep -vE '^ok ' <<<"$out" | head -n 30 | sed 's/^/    /'
}

# at_hand PROGRAM...: copies of them in memory, with the libraries of the first, in the folder $hand. An emulated CPU opens a
# file of the host's in 20 ms, so a program with forty libraries starts in two seconds, and a Criterion binary starts one per test.
at_hand() {
    hand=$(mktemp -d /dev/shm/hand-XXXXXX)
    # shellcheck disable=SC2046
    cp -L "$@" $(ldd "$1" | grep -oE '/[^ ]+\.so[^ ]*') "$hand"
    export LD_LIBRARY_PATH=$hand
}

# scattered COMMAND...: perf/batch, which checks every piece at both ends. What its messages and headers take, of the scattered posts'
# bytes (half of all), is at most 1 %. Its last line is the goodput's ratio to contiguous posts.
scattered() (
    set -o pipefail
    "$@" | awk '{ print } /^INFO metadata/ { percent = 2 * $3 } /^RESULT/ { ratio = $2 }
        END { if (percent == "" || ratio == "") exit 1
              printf "metadata %.2f %% of the bytes, goodput %.3f x contiguous\n", percent, ratio; exit percent > 1 }'
)

# listening PORT: until somebody listens on that TCP port, for at most 20 s.
listening() {
    local i
    for ((i = 0; i < 200; i++)); do
        [ -n "$(ss -Hltn "sport = :$1")" ] && return
        sleep 0.1
    done
    return 1
}
