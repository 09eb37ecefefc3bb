#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# init.sh - the guest's first process: loads the modules in their order, mounts the host's root (read-only, over 9p)
# under a writable layer that lives in memory, and goes on in inside.sh there. A failure ends the guest with a sentence
# on the console.
bb=/bin/busybox
die() {
    echo "guest: init: $*"
    $bb sync
    $bb poweroff -f
}

$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
for m in /modules/*; do
    $bb insmod "$m" || die "can't load ${m#/modules/}"
done
$bb mkdir /mnt/host /mnt/rw /mnt/root
$bb mount -t 9p -o trans=virtio,version=9p2000.L,cache=loose,msize=512000,ro root /mnt/host || die "can't mount the host's root"
$bb mount -t tmpfs -o mode=755 rw /mnt/rw || die "no tmpfs"
$bb mkdir /mnt/rw/upper /mnt/rw/work
$bb mount -t overlay -o lowerdir=/mnt/host,upperdir=/mnt/rw/upper,workdir=/mnt/rw/work root /mnt/root || die "no overlay"
for d in proc sys dev run tmp; do
    $bb mkdir -p /mnt/root/$d
done
$bb mount -t tmpfs -o mode=755 run /mnt/root/run
$bb mkdir /mnt/root/run/guest
$bb mount -t 9p -o trans=virtio,version=9p2000.L,cache=none,msize=512000 job /mnt/root/run/guest || die "can't mount the job"
inside=$($bb cat /mnt/root/run/guest/inside)
$bb umount /sys
$bb umount /proc
exec $bb switch_root /mnt/root /bin/bash "$inside"
