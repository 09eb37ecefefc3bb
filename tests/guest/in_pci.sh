#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# in_pci.sh - what suite.py runs in a guest with two PCI NICs on one wire, $KVW_PCI0 and $KVW_PCI1, bound by the kernel
# as it likes, and 256 hugepages: first what goes wrong and what is said then, then DPDK's own drivers on the NICs.
here=$(dirname "$0")
. "$here/tap.sh"
. "$here/pci.sh"
. "$here/serve.sh"
xfer=$build/tests/guest/xfer
a=pci:$KVW_PCI0,ip=10.77.2.1/24,mtu=9000 b=pci:$KVW_PCI1,ip=10.77.2.2/24,mtu=9000

# EAL loads every driver there is, which takes seconds on this CPU. These are the ones that net/port/README.md asks for.
few_drivers() {
    local from keep
    from=$(ls -d /usr/lib/x86_64-linux-gnu/dpdk/pmds-*) keep=$(mktemp -d)
    for d in bus_pci bus_vdev mempool_ring net_ring net_virtio; do # we are linked with net_ring
        cp -d "$from/librte_$d.so"* "$keep"
    done
    chmod 755 "$keep" # the part that runs as somebody else is linked with one of them, too
    mount --bind "$keep" "$from"
}

open() { # ADDRESS [COMMAND BEFORE IT...]: a listener that must not come up
    local address=$1
    shift
    timeout 20 "$@" "$xfer" listen net=dpdk "local=$address,ip=10.77.2.2/24" within=15
}

hugepages() { # COUNT
    sysctl -qw "vm.nr_hugepages=$1"
    [ "$(cat /proc/sys/vm/nr_hugepages)" -eq "$1" ]
}

every_byte_over_pci() {
    "$xfer" listen net=dpdk local=$b within=60 >/tmp/listener 2>&1 &
    for ((i = 0; i < 200; i++)); do
        grep -q listening /tmp/listener && break
        sleep 0.1
    done
    "$xfer" send net=dpdk local=$a peer=10.77.2.2:7400 seconds=2 within=50 && wait $! && cat /tmp/listener
}

few_drivers
modprobe virtio_net
says "a NIC that the kernel has" "bound to virtio-pci.*devbind" open "pci:$KVW_PCI1"
rmmod virtio_net
unbind "$KVW_PCI1"
says "a NIC without a driver" "bound to no driver.*modprobe" open "pci:$KVW_PCI1"
says "a PCI address that isn't there" "no PCI device 0000:00:1e.0" open pci:0000:00:1e.0
says "an interface where a PCI address should be" "'eth0' is no PCI address" open pci:eth0
modprobe uio_pci_generic
check "both NICs go to uio_pci_generic" eval 'bind $KVW_PCI0 uio_pci_generic && bind $KVW_PCI1 uio_pci_generic'
hugepages 0
says "no hugepages" "needs [0-9]+ MiB of hugepages, and 0 MiB are free: sysctl" open "pci:$KVW_PCI1"
check "hugepages" hugepages 256
says "a user who can't know physical addresses" "physical addresses \(IOVA mode PA\).*vfio-pci" \
    open "pci:$KVW_PCI1" setpriv --reuid=65534 --regid=65534 --clear-groups
check "two processes, a NIC each: every byte right" every_byte_over_pci
criterion "conformance over PCI NICs" "$build/tests/conformance/conformance_test_dpdk_pci" --jobs 1
tells "kvserve over PCI NICs: equal tokens" equal_tokens dpdk "$b" "$a" 10.77.2.2:7400
check "every hugepage came back" eval '[ "$(cat /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages)" -eq 256 ]'
