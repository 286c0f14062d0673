#!/bin/bash
# Records what ipvsadm and the kernel's IPVS say to each other, as the fixtures beside this file.
#
#   cargo xtask vm --kernel 6.1 -- ipvs/tests/captured/record.sh > ipvs/tests/captured/linux-6.1.txt
#
# Output: `$` command line, `>` request, `<` reply, both in hex from the generic netlink header on; `!` is an error reply.
# Acknowledgements and ends of dumps are left out.
# Needs root, ipvsadm 1.31, strace and a kernel with IPVS. Everything happens in a network namespace of its own.
set -u
if [ "${1:-}" != inside ]; then
    echo "# $(ipvsadm --version | head -n1 | cut -d'(' -f1)on Linux $(uname -r), $(strace -V | head -n1)"
    exec unshare --net "$0" inside
fi
trace=$(mktemp)
trap 'rm -f "$trace"' EXIT

run() {
    echo "\$ $*"
    strace -o "$trace" -e trace=sendmsg,recvmsg -xx -s 1000000 "$@" > /dev/null
    # One line a system call; a message is {header}, "payload". Peeking reads the same message twice.
    grep -v MSG_PEEK "$trace" | while IFS= read -r line; do
        case $line in
            *error=-*) sed -e 's/.*error=-\([A-Z]*\).*/! \1/' <<< "$line"; continue ;;
            sendmsg*) arrow='>' ;;
            recvmsg*) arrow='<' ;;
            *) continue ;;
        esac
        grep -o 'nlmsg_type=IPVS,[^"]*"[^"]*"' <<< "$line" | sed -e 's/^[^"]*"//; s/"$//; s/\\x//g' -e "s/^/$arrow /"
    done
}

ip link set lo up
ip addr add 10.0.0.1/32 dev lo
ip link add sync0 type dummy
ip link set sync0 up
modprobe ip_vs
run ipvsadm --start-daemon master --mcast-interface sync0 --syncid 7
run ipvsadm --start-daemon backup --mcast-interface sync0 --syncid 9 --sync-maxlen 1400 --mcast-group 224.0.1.1 --mcast-port 9999 --mcast-ttl 3
run ipvsadm -L --daemon
run ipvsadm --stop-daemon master
run ipvsadm --stop-daemon backup
run ipvsadm --start-daemon master --mcast-interface sync0 --syncid 8 --mcast-group ff02::5 --mcast-port 9998
run ipvsadm -L --daemon
run ipvsadm --stop-daemon master
run ipvsadm --set 1000 130 310
run ipvsadm --set 0 140 0
run ipvsadm -L --timeout

for scheduler in rr wrr lc wlc lblc lblcr dh sh sed nq fo ovf mh twos; do
    run ipvsadm -A -t 10.0.1.1:80 -s $scheduler
    ipvsadm -C
done
run ipvsadm -A -t 10.0.0.1:80 -s rr
run ipvsadm -A -t 10.0.0.1:80 -s rr
run ipvsadm -A -u 10.0.0.1:53 -s rr --ops
run ipvsadm -A --sctp-service 10.0.0.1:90 -s wlc
run ipvsadm -A -t 10.0.0.2:80 -s sh -b sh-fallback,sh-port
run ipvsadm -A -t '[2001:db8::1]:443' -s mh -b mh-port
run ipvsadm -A -t 10.0.0.2:0 -s rr -p 360
run ipvsadm -A -t 10.0.0.3:80 -s wrr -p 10800 -M 255.255.0.0
run ipvsadm -A -t '[2001:db8::3]:80' -s wrr -p 600 -M 64
run ipvsadm -A -u 10.0.0.5:5060 -s rr -p 60 --pe sip
run ipvsadm -A -f 7 -s lc
run ipvsadm -A -f 7 -6 -s nq -p 100
run ipvsadm -E -t 10.0.0.1:80 -s wlc -p 50
run ipvsadm -E -t 10.0.0.9:80 -s wlc

run ipvsadm -a -t 10.0.0.1:80 -r 10.1.0.1:8080 -m -w 3 -x 100 -y 50
run ipvsadm -a -t 10.0.0.1:80 -r 10.1.0.1:8080 -m
run ipvsadm -a -t 10.0.0.1:80 -r 10.1.0.2 -g
run ipvsadm -a -t 10.0.0.1:80 -r 10.1.0.3 -i -w 0
run ipvsadm -a -t 10.0.0.1:80 -r 10.1.0.4 -i --tun-type gue --tun-port 6080 --tun-csum
run ipvsadm -a -t 10.0.0.1:80 -r 10.1.0.5 -i --tun-type gue --tun-port 6081 --tun-remcsum
run ipvsadm -a -t 10.0.0.1:80 -r 10.1.0.6 -i --tun-type gre --tun-nocsum
run ipvsadm -a -t 10.0.0.1:80 -r '[2001:db8:1::7]:80' -i
run ipvsadm -a -u 10.0.0.1:53 -r 10.0.0.1:5353 -m
run ipvsadm -a -t '[2001:db8::1]:443' -r '[2001:db8:1::1]:8443' -m
run ipvsadm -a -f 7 -r 10.1.0.1 -g -w 65535
run ipvsadm -a -f 7 -6 -r '[2001:db8:1::1]:0' -g
run ipvsadm -e -t 10.0.0.1:80 -r 10.1.0.1:8080 -m -w 0
run ipvsadm -e -t 10.0.0.1:80 -r 10.1.0.99:8080 -m -w 0
# Traffic, so that counters are not all 0: one-packet scheduling to a port of this namespace where nobody listens.
for i in 1 2 3; do echo hello > /dev/udp/10.0.0.1/53; done
# The kernel sums up its counters every two seconds.
sleep 5
run ipvsadm -L -n --stats --exact
run ipvsadm -L -n -t 10.0.0.1:80
run ipvsadm -L -n -f 7 -6
run ipvsadm -d -t 10.0.0.1:80 -r 10.1.0.2
run ipvsadm -d -t 10.0.0.1:80 -r '[2001:db8:1::7]:80'
run ipvsadm -d -t 10.0.0.1:80 -r 10.1.0.2
run ipvsadm -Z -t 10.0.0.1:80
run ipvsadm -Z
run ipvsadm -D -f 7 -6
run ipvsadm -D -t 10.0.0.9:80
run ipvsadm -C
