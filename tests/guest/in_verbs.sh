#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# in_verbs.sh - what suite.py runs in a guest with rxe0 (10.77.1.1) and rxe1 (10.77.1.2) for net/verbs.
. "$(dirname "$0")/tap.sh"
bench=$build/tests/verbs/verbs_bench

objects() { # queue pairs, completion queues and registrations of both devices
    rdma resource show | grep -oE '\b(qp|cq|mr|srq) [0-9]+' | sort | tr '\n' ' '
}

as_before() { # OBJECTS: within 2 s
    local i
    for ((i = 0; i < 20; i++)); do
        [ "$(objects)" = "$1" ] && return
        sleep 0.1
    done
    echo "before: $1, now: $(objects)"
    return 1
}

serves() { # PORT
    timeout 20 "$bench" bw 10.77.1.2 "10.77.1.1:$1" 65536 50
}

# A MB has come in on v0 since this was called: the load is on. Starting it takes seconds on a busy machine.
flows() {
    local from=$(</sys/class/net/v0/statistics/rx_bytes) i
    for ((i = 0; i < 200; i++)); do
        [ $(($(</sys/class/net/v0/statistics/rx_bytes) - from)) -gt 1000000 ] && return
        sleep 0.1
    done
    echo "no load within 20 s"
    return 1
}

# load PORT COMMAND...: puts without end, then COMMAND; the sender ends, by itself, within 3 s of it (2 and the guest's slowness).
load() {
    local port=$1 i
    shift
    "$bench" bw 10.77.1.2 "10.77.1.1:$port" 65536 100000000 &
    sender=$!
    flows || return 1
    "$@" || return 1
    for ((i = 0; i < 30; i++)); do
        kill -0 $sender 2>/dev/null || return 0
        sleep 0.1
    done
    kill -9 $sender
    echo "the sender went on for 3 s"
    return 1
}

kill_listener() {
    kill -9 "$(pgrep -P $sender)"
}

killed() {
    local before
    before=$(objects)
    load 9301 kill_listener && as_before "$before" && serves 9302
}

# Either the retries bring it over, and it goes on, or it ends with an error; then the next is served.
down_and_up() {
    local before
    before=$(objects)
    "$bench" bw 10.77.1.2 10.77.1.1:9303 65536 1000 &
    sender=$!
    flows || return 1
    ip link set v0 down && sleep 0.3 && ip link set v0 up
    for ((i = 0; i < 150; i++)); do
        kill -0 $sender 2>/dev/null || break
        sleep 0.1
    done
    kill -9 $sender 2>/dev/null && return 1
    sleep 1
    as_before "$before" && serves 9304
}

delete_link() {
    timeout 5 rdma link delete rxe0
}

removed() {
    load 9305 delete_link && ! rdma link | grep -q rxe0
}

export KVW_VERBS_A=10.77.1.1 KVW_VERBS_B=10.77.1.2
export KVW_VERBS_CUT="ip link set v0 down" KVW_VERBS_MEND="ip link set v0 up; sleep 1"
criterion "verbs over rxe" "$build/tests/conformance/conformance_test_verbs" --jobs 1
says "no device by that address" "none of the 2 RDMA devices has the address" "$bench" bw 10.9.9.9 10.77.1.1:9300 4096 1
says "no such GID" "has no GID 77" "$bench" bw rxe1,gid=77 10.77.1.1:9300 4096 1
says "no locked memory" "raise it" setpriv --bounding-set=-all --inh-caps=-all bash -c "ulimit -l 64; exec $bench bw 10.77.1.2 10.77.1.1:9300 4096 1"
check "the listener is killed under load: an error, nothing left, the next is served" killed
check "the interface goes down and up under load: nothing left, the next is served" down_and_up
check "the device is removed under load: an error, and it goes" removed
