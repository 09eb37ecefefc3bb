#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# in_verbs.sh - what suite.py runs in a guest with rxe0 (10.77.1.1) and rxe1 (10.77.1.2) for net/verbs, in a minute: what bears
# company runs side by side, since much of it waits and the guest has two CPUs; then, alone, what breaks or counts something.
here=$(dirname "$0")
. "$here/tap.sh"
. "$here/serve.sh"
at_hand "$build/tests/conformance/conformance_test_verbs" "$build"/tests/verbs/verbs_{bench,crash,stale} "$build/tests/guest/xfer" \
    "$(command -v ib_write_bw)" "$(command -v ib_write_lat)"
bench=$hand/verbs_bench

ports_are_active() {
    [ "$(rdma link | grep -c 'state ACTIVE')" -eq 2 ]
}

perftest() { # PROGRAM ARG...: from rxe1 to rxe0
    local program=$hand/$1
    shift
    "$program" -d rxe0 -x 1 -F "$@" >/dev/null 2>&1 &
    listening 18515 && timeout 30 "$program" -d rxe1 -x 1 -F "$@" 10.77.1.1 && wait $!
}

packets() {
    cat /sys/class/net/v0/statistics/rx_packets
}

# 100 writes of 64 KiB are 1,600 packets of 4 KiB; if they took lo, there would be a handful.
crosses_the_veth() {
    local before
    before=$(packets)
    perftest ib_write_bw -s 65536 -n 100 && [ $(($(packets) - before)) -ge 1600 ]
}

# crashes NAME PORT [OPTION...] COMMAND: verbs_crash's figures become part of the name. $cm goes after both addresses.
crashes() {
    local name="$1, under load" port=$2 log status
    shift 2
    log=$(mktemp)
    timeout 60 "$hand/verbs_crash" "${@:1:$#-1}" "10.77.1.2$cm" "10.77.1.1:$port$cm" "${@: -1}" >"$log" 2>&1
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
    "$hand/xfer" listen net=verbs local="$1" within=60 >"$log" 2>&1 &
    listening "$(sed 's/.*\]//; s/^[^:]*://; s/,.*//' <<<"$1")"
    timeout 60 "$hand/xfer" send net=verbs local="$2" peer="$3" seconds=0.5 within=50
    status=$?
    [ $status = 0 ] || kill $! 2>/dev/null
    wait $! || status=1
    cat "$log"
    return $status
}

export KVW_VERBS_A=10.77.1.1 KVW_VERBS_B=10.77.1.2
# The tests' regions are shared memory; an emulated CPU takes 30 us to hand out a page of 4 KiB.
echo always >/sys/kernel/mm/transparent_hugepage/shmem_enabled
cm=

# Alone on the link, since packets are counted; what one process answers doesn't use it.
say_once=$(mktemp)
one_process >"$say_once" &
check "both RoCE ports are active" ports_are_active
check "perftest's writes cross the veth from rxe1 to rxe0" crosses_the_veth
check "perftest's latency test completes" perftest ib_write_lat -s 4096 -n 100
wait
serve_want=$(cat "$say_once")

# Alone, too: they bound times.
timed='transport/no_*|transport/rule_9*'
criterion "verbs over rxe" "$hand/conformance_test_verbs" --jobs 1 --filter "@($timed)"
KVW_VERBS_OPTIONS=,cm=1 criterion "verbs over rxe, joined by rdma_cm" "$hand/conformance_test_verbs" --jobs 1 --filter "@($timed)"

# Side by side. Each listener has its own port.
carries() {
    criterion "verbs over rxe" "$hand/conformance_test_verbs" --jobs 2 --filter "!(*vanishes|$timed)"
}
# rule_8 is skipped here, as there is no cable to pull. A pulled one, or an interface that was down under load as below, left rxe's
# device joining nothing by rdma_cm in 2 of 4 runs on 2026-11-30: net/verbs/README.md has the likely cause, and what is done
# against it. Since then the test below went well 65 of 65 times in one boot each of 40 and 25 (2026-12-01), and in 39 of these
# the queue pairs had failed first.
carries_by_cm() {
    KVW_VERBS_OPTIONS=,cm=1 criterion "verbs over rxe, joined by rdma_cm" "$hand/conformance_test_verbs" --jobs 2 --filter "!($timed)"
}
serves() {
    tells "kvserve over verbs: equal tokens" equal_tokens verbs 10.77.1.1:7400 10.77.1.2:0 10.77.1.1:7400
    tells "kvserve over verbs, joined by rdma_cm: equal tokens" equal_tokens verbs 10.77.1.1:7401,cm=1 10.77.1.2:0,cm=1 10.77.1.1:7401
}
windows() {
    tells "the key of an ended offer" "$hand/verbs_stale" 10.77.1.1 10.77.1.2
    tells "memory windows off: every byte right" transfer 10.77.1.1:9311,mw=0 10.77.1.2,mw=0 10.77.1.1:9311
}
bad_configuration() {
    tells "joined by rdma_cm over IPv6: every byte right" transfer '[fd00:77::1]:9306,cm=1' '[fd00:77::2],cm=1' '[fd00:77::1]:9306'
    says "rdma_cm on one side only" "doesn't join by rdma_cm: give its address cm=1" transfer 10.77.1.1:9307 10.77.1.2,cm=1 10.77.1.1:9307
    says "an address that rdma_cm doesn't know" "rdma_cm doesn't find rxe1 by the address 10.77.1.1" "$bench" bw rxe1,cm=10.77.1.1 10.77.1.1:9300 4096 1
    says "no device by that address" "none of the 2 RDMA devices has the address" "$bench" bw 10.9.9.9 10.77.1.1:9300 4096 1
    says "no such GID" "has no GID 77" "$bench" bw rxe1,gid=77 10.77.1.1:9300 4096 1
    says "no locked memory" "raise it" setpriv --bounding-set=-all --inh-caps=-all bash -c "ulimit -l 64; exec $bench bw 10.77.1.2 10.77.1.1:9300 4096 1"
}
others() {
    bad_configuration
    windows
}
for part in carries carries_by_cm serves others; do
    $part &
done
modprobe -a cls_u32 act_gact # for below
wait

# Alone: the link goes down, and the device's objects are counted. What goes with the link comes with it.
up="ip link set v0 up && ip route add 10.77.1.2 dev v0 src 10.77.1.1 table 100 && ip neigh replace 10.77.1.2 dev v0 \
    lladdr $(cat /sys/class/net/v1/address) nud permanent"
KVW_VERBS_CUT="ip link set v0 down" KVW_VERBS_MEND="$up; until [ \$(rdma link | grep -c 'state ACTIVE') = 2 ]; do sleep 0.1; done" \
    criterion "verbs over rxe" "$hand/conformance_test_verbs" --filter '*vanishes'
crashes "kill -9 of the listener" 9301 --must error 'kill -9 $LISTENER'
cm=,cm=1
crashes "kill -9 of the listener, joined by rdma_cm" 9308 --must error 'kill -9 $LISTENER'
cm=
crashes "the interface down and up again" 9302 "ip link set v0 down; sleep 0.2; $up"
cm=,cm=1
crashes "the interface down and up again, joined by rdma_cm" 9310 "ip link set v0 down; sleep 0.2; $up"
cm=
tc qdisc add dev v0 clsact
tc filter add dev v0 ingress protocol ip u32 match ip dport 4791 0xffff action drop
says "rdma_cm's requests lost" "within 2000 ms: no answer to the request" transfer 10.77.1.1:9309,cm=1 10.77.1.2,cm=1 10.77.1.1:9309
tc filter del dev v0 ingress
crashes "RDMA's packets lost, TCP's not" 9304 --must error --repair 'tc qdisc del dev v0 clsact' \
    'tc filter add dev v0 ingress protocol ip u32 match ip dport 4791 0xffff action drop'
crashes "rdma link delete" 9305 --must error --repair 'rdma link add rxe0 type rxe netdev v0' 'rdma link delete rxe0'
cm=,cm=1
crashes "rdma link delete, joined by rdma_cm" 9312 --must error --repair 'rdma link add rxe0 type rxe netdev v0' 'rdma link delete rxe0'
