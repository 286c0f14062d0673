# First process after the switch to the machine's file system: finishes the set-up, runs /run/xtask-vm/command.sh and
# reports its exit status on the control port. Output travels over two virtio ports, apart from the kernel's console.
vm=/run/xtask-vm
bb=$vm/busybox

for port in /sys/class/virtio-ports/*; do
	read -r name <"$port/name"
	$bb ln -s "/dev/${port##*/}" "$vm/port-$name"
done
exec 9>$vm/port-control

$bb mkdir -p /dev/pts /dev/shm /dev/mqueue /run/lock /run/netns
$bb mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
$bb mount -t tmpfs -o mode=1777 tmpfs /dev/shm
$bb mount -t mqueue mqueue /dev/mqueue
$bb mount -t cgroup2 cgroup2 /sys/fs/cgroup
$bb mount -t bpf bpf /sys/fs/bpf 2>/dev/null
$bb ln -sf /proc/self/fd /dev/fd
$bb ln -sf /proc/self/fd/0 /dev/stdin
$bb ln -sf /proc/self/fd/1 /dev/stdout
$bb ln -sf /proc/self/fd/2 /dev/stderr
$bb ip link set lo up
$bb hostname kube-ipvs-vm

# modprobe looks in /lib/modules/<release>; the unpacked package lies elsewhere on the same file system.
read -r modules <$vm/modules
$bb mkdir -p /lib/modules
$bb ln -sfn "$modules" "/lib/modules/$($bb uname -r)"
# Shared folders are mounted at the path they have outside: a line is a 9p tag and a path.
while read -r tag path; do
	$bb mkdir -p "$path"
	$bb mount -t 9p -o trans=virtio,version=9p2000.L,msize=1048576,cache=none "$tag" "$path" || echo "no share $path"
done <$vm/shares

# Pipes in between: a virtio port can be opened once only, and a command may open /dev/stdout again.
$bb mkfifo $vm/stdout $vm/stderr
$bb cat <$vm/stdout >$vm/port-stdout &
out=$!
$bb cat <$vm/stderr >$vm/port-stderr &
err=$!

echo started >&9
# The machine's own shell: busybox's prefers its own commands, such as ip, to those on the path.
$bb setsid /bin/sh $vm/command.sh </dev/null >$vm/stdout 2>$vm/stderr 9>&- &
command=$!
wait $command
status=$?

# A process left in the background may hold the pipes open for ever; what was written before gets two seconds.
(
	$bb sleep 2
	kill $out $err
) 2>/dev/null &
wait $out $err 2>/dev/null
echo "exit $status" >&9
$bb poweroff -f
