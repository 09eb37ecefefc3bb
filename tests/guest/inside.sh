#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# inside.sh - second half of the guest's start, on the host's root: what /run/guest/setup asks for, then the job.
# /run/guest (shared with the host): setup (words), env (exports), command (argv, shell-quoted), cwd;
# written here: stdout, stderr, and at last rc.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
job=/run/guest
finish() { # STATUS
    sync
    echo "$1" >$job/rc.part && mv $job/rc.part $job/rc
    busybox poweroff -f
}
die() {
    echo "guest: setting up: $*" >>$job/stderr
    finish 125
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts /dev/hugepages
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
ln -sfn /proc/self/fd /dev/fd
ln -sfn /proc/self/fd/0 /dev/stdin
ln -sfn /proc/self/fd/1 /dev/stdout
ln -sfn /proc/self/fd/2 /dev/stderr
. $job/env
mkdir -p /lib/modules
ln -sfn "$KVW_GUEST_MODULES" "/lib/modules/$(uname -r)"
hostname "$KVW_GUEST"
ulimit -l unlimited
ip link set lo up

# rxe0 (10.77.1.1) and rxe1 (10.77.1.2), two RoCE devices on the ends of a veth pair. A port is DOWN until its peer is
# up. Linux takes a packet between two of its own addresses through lo, and rxe then gives it to the device that sent
# it; so packets that we send from one address to the other are routed before the table of local addresses is asked, and are
# unreachable while an interface is down.
setup_rxe() {
    modprobe -a ib_uverbs rdma_rxe rdma_ucm || die "no rdma_rxe"
    ip link add v0 mtu 9000 type veth peer name v1 mtu 9000 || die "no veth"
    local v0 v1
    read -r v0 </sys/class/net/v0/address
    read -r v1 </sys/class/net/v1/address
    for v in v0 v1; do
        echo 1 >/proc/sys/net/ipv4/conf/$v/accept_local
    done
    # Neighbours are known for good: a packet that waits for ARP holds its queue pair, and rxe's destroying waits for it, for seconds.
    # (One program reads all of it: an emulated CPU takes 40 ms to start it.)
    ip -batch - <<END || die "ip refused the addresses and routes"
addr add 10.77.1.1/24 dev v0
addr add 10.77.1.2/24 dev v1
neigh add 10.77.1.2 dev v0 lladdr $v1 nud permanent
neigh add 10.77.1.1 dev v1 lladdr $v0 nud permanent
link set v0 up
link set v1 up
route add 10.77.1.2 dev v0 src 10.77.1.1 table 100
route add 10.77.1.1 dev v1 src 10.77.1.2 table 100
route add unreachable 10.77.1.0/24 table 100
rule add pref 1 iif lo from 10.77.1.1 to 10.77.1.2 lookup 100
rule add pref 1 iif lo from 10.77.1.2 to 10.77.1.1 lookup 100
rule add pref 10 lookup local
rule del pref 0
END
    rdma link add rxe0 type rxe netdev v0 && rdma link add rxe1 type rxe netdev v1 || die "rdma link add failed"
    # The same with IPv6, fd00:77::1 and ::2, after the devices: so their GIDs come last. Table 101, since rdma_cm asks which way a
    # request's sender is from the interface that it came by.
    ip -6 -batch - <<END || die "ip refused the IPv6 addresses and routes"
addr add fd00:77::1/64 dev v0 nodad
addr add fd00:77::2/64 dev v1 nodad
neigh add fd00:77::2 dev v0 lladdr $v1 nud permanent
neigh add fd00:77::1 dev v1 lladdr $v0 nud permanent
route add fd00:77::2 dev v0 src fd00:77::1 table 100
route add fd00:77::1 dev v1 src fd00:77::2 table 100
rule add pref 1 iif lo from fd00:77::1 to fd00:77::2 lookup 100
rule add pref 1 iif lo from fd00:77::2 to fd00:77::1 lookup 100
route add fd00:77::2 dev v0 table 101
route add fd00:77::1 dev v1 table 101
rule add pref 2 oif v0 lookup 101
rule add pref 2 oif v1 lookup 101
rule add pref 10 lookup local
rule del pref 0
END
}

# The NIC that leads to the other guest: eth0, rxe0 on it, netem on what leaves. /run/both is shared with the other.
setup_pair() {
    mkdir /run/both
    mount -t 9p -o trans=virtio,version=9p2000.L,cache=none,msize=512000 both /run/both || die "can't mount both"
    modprobe virtio_net || die "no virtio_net"
    ip link set eth0 mtu "$KVW_GUEST_MTU" || die "no eth0"
    ip addr add "$KVW_SELF/24" dev eth0
    ip link set eth0 up
    modprobe -a ib_uverbs rdma_rxe rdma_ucm || die "no rdma_rxe"
    rdma link add rxe0 type rxe netdev eth0 || die "rdma link add failed"
    [ -z "$KVW_NETEM" ] && return
    # shellcheck disable=SC2086
    tc qdisc add dev eth0 root netem limit 100000 $KVW_NETEM || die "tc refused netem $KVW_NETEM"
}

# The two NICs of the hub for DPDK.
setup_pci() {
    mount -t hugetlbfs huge /dev/hugepages
    modprobe uio_pci_generic || die "no uio_pci_generic"
    . "$(dirname "$(cat $job/inside)")/pci.sh"
    for address in "$KVW_PCI0" "$KVW_PCI1"; do
        bind "$address" uio_pci_generic || die "$address was not bound to uio_pci_generic"
    done
}

for word in $(cat $job/setup); do
    "setup_$word" 2>>$job/stderr
done
echo "guest: up" >/dev/console
touch $job/up
cd "$(cat $job/cwd)" || die "no folder $(cat $job/cwd)"
timeout -k 2 "$KVW_GUEST_SECONDS" bash $job/command </dev/null >>$job/stdout 2>>$job/stderr
finish $?
