#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# in_verbs.sh - what suite.py runs in a guest with rxe0 (10.77.1.1) and rxe1 (10.77.1.2) for net/verbs.
. "$(dirname "$0")/tap.sh"
at_hand "$build/tests/conformance/conformance_test_verbs" "$build"/tests/verbs/verbs_{bench,crash} "$build/tests/guest/xfer"
bench=$hand/verbs_bench

# crashes NAME PORT [OPTION...] COMMAND: verbs_crash's figures become part of the name. $cm goes after both addresses.
crashes() {
    local name="$1, under load" port=$2 log status
    shift 2
    log=$(mktemp)
    timeout 40 "$hand/verbs_crash" "${@:1:$#-1}" "10.77.1.2$cm" "10.77.1.1:$port$cm" "${@: -1}" >"$log" 2>&1
    status=$?
    if [ $status = 0 ]; then
        echo "ok - $name: $(grep -E '^(error|recovered)' "$log"); $(grep -oE '^(objects as before after [0-9]+ ms|the next request)' "$log" | paste -sd, | sed 's/,/, /')"
    else
        echo "not ok - $name (status $status)"
    fi
    sed 's/^/    /' "$log"
    rm -f "$log"
}

# transfer LISTENER SENDER PEER: chunks for half a second, or the sender's reason why not.
transfer() {
    local log status
    log=$(mktemp)
    "$hand/xfer" listen net=verbs local="$1" within=30 >"$log" 2>&1 &
    listening "$(sed 's/.*\]//; s/^[^:]*://; s/,.*//' <<<"$1")"
    timeout 20 "$hand/xfer" send net=verbs local="$2" peer="$3" seconds=0.5 within=15
    status=$?
    [ $status = 0 ] || kill $! 2>/dev/null
    wait $! || status=1
    cat "$log"
    return $status
}

export KVW_VERBS_A=10.77.1.1 KVW_VERBS_B=10.77.1.2
# What goes with the link comes with it.
up="ip link set v0 up && ip route add 10.77.1.2 dev v0 src 10.77.1.1 table 100 && ip neigh replace 10.77.1.2 dev v0 \
    lladdr $(cat /sys/class/net/v1/address) nud permanent"
export KVW_VERBS_CUT="ip link set v0 down" KVW_VERBS_MEND="$up; sleep 1"
cm=
# First: a pulled cable takes the interface's IPv6 addresses with it.
tells "joined by rdma_cm over IPv6: every byte right" transfer '[fd00:77::1]:9306,cm=1' '[fd00:77::2],cm=1' '[fd00:77::1]:9306'
criterion "verbs over rxe" "$hand/conformance_test_verbs" --jobs 1
# Not with the cable pulled: rxe's interface goes down while rdma_cm has something to say there, and it joins nothing on that
# device afterwards, until the device is made anew.
criterion "verbs over rxe, joined by rdma_cm" env -u KVW_VERBS_CUT KVW_VERBS_OPTIONS=,cm=1 "$hand/conformance_test_verbs" --jobs 1
says "rdma_cm on one side only" "doesn't join by rdma_cm: give its address cm=1" transfer 10.77.1.1:9307 10.77.1.2,cm=1 10.77.1.1:9307
says "an address that rdma_cm doesn't know" "rdma_cm doesn't find rxe1 by the address 10.77.1.1" "$bench" bw rxe1,cm=10.77.1.1 10.77.1.1:9300 4096 1
says "no device by that address" "none of the 2 RDMA devices has the address" "$bench" bw 10.9.9.9 10.77.1.1:9300 4096 1
says "no such GID" "has no GID 77" "$bench" bw rxe1,gid=77 10.77.1.1:9300 4096 1
says "no locked memory" "raise it" setpriv --bounding-set=-all --inh-caps=-all bash -c "ulimit -l 64; exec $bench bw 10.77.1.2 10.77.1.1:9300 4096 1"
crashes "kill -9 of the listener" 9301 --must error 'kill -9 $LISTENER'
cm=,cm=1
crashes "kill -9 of the listener, joined by rdma_cm" 9308 --must error 'kill -9 $LISTENER'
cm=
crashes "the interface down and up again" 9302 "ip link set v0 down; sleep 0.2; $up"
tc qdisc add dev v0 clsact
modprobe -a cls_u32 act_gact # which takes seconds
tc filter add dev v0 ingress protocol ip u32 match ip dport 4791 0xffff action drop
says "rdma_cm's requests lost" "within 2000 ms: no answer to the request" transfer 10.77.1.1:9309,cm=1 10.77.1.2,cm=1 10.77.1.1:9309
tc filter del dev v0 ingress
crashes "RDMA's packets lost, TCP's not" 9304 --must error --repair 'tc qdisc del dev v0 clsact' \
    'tc filter add dev v0 ingress protocol ip u32 match ip dport 4791 0xffff action drop'
crashes "rdma link delete" 9305 --must error --repair 'rdma link add rxe0 type rxe netdev v0' 'rdma link delete rxe0'
