#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# The guest's first process: makes the shared root the root, runs /command there.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in /modules/*; do
	case $module in
	*.xz) xz -dc "$module" >/module.ko ;;
	*) cp "$module" /module.ko ;;
	esac
	insmod /module.ko
done
root=/upper/root
mount -t virtiofs -o ro host /host &&
	mount -t tmpfs -o size=80% tmpfs /upper &&
	mkdir -p /upper/new /upper/work $root &&
	mount -t overlay -o lowerdir=/host,upperdir=/upper/new,workdir=/upper/work overlay $root || poweroff -f

mount -t proc proc $root/proc
mount -t sysfs sysfs $root/sys
mount -t devtmpfs dev $root/dev
mkdir -p $root/dev/shm $root/dev/pts
mount -t devpts devpts $root/dev/pts
for dir in dev/shm run; do mount -t tmpfs -o mode=755 tmpfs $root/$dir; done
mount -t bpf bpf $root/sys/fs/bpf
mount -t cgroup2 cgroup2 $root/sys/fs/cgroup
ip link set lo up
mkdir -p $root/lib/modules
cp /command $root/run/command

# chroot without a fork: what the kernel runs, as modprobe, has the same root.
stty -F /dev/ttyS1 raw
exec chroot $root /bin/sh -c '
	exec >/dev/ttyS1 2>&1 </dev/null
	/bin/sh /run/command
	stty -F /dev/ttyS1 raw # waits until all is sent
	exec /bin/busybox poweroff -f'
