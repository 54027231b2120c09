#!/bin/sh
# Finds the disk, and leaves the rest to the system on it.
export PATH=/usr/sbin:/usr/bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
while read -r module; do insmod "$module"; done </modules
mount -o rw /dev/vda /new
umount /proc
mount --move /dev /new/dev
exec switch_root /new /sbin/init
