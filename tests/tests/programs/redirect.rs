//! What a test-run can't show: that packets arrive at the other side of a redirect. A veth pair and a TUN in a network
//! namespace of the test's own thread, which goes with it.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use aya::programs::SchedClassifier;
use aya::programs::tc::{TcAttachType, qdisc_add_clsact};
use etherparse::TcpOptionElement::MaximumSegmentSize;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use sdwan_common::abi::*;
use sdwan_common::counters::PassReason;
use sdwan_common::stamp::{Extension, PORT, ReflectorPacket, direct};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::lan::sum_stats;
use crate::load::{Programs, privileged};
use crate::mesh::*;
use crate::packets::{Spec, Transport, address, checksums_right, sum};
use crate::tunnel::question;

pub const LAN: &str = "sdwtlan";
pub const HOST: &str = "sdwthost";
const TUNNEL: &str = "sdwttun";
/// MAC addresses of the gateway's LAN interface and of the host behind it. The host is only our packet socket: its
/// interface has another address, lest the kernel take its packets and forward them once more.
pub const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xaa];
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xbb];
pub const PATIENCE: Duration = Duration::from_secs(3);
/// How long nothing must come for "nothing comes".
const SILENCE: Duration = Duration::from_millis(300);

/// A gateway with a host on its LAN and the far end of its tunnel in our hands.
pub struct Bed {
    pub programs: Programs,
    pub host: Socket,
    pub tunnel: File,
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn set(path: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// A socket that sends and receives whole frames at an interface.
pub fn packet_socket(interface: &str) -> Socket {
    let everything = (libc::ETH_P_ALL as u16).to_be();
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(everything)))).expect("a socket");
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage is large enough for every kind of address.
    let address = unsafe {
        let link = storage.view_as::<libc::sockaddr_ll>();
        link.sll_family = libc::AF_PACKET as u16;
        link.sll_protocol = everything;
        link.sll_ifindex = if_nametoindex(interface).expect(interface) as i32;
        SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    };
    socket.bind(&address).expect("bind");
    socket.set_nonblocking(true).expect("nonblocking");
    socket
}

impl Bed {
    pub fn new() -> Self {
        Self::with_tunnel(sdwan_tests::tun::open)
    }

    /// On a TUN device that is made so.
    pub fn with_tunnel(open: impl FnOnce(&str) -> std::io::Result<File>) -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        ip(&format!("link add {LAN} address 02:00:00:00:00:aa type veth peer name {HOST}"));
        let tunnel = open(TUNNEL).expect("a TUN device");
        for name in ["lo", LAN, HOST, TUNNEL] {
            ip(&format!("link set {name} up"));
        }
        for (address, device) in [("10.1.0.1/16", LAN), ("10.255.0.1/32", TUNNEL)] {
            ip(&format!("address add {address} dev {device}"));
        }
        for (address, device) in [("fd01::1/64", LAN), ("fd0f::1/128", TUNNEL)] {
            ip(&format!("address add {address} dev {device} nodad"));
        }
        for neighbour in ["10.1.0.5", "fd01::5"] {
            ip(&format!("neigh add {neighbour} lladdr 02:00:00:00:00:bb dev {LAN} nud permanent"));
        }
        set("ipv4/ip_forward", "1");
        set("ipv6/conf/all/forwarding", "1");
        for device in ["all", LAN, TUNNEL] {
            set(&format!("ipv4/conf/{device}/rp_filter"), "0");
        }
        // The kernel's own routes to the other site.
        for prefix in ["10.2.0.0/16", "fd02::/32"] {
            ip(&format!("route add {prefix} dev {TUNNEL}"));
        }
        // The way of marked packets through the stack.
        for family in ["-4", "-6"] {
            ip(&format!("{family} rule add fwmark {FIBRE_MARK} table 100"));
            ip(&format!("{family} route add default dev {TUNNEL} mtu lock {FIBRE_MTU} table 100"));
        }
        let mut programs = mesh_behind(0);
        let index = |name| if_nametoindex(name).expect(name);
        programs.change("paths", FIBRE, |path: &mut Path| path.ifindex = index(TUNNEL));
        let zone = ZoneKey { ifindex: index(LAN), vlan: 0 };
        programs.hash("zones").insert(zone, Zone { zone: 0 }, 0).expect("zones");
        let key = TunnelPathKey { ifindex: index(TUNNEL), site: SITE };
        programs.hash("tunnel_paths").insert(key, FIBRE, 0).expect("tunnel_paths");
        for device in [LAN, TUNNEL] {
            // Needed by kernels without tcx only, and harmless elsewhere.
            qdisc_add_clsact(device).expect("clsact");
        }
        for (program, device, way) in [
            ("lan_ingress", LAN, TcAttachType::Ingress),
            ("tunnel_ingress", TUNNEL, TcAttachType::Ingress),
            ("tunnel_egress", TUNNEL, TcAttachType::Egress),
        ] {
            let program: &mut SchedClassifier =
                programs.ebpf().program_mut(program).expect(program).try_into().expect(program);
            program.attach(device, way).expect(device);
        }
        Self { programs, host: packet_socket(HOST), tunnel }
    }

    /// The host sends a packet to the gateway.
    fn send_from_host(&self, spec: &Spec) {
        self.host.send(&spec.clone().with(|spec| spec.mac = LAN_MAC).frame()).expect("send");
    }

    /// The other site sends a packet through the tunnel.
    pub fn send_from_tunnel(&mut self, spec: &Spec) {
        self.tunnel.write_all(&spec.packet()).expect("write");
    }

    /// The first packet out of the tunnel that the filter takes. The kernel's own IPv6 chatter is there as well.
    pub fn at_tunnel(&mut self, patience: Duration, filter: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let tunnel = &mut self.tunnel;
        wait(patience, |buffer| tunnel.read(buffer), filter)
    }

    /// The first frame at the host that the filter takes.
    pub fn at_host(&self, patience: Duration, filter: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        wait(patience, |buffer| (&self.host).read(buffer), filter)
    }

    fn expect_at_tunnel(&mut self, description: &str, expected: &[u8]) {
        assert!(self.at_tunnel(PATIENCE, |packet| packet == expected).is_some(), "{description}: not at the tunnel");
    }
}

pub fn wait(
    patience: Duration,
    mut read: impl FnMut(&mut [u8]) -> std::io::Result<usize>,
    filter: impl Fn(&[u8]) -> bool,
) -> Option<Vec<u8>> {
    let deadline = Instant::now() + patience;
    let mut buffer = [0; 1 << 16];
    while Instant::now() < deadline {
        match read(&mut buffer) {
            Ok(length) if filter(&buffer[..length]) => return Some(buffer[..length].to_vec()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("read: {error}"),
        }
    }
    None
}

/// A frame from the host to the gateway: this address is mine (RFC 4861).
fn advertisement(of: &str, to: &str) -> Vec<u8> {
    let mut message = [&[136, 0, 0, 0, 0x60, 0, 0, 0][..], &address(of), &[2, 1], &HOST_MAC].concat();
    let pseudo = [&address(of)[..], &address(to), &[0, 0, 0, message.len() as u8, 0, 0, 0, 58]].concat();
    let sum = !sum(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let spec = Spec::between(of, to, Transport::Raw(58)).with(|spec| {
        (spec.mac, spec.ttl, spec.payload) = (LAN_MAC, 255, message);
    });
    spec.frame()
}

pub fn hop(spec: &Spec) -> Spec {
    spec.clone().with(|spec| spec.ttl -= 1)
}

fn udp() -> Transport {
    Transport::Udp(40_000, 443)
}

#[test]
fn packets_from_the_lan_come_out_of_the_tunnel_bare_and_one_hop_older() {
    if !privileged("packets_from_the_lan_come_out_of_the_tunnel_bare_and_one_hop_older") {
        return;
    }
    let mut bed = Bed::new();
    let v4 = Spec::v4(udp());
    let v6 = Spec::v6(udp());
    let tagged = |vlans: &[u16], spec: &Spec| spec.clone().with(|spec| spec.vlans = vlans.to_vec());
    for (description, spec) in [
        ("IPv4", v4.clone()),
        ("IPv6", v6.clone()),
        ("ICMP", Spec::v4(Transport::Echo(4))),
        // The kernel takes the first tag off before the program sees the packet.
        ("one VLAN tag", tagged(&[7], &v4)),
        ("two VLAN tags", tagged(&[7, 8], &v4)),
        ("IPv6 with two VLAN tags", tagged(&[7, 8], &v6)),
    ] {
        bed.send_from_host(&spec);
        bed.expect_at_tunnel(description, &hop(&spec).packet());
    }
    let syn = |mss| Spec::v4(Transport::Tcp(40_000, 443, Some(vec![MaximumSegmentSize(mss)])));
    bed.send_from_host(&syn(1460));
    bed.expect_at_tunnel("a SYN", &hop(&syn(FIBRE_MTU - 40)).packet());
    assert_eq!(bed.programs.drops(), 0);
}

#[test]
fn packets_from_the_tunnel_reach_the_host_on_the_lan() {
    if !privileged("packets_from_the_tunnel_reach_the_host_on_the_lan") {
        return;
    }
    let mut bed = Bed::new();
    let forwarded_before = forwarded_by_the_stack();
    for (description, spec) in [
        ("IPv4", Spec::between("10.2.0.9", "10.1.0.5", udp())),
        ("IPv6", Spec::between("fd02::9", "fd01::5", udp())),
        ("TCP", Spec::between("10.2.0.9", "10.1.0.5", Transport::Tcp(443, 40_000, None))),
    ] {
        bed.send_from_tunnel(&spec);
        let ether_type = if spec.source.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
        let expected = [&HOST_MAC[..], &LAN_MAC, &ether_type, &hop(&spec).packet()].concat();
        assert!(bed.at_host(PATIENCE, |frame| frame == expected).is_some(), "{description}: not at the host");
    }
    assert_eq!(forwarded_by_the_stack(), forwarded_before, "the stack has forwarded nothing");

    // A neighbour that is not known yet: the kernel asks, and doesn't lose the packet.
    let unknown = Spec::between("10.2.0.9", "10.1.0.6", udp());
    bed.send_from_tunnel(&unknown);
    let asked = |frame: &[u8]| frame[12..14] == [8, 6] && frame[38..42] == [10, 1, 0, 6];
    assert!(bed.at_host(PATIENCE, asked).is_some(), "no ARP request");
    let answer =
        [&LAN_MAC[..], &HOST_MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &HOST_MAC, &[10, 1, 0, 6], &LAN_MAC, &[10, 1, 0, 1]];
    bed.host.send(&answer.concat()).expect("send");
    let expected = hop(&unknown).packet();
    assert!(bed.at_host(PATIENCE, |frame| frame.ends_with(&expected)).is_some(), "not after the answer");

    // The same of IPv6.
    let unknown = Spec::between("fd02::9", "fd01::6", udp());
    bed.send_from_tunnel(&unknown);
    let asked = |frame: &[u8]| {
        frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54] == 135 && frame[62..78] == address("fd01::6")
    };
    assert!(bed.at_host(PATIENCE, asked).is_some(), "no neighbour solicitation");
    bed.host.send(&advertisement("fd01::6", "fd01::1")).expect("send");
    let expected = hop(&unknown).packet();
    assert!(bed.at_host(PATIENCE, |frame| frame.ends_with(&expected)).is_some(), "not after the answer");

    // Not for the LAN: an address of the gateway, and one that the kernel routes elsewhere.
    let own = Spec::between("10.2.0.9", "10.1.0.1", udp());
    // The neighbour's answer was one, too.
    let before = bed.programs.passes(PassReason::LocalDestination);
    bed.send_from_tunnel(&own);
    let refused = |packet: &[u8]| packet[0] >> 4 == 4 && packet[9] == 1 && packet[20..22] == [3, 3];
    assert!(bed.at_tunnel(PATIENCE, refused).is_some(), "the gateway itself answers: port unreachable");
    assert_eq!(bed.programs.passes(PassReason::LocalDestination), before + 1);
    ip(&format!("route add 10.1.200.0/24 dev {TUNNEL}"));
    bed.send_from_tunnel(&Spec::between("10.2.0.9", "10.1.200.1", udp()));
    assert!(bed.at_host(SILENCE, |frame| frame.ends_with(&[0x5a; 64])).is_none());
    assert_eq!(bed.programs.passes(PassReason::NotLan), 1);
    assert_eq!(bed.programs.drops(), 0);
}

#[test]
fn a_packet_larger_than_the_lan_interface_is_left_to_the_stack() {
    if !privileged("a_packet_larger_than_the_lan_interface_is_left_to_the_stack") {
        return;
    }
    let mut bed = Bed::new();
    ip(&format!("link set {LAN} mtu 1300"));
    bed.send_from_tunnel(&Spec::between("10.2.0.9", "10.1.0.5", udp()).with(|spec| spec.payload = vec![1; 1_300]));
    let too_big = |packet: &[u8]| packet[0] >> 4 == 4 && packet[9] == 1 && packet[20..22] == [3, 4];
    let answer = bed.at_tunnel(PATIENCE, too_big).expect("fragmentation needed");
    assert_eq!(answer[26..28], 1_300u16.to_be_bytes());
    assert_eq!(bed.programs.passes(PassReason::TooBig), 1);
}

#[test]
fn a_packet_larger_than_the_path_gets_an_icmp_answer_with_the_paths_mtu() {
    if !privileged("a_packet_larger_than_the_path_gets_an_icmp_answer_with_the_paths_mtu") {
        return;
    }
    let mut bed = Bed::new();
    let large = |spec: Spec| spec.with(|spec| spec.payload = vec![1; 1_440]);
    bed.send_from_host(&large(Spec::v4(udp())));
    let needed = |frame: &[u8]| frame[12..14] == [8, 0] && frame[23] == 1 && frame[34..36] == [3, 4];
    let answer = bed.at_host(PATIENCE, needed).expect("fragmentation needed");
    assert_eq!(answer[40..42], FIBRE_MTU.to_be_bytes());

    bed.send_from_host(&large(Spec::v6(udp())));
    let too_big = |frame: &[u8]| frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54..56] == [2, 0];
    let answer = bed.at_host(PATIENCE, too_big).expect("packet too big");
    assert_eq!(answer[58..62], u32::from(FIBRE_MTU).to_be_bytes());

    // Without DF the stack fragments, and the fragments go into the same tunnel by their mark.
    bed.send_from_host(&large(Spec::v4(udp())).with(|spec| spec.df = false));
    let first = |packet: &[u8]| packet[0] >> 4 == 4 && packet[6] & 0x20 != 0;
    assert!(bed.at_tunnel(PATIENCE, first).is_some(), "no fragment at the tunnel");
    assert_eq!(bed.programs.passes(PassReason::TooBig), 3);
}

#[test]
fn without_the_fast_path_the_mark_leads_through_the_stack_into_the_tunnel() {
    if !privileged("without_the_fast_path_the_mark_leads_through_the_stack_into_the_tunnel") {
        return;
    }
    let mut bed = Bed::new();
    bed.programs.change("config", 0, |config: &mut Config| config.fast_path = fast_path::OFF);
    for spec in [Spec::v4(udp()), Spec::v6(udp())] {
        bed.send_from_host(&spec);
        bed.expect_at_tunnel("marked", &hop(&spec).packet());
    }
    let back = Spec::between("10.2.0.9", "10.1.0.5", udp());
    bed.send_from_tunnel(&back);
    let expected = hop(&back).packet();
    assert!(bed.at_host(PATIENCE, |frame| frame.ends_with(&expected)).is_some());
}

#[test]
fn the_reflector_answers_through_the_tunnel() {
    if !privileged("the_reflector_answers_through_the_tunnel") {
        return;
    }
    let mut bed = Bed::new();
    for (theirs, ours) in [("10.255.0.2", "10.255.0.1"), ("fd0f::2", "fd0f::1")] {
        bed.programs.change("config", 0, |config: &mut Config| config.overlay = address(ours));
        let probe = Spec::between(theirs, ours, Transport::Udp(50_000, PORT)).with(|spec| {
            spec.payload =
                sdwan_common::stamp::encode_probe(&question(), Extension { flags: 1, ..Extension::default() }).to_vec()
        });
        bed.send_from_tunnel(&probe);
        let length = probe.packet().len();
        let answer = bed.at_tunnel(PATIENCE, |packet| packet.len() == length).expect("an answer");
        assert!(checksums_right(&answer));
        let payload = &answer[if probe.source.is_ipv4() { 28 } else { 48 }..];
        let answer = ReflectorPacket::decode(payload).expect("whole");
        assert_eq!((answer.sender_sequence, answer.sender_ttl), (question().sequence, 64));
    }
    assert_eq!(bed.programs.get::<PathLive>("path_live", FIBRE).reflected, 2);
    assert_eq!(sum_stats(&mut bed.programs, FIBRE).sent_packets, 0, "answers are no data");
}

#[test]
fn each_packet_that_enters_a_tunnel_counts_once_whichever_way_it_came() {
    if !privileged("each_packet_that_enters_a_tunnel_counts_once_whichever_way_it_came") {
        return;
    }
    let mut bed = Bed::new();
    let v4 = Spec::v4(udp());
    let option = v4.clone().with(|spec| spec.options = vec![1; 4]);
    let large = v4.clone().with(|spec| (spec.df, spec.payload) = (false, vec![1; 1_440]));
    // By the fast path; by the stack, untouched; by the stack, in two fragments.
    let cases =
        [("IPv4", v4.clone(), 1), ("IPv6", Spec::v6(udp()), 1), ("options", option, 1), ("two fragments", large, 2)];
    for (description, spec, packets) in cases {
        let before = sum_stats(&mut bed.programs, FIBRE);
        bed.send_from_host(&spec);
        let mut bytes = 0;
        for _ in 0..packets {
            let ours = |packet: &[u8]| match packet[0] >> 4 {
                4 => packet[16..20] == [10, 2, 0, 9],
                _ => packet[24..28] == [0xfd, 2, 0, 0],
            };
            bytes += bed.at_tunnel(PATIENCE, ours).unwrap_or_else(|| panic!("{description}: not at the tunnel")).len();
        }
        let after = sum_stats(&mut bed.programs, FIBRE);
        let counted = (after.sent_packets - before.sent_packets, after.sent_bytes - before.sent_bytes);
        assert_eq!(counted, (packets, bytes as u64), "{description}");
    }

    // The gateway's own: counted from its overlay address, and not from one that the other end would refuse.
    let own = |source: &str| {
        let socket = std::net::UdpSocket::bind((source, 0)).expect(source);
        socket.send_to(b"gossip", "10.2.0.9:9").expect("sent");
    };
    let before = sum_stats(&mut bed.programs, FIBRE).sent_packets;
    own("10.255.0.1");
    assert_eq!(sum_stats(&mut bed.programs, FIBRE).sent_packets, before + 1);
    ip(&format!("address add 192.0.2.1/32 dev {TUNNEL}"));
    own("192.0.2.1");
    assert_eq!(sum_stats(&mut bed.programs, FIBRE).sent_packets, before + 1);
}

#[test]
fn a_probe_takes_the_number_of_packets_before_it_along() {
    if !privileged("a_probe_takes_the_number_of_packets_before_it_along") {
        return;
    }
    let mut bed = Bed::new();
    for (own, theirs, spec) in [("10.255.0.1", "10.255.0.2", Spec::v4(udp())), ("fd0f::1", "fd0f::2", Spec::v6(udp()))]
    {
        bed.programs.change("config", 0, |config: &mut Config| config.overlay = address(own));
        ip(&format!("route replace {theirs} dev {TUNNEL}"));
        let before = sum_stats(&mut bed.programs, FIBRE).sent_packets;
        let socket = std::net::UdpSocket::bind((own, 0)).expect(own);
        for round in 1..=3 {
            bed.send_from_host(&spec);
            bed.expect_at_tunnel("data", &hop(&spec).packet());
            let payload =
                sdwan_common::stamp::encode_probe(&question(), Extension { flags: 1, ..Extension::default() });
            socket.send_to(&payload, (theirs, PORT)).expect("sent");
            let length = if spec.source.is_ipv4() { 28 } else { 48 } + payload.len();
            let packet = bed.at_tunnel(PATIENCE, |packet| packet.len() == length).expect("a probe");
            // A TUN without offload gets whole checksums.
            assert!(checksums_right(&packet));
            let sent = &packet[length - payload.len()..][direct::SENT_OFFSET..][..4];
            assert_eq!(sent, (before as u32 + round).to_be_bytes(), "{theirs}, round {round}");
        }
        assert_eq!(sum_stats(&mut bed.programs, FIBRE).sent_packets, before + 3, "probes are no data");
    }
}

/// Packets that the stack forwarded in this namespace, IPv4 and IPv6.
pub fn forwarded_by_the_stack() -> u64 {
    let count = |file: &str, name: &str| -> u64 {
        let text = std::fs::read_to_string(file).expect(file);
        let mut lines = text.lines().filter(|line| line.starts_with(name));
        let first = lines.next().expect(name).to_owned();
        match lines.next() {
            // A line of names and one of values.
            Some(values) => {
                let at = first.split_whitespace().position(|word| word == "ForwDatagrams").expect("the column");
                values.split_whitespace().nth(at).expect("a value").parse().expect("a number")
            }
            None => first.split_whitespace().nth(1).expect("a value").parse().expect("a number"),
        }
    };
    count("/proc/thread-self/net/snmp", "Ip:") + count("/proc/thread-self/net/snmp6", "Ip6OutForwDatagrams")
}
