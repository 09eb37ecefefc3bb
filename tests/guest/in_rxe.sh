#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# in_rxe.sh - what suite.py runs in a guest with rxe0 (10.77.1.1) and rxe1 (10.77.1.2).
here=$(dirname "$0")
. "$here/tap.sh"
. "$here/serve.sh"

ports_are_active() {
    [ "$(rdma link | grep -c 'state ACTIVE')" -eq 2 ]
}

perftest() { # PROGRAM ARG...: from rxe1 to rxe0
    local program=$1
    shift
    "$program" -d rxe0 -x 1 -F "$@" >/dev/null 2>&1 &
    listening 18515 && timeout 30 "$program" -d rxe1 -x 1 -F "$@" 10.77.1.1 && wait
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

check "both RoCE ports are active" ports_are_active
check "perftest's writes cross the veth from rxe1 to rxe0" crosses_the_veth
check "perftest's latency test completes" perftest ib_write_lat -s 4096 -n 100
tells "kvserve over verbs: equal tokens" equal_tokens verbs 10.77.1.1:7400 10.77.1.2:0 10.77.1.1:7400
