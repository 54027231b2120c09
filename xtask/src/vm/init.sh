#!/bin/sh
# First process of the virtual machine: prepares what a booted system has, runs one command, hands its exit status to
# the second serial line, and ends the machine.
export PATH=/sdwan:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root LANG=C.UTF-8 SDWAN_VM=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=0755 tmpfs /run
# The test programs are where they were built, which may be below /tmp.
[ "$(ls -A /tmp)" ] || mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tracefs tracefs /sys/kernel/tracing
mkdir -p /run/lock /run/netns
# Gives /dev/net/tun, for which a booted system has a daemon.
modprobe tun
# The host reads plain lines.
stty -F /dev/ttyS0 -onlcr -echo
stty -F /dev/ttyS2 -onlcr -echo
ip link set lo up
cd /
sh /command </dev/null >/dev/ttyS0 2>&1
status=$?
# stty waits until what the command wrote last is out.
stty -F /dev/ttyS0 -echo
echo "$status" >/dev/ttyS1
# The host ends the machine now. Should it be gone, the machine ends itself.
sleep 10
echo b >/proc/sysrq-trigger
sleep 60
