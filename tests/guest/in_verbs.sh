#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# in_verbs.sh - what suite.py runs in a guest with rxe0 (10.77.1.1) and rxe1 (10.77.1.2) for net/verbs.
. "$(dirname "$0")/tap.sh"
bench=$build/tests/verbs/verbs_bench

# crashes NAME PORT [OPTION...] COMMAND: verbs_crash's figures become part of the name.
crashes() {
    local name="$1, under load" port=$2 log status
    shift 2
    log=$(mktemp)
    timeout 40 "$build/tests/verbs/verbs_crash" "${@:1:$#-1}" 10.77.1.2 "10.77.1.1:$port" "${@: -1}" >"$log" 2>&1
    status=$?
    if [ $status = 0 ]; then
        echo "ok - $name: $(grep -E '^(error|recovered)' "$log"); $(grep -oE '^(objects as before after [0-9]+ ms|the next request)' "$log" | paste -sd, | sed 's/,/, /')"
    else
        echo "not ok - $name (status $status)"
    fi
    sed 's/^/    /' "$log"
    rm -f "$log"
}

export KVW_VERBS_A=10.77.1.1 KVW_VERBS_B=10.77.1.2
# What goes with the link comes with it.
up="ip link set v0 up && ip route add 10.77.1.2 dev v0 src 10.77.1.1 table 100 && ip neigh replace 10.77.1.2 dev v0 \
    lladdr $(cat /sys/class/net/v1/address) nud permanent"
export KVW_VERBS_CUT="ip link set v0 down" KVW_VERBS_MEND="$up; sleep 1"
criterion "verbs over rxe" "$build/tests/conformance/conformance_test_verbs" --jobs 1
says "no device by that address" "none of the 2 RDMA devices has the address" "$bench" bw 10.9.9.9 10.77.1.1:9300 4096 1
says "no such GID" "has no GID 77" "$bench" bw rxe1,gid=77 10.77.1.1:9300 4096 1
says "no locked memory" "raise it" setpriv --bounding-set=-all --inh-caps=-all bash -c "ulimit -l 64; exec $bench bw 10.77.1.2 10.77.1.1:9300 4096 1"
crashes "kill -9 of the listener" 9301 --must error 'kill -9 $LISTENER'
crashes "the interface down and up again" 9302 "ip link set v0 down; sleep 0.2; $up"
tc qdisc add dev v0 clsact
modprobe -a cls_u32 act_gact # which takes seconds
crashes "RDMA's packets lost, TCP's not" 9304 --must error --repair 'tc qdisc del dev v0 clsact' \
    'tc filter add dev v0 ingress protocol ip u32 match ip dport 4791 0xffff action drop'
crashes "rdma link delete" 9305 --must error --repair 'rdma link add rxe0 type rxe netdev v0' 'rdma link delete rxe0'
