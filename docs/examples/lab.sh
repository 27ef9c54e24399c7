#!/bin/sh
# A small network on one box, to try xlb in: a client, a balancer with two NICs, three backends.
#
#   client 10.1.0.1 -- front [balancer] back -- switch -- b1 10.2.0.11, b2 10.2.0.12, b3 10.2.0.13
#
# Every backend has the virtual address 203.0.113.10 on its loopback and answers the client
# directly. Needs root, iproute2, ethtool and python3. Nothing outside of the namespaces is touched.
#
#   lab.sh up | down | enter NAME COMMAND...
set -eu

hosts="b1 b2 b3"
vip=203.0.113.10
run=/run/xlb-lab

pins=/sys/fs/bpf/xlb-lab
patience=10 # seconds

say() { echo "lab: $*"; }

fail() { # STATUS WORDS...
    status=$1
    shift
    say "$@" >&2
    exit "$status"
}

in_ns() { # NAME COMMAND...: unlike `ip netns exec`, keeps the host's /sys/fs/bpf
    name=$1
    shift
    nsenter --net="/run/netns/xlb-$name" "$@"
}

make() { # NAME: a namespace where answers may take another way than questions
    ip netns add "xlb-$1"
    ip -n "xlb-$1" link set lo up
    in_ns "$1" sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
}

wire() { # NAME DEVICE NAME DEVICE: a veth pair that XDP may send into
    ip -n "xlb-$1" link add "$2" type veth peer name "$4" netns "xlb-$3"
    # Before either end is up: a veth tells only then whether XDP may redirect to it.
    settle "$1" "$2"
    settle "$3" "$4"
    ip -n "xlb-$1" link set "$2" up
    ip -n "xlb-$3" link set "$4" up
}

settle() { # NAME DEVICE: whole checksums, single segments, and a receiver for redirected frames
    in_ns "$1" ethtool -K "$2" tx off tso off gso off gro on >/dev/null
}

serves() { # NAME: whether something listens on its port 80
    [ -n "$(in_ns "$1" ss -Hltn 'sport = :80')" ]
}

up() {
    for name in client balancer switch $hosts; do
        [ ! -e "/run/netns/xlb-$name" ] || fail 1 "the lab is up already: lab down"
    done
    mkdir -p $run
    make client
    make balancer
    make switch
    ip -n xlb-switch link add br0 type bridge
    ip -n xlb-switch link set br0 up
    wire client eth0 balancer front
    wire balancer back switch balancer
    ip -n xlb-switch link set balancer master br0
    ip -n xlb-client addr add 10.1.0.1/24 dev eth0
    ip -n xlb-balancer addr add 10.1.0.2/24 dev front
    ip -n xlb-balancer addr add 10.2.0.2/24 dev back
    ip -n xlb-client route add default via 10.1.0.2
    in_ns balancer sysctl -qw net.ipv4.ip_forward=1
    last=11
    for host in $hosts; do
        make $host
        in_ns $host sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
        wire $host eth0 switch $host
        ip -n xlb-switch link set $host master br0
        ip -n "xlb-$host" addr add 10.2.0.$last/24 dev eth0
        ip -n "xlb-$host" addr add $vip/32 dev lo
        ip -n "xlb-$host" route add default via 10.2.0.2
        last=$((last + 1))
        mkdir -p $run/$host
        echo "$host" >$run/$host/index.html
        in_ns $host python3 -m http.server --directory $run/$host 80 >/dev/null 2>&1 &
    done
    for host in $hosts; do
        tries=$((patience * 10))
        until serves $host; do
            tries=$((tries - 1))
            [ $tries -gt 0 ] || fail 1 "the web server of $host didn't start within $patience s"
            sleep 0.1
        done
    done
    say "up: namespaces xlb-client, xlb-balancer, xlb-b1, xlb-b2, xlb-b3"
}

down() {
    for name in client balancer switch $hosts; do
        [ -e "/run/netns/xlb-$name" ] || continue
        # Whatever was started in there ends, too; a running agent detaches.
        ip netns pids "xlb-$name" | xargs -r kill
        while [ -n "$(ip netns pids "xlb-$name")" ]; do sleep 0.1; done
        ip netns del "xlb-$name"
    done
    # A killed agent leaves its pins.
    rm -rf $run $pins
    say "down"
}

[ "$(id -u)" = 0 ] || fail 1 "network namespaces need root: run this as root"

case "${1:-}" in
up) up ;;
down) down ;;
enter)
    [ $# -ge 3 ] || fail 2 "usage: $0 enter NAME COMMAND..., such as: enter client curl http://$vip/"
    [ -e "/run/netns/xlb-$2" ] || fail 1 "no namespace xlb-$2: is the lab up? (lab up)"
    name=$2
    shift 2
    # So that the caller's job is the command itself.
    exec nsenter --net="/run/netns/xlb-$name" "$@"
    ;;
*)
    echo "usage: $0 up | down | enter NAME COMMAND..." >&2
    exit 2
    ;;
esac
