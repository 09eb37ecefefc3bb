#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# in_two.sh - what suite.py and perf/rows/two_hosts.py run in both of two guests: transfers from b to a, one after the other,
# under one netem setting after the other. b prints the results.
#   in_two.sh check                      every transport of $KVW_NETS once under 1 % loss, as tests
#   in_two.sh table SECONDS NETEM...     "row NETEM|NET|MB/s" for each of them, under each setting ("none")
. "$(dirname "$0")/tap.sh"
xfer=$build/tests/guest/xfer
step=0

wait_for() {
    local i
    for ((i = 0; i < 1800; i++)); do
        [ -e "/run/both/$1" ] && return
        sleep 0.05
    done
    echo "    no $1 from the other guest within 90 s"
    return 1
}

# Both guests come here in the same order. a: LISTEN until it ends; b: SEND once READY was true on a. The results of both
# count: status on b.
pair() { # READY LISTEN SEND
    local log=/run/both/$((++step)).log status=0 i
    if [ "$KVW_GUEST" = a ]; then
        bash -c "$2" >"$log" 2>&1 &
        for ((i = 0; i < 300; i++)); do
            bash -c "$1" >/dev/null 2>&1 || ! kill -0 $! 2>/dev/null && break
            sleep 0.1
        done
        touch "/run/both/$step.up"
        wait $! || status=1
        echo $status >"/run/both/$step.over"
        wait_for "$step.next"
    else
        wait_for "$step.up" && bash -c "$3" || status=1
        wait_for "$step.over" && [ "$(cat "/run/both/$step.over")" = 0 ] || status=1
        [ $status = 0 ] || sed 's/^/    a: /' "$log"
        touch "/run/both/$step.next"
    fi
    return $status
}

addresses() { # NET: what each end calls itself
    case $1 in
    dpdk) listen="af_packet:eth0,ip=10.77.0.11/24,port=9100" send="af_packet:eth0,ip=10.77.0.12/24,port=9101" peer=10.77.0.11:9100 ;;
    verbs) listen=10.77.0.1:9100 send=10.77.0.2:0 peer=10.77.0.1:9100 ;;
    *) listen=10.77.0.1:9100 send=10.77.0.2:0 peer=10.77.0.1:9100 ;;
    esac
}

# Each prints a line with MB/s=N, in 10^6 bytes; each is bounded.
checked() { # NET SECONDS
    local listen send peer ready='grep -q listening /run/both/'$((step + 1)).log
    addresses "$1"
    [ "$1" = tcp ] && ready=true # the sender tries until somebody listens
    pair "$ready" "exec $xfer listen net=$1 local=$listen within=$(($2 + 60))" \
        "$xfer send net=$1 local=$send peer=$peer seconds=$2 within=$(($2 + 50)) && cat /run/both/$((step + 1)).log"
}

perftest() { # SECONDS
    local args="-d rxe0 -x 1 -F -s 262144 -D $1 --report_gbits"
    pair '[ -n "$(ss -Hltn sport = :18515)" ]' "exec timeout $(($1 + 25)) ib_write_bw $args" \
        "timeout $(($1 + 20)) ib_write_bw $args 10.77.0.1 | awk '\$1 == 262144 { print \"MB/s=\" \$4 * 125; n = 1 } END { exit !n }'"
}

iperf3_() { # SECONDS
    pair '[ -n "$(ss -Hltn sport = :5201)" ]' "exec timeout $(($1 + 25)) iperf3 -s -1" \
        "timeout $(($1 + 20)) iperf3 -c 10.77.0.1 -t $1 -f m | awk '/receiver/ { print \"MB/s=\" \$7 / 8; n = 1 } END { exit !n }'"
}

transfer() { # NET SECONDS
    case $1 in
    ib_write_bw) perftest "$2" ;;
    iperf3) iperf3_ "$2" ;;
    *) checked "$1" "$2" ;;
    esac
}

netem() { # ARGS, or "none"
    tc qdisc del dev eth0 root 2>/dev/null
    # shellcheck disable=SC2086
    [ "$1" = none ] || tc qdisc add dev eth0 root netem limit 100000 $1
}

rate() {
    sed -n 's/.*MB\/s=\([0-9.]*\).*/\1/p' "$1" | head -n 1
}

log=$(mktemp)
case $1 in
check)
    netem "loss 1%"
    for net in $KVW_NETS; do
        if transfer "$net" 2 >"$log" 2>&1; then
            result="ok - two hosts, 1 % loss: $net, $(rate "$log") MB/s, $(grep -o 'wrong_bytes=.*' "$log")"
        else
            result="not ok - two hosts, 1 % loss: $net"
        fi
        [ "$KVW_GUEST" = a ] && continue
        echo "$result"
        [ "${result%% *}" = ok ] || sed 's/^/    /' "$log"
    done
    ;;
table)
    seconds=$2
    shift 2
    for setting; do
        netem "$setting"
        for net in $KVW_NETS; do
            transfer "$net" "$seconds" >"$log" 2>&1 && now=$(rate "$log") || now=failed
            [ "$KVW_GUEST" = a ] && continue
            echo "row $setting|$net|$now"
            [ "$now" != failed ] || sed 's/^/    /' "$log" >&2
        done
    done
    ;;
esac
