# Two providers and a LAN for gateway $n of two; the other one is $o. A namespace `internet` has the providers' routers, and
# the lines of this machine in it; a namespace `host` is a host of the LAN.
set -e
# The system may have said that it has started before it has found its cards.
udevadm settle --timeout 60 --exit-if-exists /sys/class/net/eth0
udevadm settle --timeout 60 --exit-if-exists /sys/class/net/eth1
first=$(((n - 1) * 16)) other=$(((o - 1) * 16))
ip netns add internet
ip netns add host
for name in internet host; do ip -n $name link set lo up; done
ip netns exec internet sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
    net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
for line in "0 198.51.100 2001:db8:100" "1 203.0.113 2001:db8:200"; do
    read -r i v4 v6 <<<"$line"
    ip link set eth$i netns internet
    ip link add wan$i type veth peer name site$i netns internet
    ip address add $v4.$((first + 2))/28 dev wan$i
    ip address add $v6:$n::2/64 dev wan$i nodad
    ip link set wan$i up
    ip -n internet address add $v4.$((first + 1))/28 dev site$i
    ip -n internet address add $v6:$n::1/64 dev site$i nodad
    ip -n internet link set site$i up
    ip -n internet address add 192.0.2.$((n + i * 16))/28 dev eth$i
    ip -n internet address add 2001:db8:0:$i::$n/64 dev eth$i nodad
    ip -n internet link set eth$i up
    ip -n internet route add $v4.$other/28 via 192.0.2.$((o + i * 16))
    ip -n internet route add $v6:$o::/64 via 2001:db8:0:$i::$o
    ip route add default via $v4.$((first + 1)) metric $((100 + 100 * i))
    ip route add default via $v6:$n::1 metric $((100 + 100 * i))
done
ip link add lan0 type veth peer name eth0 netns host
ip address add 10.$n.0.1/24 dev lan0
ip link set lan0 up
ip -n host address add 10.$n.0.2/24 dev eth0
ip -n host link set eth0 up
ip -n host route add default via 10.$n.0.1
