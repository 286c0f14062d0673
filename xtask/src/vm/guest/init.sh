#!/bin/busybox sh
# First process of the virtual machine, in the initramfs: mounts the machine's own file system read-only over 9p, puts
# a writable layer in memory on top, and hands over to start.sh inside it.
fail() { echo "xtask-vm: $*"; /bin/busybox poweroff -f; }

bb=/bin/busybox
$bb mkdir -p /proc /sys /dev /lower /layer /machine
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs devtmpfs /dev

# The names carry the load order.
for module in /modules/*.ko; do
	$bb insmod "$module" || fail "cannot load $module"
done

$bb mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=1048576,cache=loose machine /lower || fail "no 9p root"
$bb mount -t tmpfs -o mode=755,size=75% tmpfs /layer || fail "no tmpfs"
$bb mkdir /layer/upper /layer/work
$bb mount -t overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work overlay /machine || fail "no overlay"

for special in proc sys dev run tmp; do
	[ -d /machine/$special ] || $bb mkdir /machine/$special
done
$bb mount -t tmpfs -o mode=755 tmpfs /machine/run
$bb mkdir /machine/run/xtask-vm
$bb cp /bin/busybox /job/* /machine/run/xtask-vm/
for special in proc sys dev; do
	$bb mount --move /$special /machine/$special
done
exec $bb switch_root /machine /run/xtask-vm/busybox sh /run/xtask-vm/start.sh
