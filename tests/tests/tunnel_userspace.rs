//! Tunnels by the carried userspace WireGuard, on real packets between two sites. Needs root.

mod net_bed;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use net_bed::{Namespace, bound_socket, child_program, eventually, ip, ip_of, spec, tunnel};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getsid};
use sdwan::engine::types::{SiteId, TunnelKey};
use sdwan::net::monitor::Monitor;
use sdwan::net::routing::{PathRoute, RemoteRoutes, RoutingReconciler, RoutingRequest, desired_routing};
use sdwan::net::sysctl::{Sysctl, needed_settings};
use sdwan::net::{Network, marks};
use sdwan::tunnel::{
    Backend, DesiredTunnels, PeerDesired, TunnelDesired, TunnelReconciler, TunnelReport, TunnelTask, UserspaceBackend,
};
use tokio::sync::watch;

const PORT: u16 = 51820;

/// A site of the bed: keys, overlay and the addresses of its two uplinks.
struct Site {
    namespace: Namespace,
    number: u8,
    private_key: [u8; 32],
    public_key: [u8; 32],
}

/// Two sites with two uplinks each, and the provider between them, which joins every uplink with every other.
struct Bed {
    sites: [Site; 2],
    _provider: Namespace,
}

/// Something bad that happens to the interface of this name.
type Interruption = fn(&str);

#[derive(Clone, Copy, PartialEq)]
enum Underlay {
    Ipv4,
    Ipv6,
}

impl Underlay {
    fn address(self, site: u8, uplink: u8) -> IpAddr {
        match self {
            Self::Ipv4 => ip_of(&format!("10.{site}.{uplink}.2")),
            Self::Ipv6 => ip_of(&format!("fd00:{site}:{uplink}::2")),
        }
    }
}

impl Site {
    fn overlay(&self, ipv6: bool) -> IpAddr {
        if ipv6 { ip_of(&format!("fdaa::{}", self.number)) } else { ip_of(&format!("100.64.0.{}", self.number)) }
    }

    fn lan(&self) -> Vec<ipnet::IpNet> {
        let number = self.number;
        [format!("172.16.{number}.0/24"), format!("fdbb:{number}::/64")]
            .map(|text| text.parse().expect("a prefix"))
            .into()
    }

    fn as_peer(&self, endpoint: Option<SocketAddr>) -> PeerDesired {
        let mut allowed_ips = self.lan();
        allowed_ips.extend([false, true].map(|ipv6| ipnet::IpNet::from(self.overlay(ipv6))));
        PeerDesired { site: SiteId([self.number; 16]), endpoint, allowed_ips, keepalive: None }
    }

    /// All four tunnels to the other site.
    fn desired(&self, other: &Self, underlay: Underlay) -> DesiredTunnels {
        let keys = (0..2).flat_map(|local| (0..2).map(move |remote| tunnel(local, remote)));
        let tunnels = keys.map(|key| {
            let remote = underlay.address(other.number, key.remote.get());
            let endpoint = SocketAddr::new(remote, key.remote_port(PORT));
            let wanted = TunnelDesired {
                listen_port: key.listen_port(PORT),
                fwmark: marks::uplink_mark(key.local),
                mtu: 1420,
                peers: [(other.public_key, other.as_peer(Some(endpoint)))].into(),
            };
            (key, wanted)
        });
        DesiredTunnels { private_key: self.private_key, tunnels: tunnels.collect() }
    }

    fn reconciler(&self) -> TunnelReconciler {
        TunnelReconciler::new(Box::new(backend()))
    }

    /// Makes the tunnels so, once.
    fn reconcile(&self, desired: DesiredTunnels) -> TunnelReport {
        let mut reconciler = self.reconciler();
        self.namespace.run(move || reconciler.reconcile(&desired))
    }

    /// Makes rules, routes, overlay address and settings so.
    fn route(&self, other: &Self, tunnels: BTreeMap<TunnelKey, u32>) {
        let (overlays, remote_overlays) =
            ([false, true].map(|v6| self.overlay(v6)), [false, true].map(|v6| other.overlay(v6)));
        let (lan, remote_lan, site) = (self.lan(), other.lan(), SiteId([other.number; 16]));
        self.namespace.block_on(move || async move {
            let network = Network::connect().expect("netlink");
            let snapshot = network.snapshot().await.expect("a snapshot");
            let uplinks = snapshot.local_uplinks(&[spec(0, "up0"), spec(1, "up1")]);
            network.set_overlay_address(Some(overlays[0]), &[]).await.expect("an overlay address");
            network.set_tunnel_addresses(tunnels.values().copied(), Some(overlays[0])).await.expect("addresses");
            // One overlay address is what a site has; the second one tests the other family.
            ip(&format!("address replace {}/128 dev lo nodad", overlays[1]));
            let paths: Vec<_> = tunnels.keys().map(|tunnel| PathRoute { tunnel: *tunnel, mtu: 1420 }).collect();
            let mut desired = sdwan::net::routing::RoutingState::default();
            for (overlay, remote_overlay) in overlays.into_iter().zip(remote_overlays) {
                let remote =
                    RemoteRoutes { site, prefixes: remote_lan.clone(), overlay: remote_overlay, paths: paths.clone() };
                let part = desired_routing(&RoutingRequest {
                    snapshot: &snapshot,
                    uplinks: &uplinks,
                    overlay: Some(overlay),
                    prefixes: &lan,
                    tunnels: &tunnels,
                    remotes: &[remote],
                });
                desired.rules.extend(part.rules);
                desired.routes.extend(part.routes);
            }
            let report = RoutingReconciler::new(network).reconcile(&desired).await.expect("reconciled");
            assert!(report.errors.is_empty() && report.conflicts.is_empty(), "{report:?}");
            let directory = tempfile::tempdir().expect("a directory");
            let names: Vec<_> = tunnels.keys().map(|tunnel| tunnel.interface()).collect();
            let settings = needed_settings(["up0", "up1"], names.iter().map(String::as_str));
            Sysctl::new(directory.path()).apply(&settings).expect("settings");
        });
    }

    /// A socket bound to a tunnel, to the echo of the other site.
    fn ask(&self, other: &Self, by: TunnelKey, ipv6: bool, times: u32) -> u32 {
        let to = SocketAddr::new(other.overlay(ipv6), 7);
        self.namespace.run(move || {
            let socket = bound_socket(Some(&by.interface()), to, Duration::from_millis(500));
            let mut buffer = [0; 2000];
            let mut answers = 0;
            for number in 0..times {
                socket.send(&number.to_be_bytes()).expect("sent");
                // An answer to a former question counts for nobody: they are numbered.
                while let Ok(length) = socket.recv(&mut buffer) {
                    if buffer[..length] == number.to_be_bytes() {
                        answers += 1;
                        break;
                    }
                }
            }
            answers
        })
    }

    /// Answers what comes out of the tunnels, by the tunnel it came out of, until the namespace is gone.
    fn echo(&self) {
        for key in (0..2).flat_map(|local| (0..2).map(move |remote| tunnel(local, remote))) {
            for address in ["0.0.0.0:7", "[::]:7"] {
                let address: SocketAddr = address.parse().expect("an address");
                let socket: UdpSocket = self.namespace.run(move || {
                    let domain = socket2::Domain::for_address(address);
                    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None).expect("a socket");
                    if address.is_ipv6() {
                        socket.set_only_v6(true).expect("IPv6 alone");
                    }
                    socket.bind_device(Some(key.interface().as_bytes())).expect("bound to the tunnel");
                    socket.bind(&address.into()).expect("bound");
                    // So that the thread ends with the test.
                    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
                    socket.into()
                });
                std::thread::spawn(move || {
                    let mut buffer = [0; 2000];
                    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                        // The tunnel may be gone for a moment.
                        let _ = socket.send_to(&buffer[..length], from);
                    }
                });
            }
        }
    }
}

impl Bed {
    fn new() -> Self {
        let provider = Namespace::new();
        provider.run(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding");
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("forwarding");
        });
        let sites = [1, 2].map(|number| {
            let private = wireguard_control_key();
            let namespace = Namespace::new();
            for uplink in 0..2 {
                let (name, other) = (format!("up{uplink}"), format!("s{number}u{uplink}"));
                namespace.cable(&name, &provider, &other);
                provider.ip(&format!("address add 10.{number}.{uplink}.1/24 dev {other}"));
                provider.ip(&format!("address add fd00:{number}:{uplink}::1/64 dev {other} nodad"));
                namespace.ip(&format!("address add 10.{number}.{uplink}.2/24 dev {name}"));
                namespace.ip(&format!("address add fd00:{number}:{uplink}::2/64 dev {name} nodad"));
                namespace.ip(&format!("route add default via 10.{number}.{uplink}.1 metric {}", 100 + uplink));
                namespace.ip(&format!("route add default via fd00:{number}:{uplink}::1 metric {}", 100 + uplink));
            }
            Site { namespace, number, private_key: private.0, public_key: private.1 }
        });
        for site in &sites {
            for uplink in 0..2 {
                site.namespace.await_cable(&format!("up{uplink}"));
                provider.await_cable(&format!("s{}u{uplink}", site.number));
            }
        }
        Self { sites, _provider: provider }
    }

    /// Tunnels, routes and echoes on both sites.
    fn with_tunnels(underlay: Underlay) -> Self {
        let bed = Self::new();
        let [one, two] = &bed.sites;
        for (site, other) in [(one, two), (two, one)] {
            let report = site.reconcile(site.desired(other, underlay));
            assert_all_right(&report);
            site.route(other, report.interfaces());
        }
        two.echo();
        bed
    }
}

fn wireguard_control_key() -> ([u8; 32], [u8; 32]) {
    let private: [u8; 32] = rand::random();
    let secret = x25519(private);
    (private, secret)
}

/// The public key of a private one, as `wg pubkey` computes it.
fn x25519(private: [u8; 32]) -> [u8; 32] {
    DesiredTunnels { private_key: private, tunnels: BTreeMap::new() }.public_key()
}

fn backend() -> UserspaceBackend {
    let (program, arguments) = child_program();
    UserspaceBackend::new(program, arguments)
}

#[track_caller]
fn assert_all_right(report: &TunnelReport) {
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    for (tunnel, status) in &report.tunnels {
        assert_eq!(status.error, None, "{tunnel}");
    }
}

fn one_tunnel(private_key: [u8; 32], port: u16) -> DesiredTunnels {
    let wanted = TunnelDesired { listen_port: port, fwmark: 0x5d00_0100, mtu: 1420, peers: BTreeMap::new() };
    DesiredTunnels { private_key, tunnels: [(tunnel(0, 0), wanted)].into() }
}

/// The process that serves a tunnel, as the log of none tells but /proc does.
fn child_of(interface: &str) -> Option<Pid> {
    let mine = std::fs::read_link("/proc/thread-self/ns/net").expect("own namespace");
    std::fs::read_dir("/proc").expect("/proc").flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let arguments: Vec<_> = command.split(|byte| *byte == 0).filter(|part| !part.is_empty()).collect();
        let there = std::fs::read_link(entry.path().join("ns/net")).ok()? == mine;
        (there && arguments.len() > 1 && arguments.last() == Some(&interface.as_bytes())).then(|| Pid::from_raw(pid))
    })
}

fn traffic_goes_by_the_right_uplinks(underlay: Underlay) {
    const QUESTIONS: u32 = 200;
    let bed = Bed::with_tunnels(underlay);
    let [one, two] = &bed.sites;
    for local in 0..2 {
        for remote in 0..2 {
            let by = tunnel(local, remote);
            for ipv6 in [false, true] {
                // The first packet makes the handshake.
                let start = Instant::now();
                assert_eq!(one.ask(two, by, ipv6, 1), 1, "first packet by {by}");
                eprintln!("first answer by {by} after {:?}", start.elapsed());
                let count = || {
                    let sites = [one, two];
                    [0, 1].map(|uplink| sites.map(|site| site.namespace.sent_packets(&format!("up{uplink}"))))
                };
                let before = count();
                assert_eq!(one.ask(two, by, ipv6, QUESTIONS), QUESTIONS, "lost by {by}");
                let after = count();
                let sent =
                    |uplink: u8, site: usize| after[usize::from(uplink)][site] - before[usize::from(uplink)][site];
                // A few of the kernel's own (neighbour discovery) are everywhere.
                assert!(sent(local, 0) >= 200 && sent(1 - local, 0) < 20, "{by}: {before:?} {after:?}");
                assert!(sent(remote, 1) >= 200 && sent(1 - remote, 1) < 20, "{by}: {before:?} {after:?}");
            }
        }
    }
}

#[test]
fn all_four_tunnels_carry_traffic_and_each_by_its_own_uplinks_over_ipv4() {
    traffic_goes_by_the_right_uplinks(Underlay::Ipv4);
}

#[test]
fn all_four_tunnels_carry_traffic_and_each_by_its_own_uplinks_over_ipv6() {
    traffic_goes_by_the_right_uplinks(Underlay::Ipv6);
}

#[test]
fn tcp_comes_out_of_a_tunnel_whole_and_in_bundles() {
    const LENGTH: usize = 24 << 20;
    let bed = Bed::with_tunnels(Underlay::Ipv4);
    let [one, two] = &bed.sites;
    // The best one: what comes back takes it, too.
    let by = tunnel(0, 0);
    for ipv6 in [false, true] {
        assert_eq!(one.ask(two, by, ipv6, 1), 1, "the tunnel carries");
        let to = SocketAddr::new(two.overlay(ipv6), 5_001);
        let listener = two.namespace.run(move || TcpListener::bind(to).expect("it listens"));
        let before = two.namespace.received_packets(&by.interface());
        let mut sender = one.namespace.run(move || {
            let domain = socket2::Domain::for_address(to);
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
            socket.bind_device(Some(by.interface().as_bytes())).expect("bound to the tunnel");
            socket.connect(&to.into()).expect("connected");
            TcpStream::from(socket)
        });
        let data: Arc<Vec<u8>> = Arc::new((0..LENGTH).map(|at| (at * 7 + at / 65_521) as u8).collect());
        let sent = data.clone();
        let writing = std::thread::spawn(move || sender.write_all(&sent));
        let (mut receiver, _) = listener.accept().expect("a connection");
        receiver.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        let mut received = Vec::new();
        receiver.read_to_end(&mut received).expect("all of it");
        writing.join().expect("no panic").expect("all is sent");
        assert!(received == *data, "{} of {LENGTH} bytes, not as they were sent", received.len());
        let packets = two.namespace.received_packets(&by.interface()) - before;
        eprintln!("{} bytes a packet", LENGTH as u64 / packets);
        assert!(packets < LENGTH as u64 / 2_800, "{packets} packets, two segments each at least");
    }
}

#[test]
fn the_second_run_changes_nothing_and_reports_the_peers_figures() {
    let bed = Bed::with_tunnels(Underlay::Ipv4);
    let [one, two] = &bed.sites;
    one.ask(two, tunnel(0, 1), false, 5);
    let report = one.reconcile(one.desired(two, Underlay::Ipv4));
    assert_all_right(&report);
    assert_eq!(report.changes, 0);
    let peer = &report.tunnels[&tunnel(0, 1)].peers[&two.public_key];
    assert!(peer.received_bytes > 0 && peer.sent_bytes > 0, "{peer:?}");
    assert!(peer.handshake_age().is_some_and(|age| age < Duration::from_secs(60)), "{peer:?}");
    assert_eq!(peer.endpoint, Some(SocketAddr::new(ip_of("10.2.1.2"), PORT + 8)));
    assert_eq!(report.tunnels[&tunnel(1, 1)].peers[&two.public_key].last_handshake, None);
}

#[test]
fn a_changed_peer_keeps_its_session_and_loses_no_packet() {
    let bed = Bed::with_tunnels(Underlay::Ipv4);
    let [one, two] = &bed.sites;
    let by = tunnel(0, 0);
    assert_eq!(one.ask(two, by, false, 1), 1);
    let handshake =
        |report: &TunnelReport| report.tunnels[&by].peers[&two.public_key].last_handshake.expect("a session");
    let before = handshake(&one.reconcile(one.desired(two, Underlay::Ipv4)));
    for round in 0..3_u8 {
        let mut desired = one.desired(two, Underlay::Ipv4);
        let peer = desired.tunnels.get_mut(&by).expect("there").peers.get_mut(&two.public_key).expect("there");
        peer.allowed_ips.push(format!("192.168.{round}.0/24").parse().expect("a prefix"));
        peer.keepalive = Some(20 + u16::from(round));
        let report = one.reconcile(desired);
        assert_all_right(&report);
        assert!(report.changes > 0);
        assert_eq!(one.ask(two, by, false, 20), 20, "round {round}");
        let moved = handshake(&report).duration_since(before).unwrap_or_default();
        assert!(moved < Duration::from_millis(500), "a new handshake: {moved:?}");
    }
}

#[test]
fn prefixes_move_between_peers_of_one_tunnel() {
    let site = Namespace::new();
    let prefix: ipnet::IpNet = "10.9.0.0/24".parse().expect("a prefix");
    let (first, second) = (x25519([5; 32]), x25519([6; 32]));
    let desired = move |owner: [u8; 32]| {
        let mut desired = one_tunnel([1; 32], PORT);
        let peers = [(first, 1), (second, 2)].map(|(key, site)| {
            let allowed_ips = if key == owner { vec![prefix] } else { Vec::new() };
            (key, PeerDesired { site: SiteId([site; 16]), endpoint: None, allowed_ips, keepalive: None })
        });
        desired.tunnels.get_mut(&tunnel(0, 0)).expect("there").peers = peers.into();
        desired
    };
    site.run(move || {
        let mut reconciler = TunnelReconciler::new(Box::new(backend()));
        for owner in [first, second, first] {
            let report = reconciler.reconcile(&desired(owner));
            assert_all_right(&report);
            let peers = &report.tunnels[&tunnel(0, 0)].peers;
            let owners: Vec<_> = peers.iter().filter(|(_, peer)| peer.allowed_ips.contains(&prefix)).collect();
            assert!(owners.len() == 1 && *owners[0].0 == owner, "{peers:?}");
            assert_eq!(reconciler.reconcile(&desired(owner)).changes, 0);
        }
        let gone = reconciler.reconcile(&one_tunnel([1; 32], PORT));
        assert!(gone.tunnels[&tunnel(0, 0)].peers.is_empty());
    });
}

#[test]
fn a_tunnel_comes_back_after_its_process_was_killed_or_its_interface_deleted() {
    let bed = Bed::with_tunnels(Underlay::Ipv4);
    let [one, two] = &bed.sites;
    let by = tunnel(1, 0);
    assert_eq!(one.ask(two, by, false, 1), 1);
    let desired = Arc::new(one.desired(two, Underlay::Ipv4));
    let (tell, told) = std::sync::mpsc::channel();
    let reconciler = one.reconciler();
    one.namespace.block_on(move || async move {
        let monitor = Monitor::start().await.expect("a monitor");
        let (_keep, wanted) = watch::channel(Some(desired));
        let task = TunnelTask::start(reconciler, wanted, monitor.snapshots());
        let mut reports = task.reports();
        let ifindex = |report: &Arc<TunnelReport>| report.tunnels.get(&by).map_or(0, |status| status.ifindex);
        let mut known = ifindex(&reports.wait_for(|report| ifindex(report) != 0).await.expect("a report").clone());
        let interrupt: [(&str, Interruption); 2] = [
            ("killed", |name| kill(child_of(name).expect("a child"), Signal::SIGKILL).expect("killed")),
            ("deleted", |name| drop(ip(&format!("link del {name}")))),
        ];
        for (what, interrupt) in interrupt {
            let start = Instant::now();
            interrupt(&by.interface());
            let back = reports.wait_for(|report| {
                let there = ifindex(report);
                there != 0 && there != known && report.tunnels[&by].error.is_none()
            });
            let back = tokio::time::timeout(Duration::from_secs(5), back).await.expect("back in 5 s");
            known = ifindex(&back.expect("a report").clone());
            eprintln!("{what}: back after {:?}", start.elapsed());
        }
        tell.send(reports.borrow().interfaces()).expect("the test waits");
    });
    // With its routes it carries traffic again.
    one.route(two, told.recv().expect("interfaces"));
    assert_eq!(one.ask(two, by, false, 5), 5);
}

#[test]
fn the_process_leaves_its_starters_session_and_a_new_daemon_adopts_it() {
    let site = Namespace::new();
    site.run(|| {
        let name = tunnel(0, 0).interface();
        let mut first = TunnelReconciler::new(Box::new(backend()));
        assert_all_right(&first.reconcile(&one_tunnel([1; 32], PORT)));
        let child = child_of(&name).expect("a child");
        assert_eq!(getsid(Some(child)).expect("its session"), child, "leads a session of its own");
        let capabilities = std::fs::read_to_string(format!("/proc/{child}/status")).expect("its status");
        let effective = capabilities.lines().find_map(|line| line.strip_prefix("CapEff:\t")).expect("CapEff");
        assert_eq!(u64::from_str_radix(effective, 16).expect("a number"), 1 << 12, "CAP_NET_ADMIN alone");
        drop(first);

        let mut second = TunnelReconciler::new(Box::new(backend()));
        assert_eq!(second.reconcile(&one_tunnel([1; 32], PORT)).changes, 0);
        assert_eq!(child_of(&name), Some(child), "the same process");
        // `sdwan down`, by yet another process.
        assert_eq!(sdwan::tunnel::remove_all().expect("removed"), [tunnel(0, 0)]);
        eventually("the process is gone", || {
            second.kind();
            std::fs::read(format!("/proc/{child}/cmdline")).map_or(true, |command| command.is_empty())
        });
        assert!(!ip("link show").contains(&name));
        assert!(std::fs::read_dir("/run/wireguard").expect("the directory").next().is_none(), "nothing left behind");
    });
}

#[test]
fn a_half_made_interface_is_made_anew_and_a_foreign_one_is_left_alone() {
    let site = Namespace::new();
    site.run(|| {
        ip("tuntap add dev sdw0-0 mode tun");
        let mut reconciler = TunnelReconciler::new(Box::new(backend()));
        assert_all_right(&reconciler.reconcile(&one_tunnel([1; 32], PORT)));
        assert!(child_of("sdw0-0").is_some());
        reconciler.remove_all();

        ip("link add sdw0-0 type veth peer name other");
        let report = reconciler.reconcile(&one_tunnel([1; 32], PORT));
        let error = report.tunnels[&tunnel(0, 0)].error.as_deref().expect("an error");
        assert!(error.contains("veth") && error.contains("rename or remove"), "{error}");
        reconciler.remove_all();
        assert!(ip("link show").contains("sdw0-0"), "somebody else's interface stays");
    });
}

#[test]
fn a_port_in_use_is_named_and_taken_once_it_is_free() {
    let site = Namespace::new();
    site.run(|| {
        let squatter = UdpSocket::bind(("0.0.0.0", PORT)).expect("the port");
        let mut reconciler = TunnelReconciler::new(Box::new(backend()));
        let report = reconciler.reconcile(&one_tunnel([1; 32], PORT));
        let error = report.tunnels[&tunnel(0, 0)].error.as_deref().expect("an error");
        assert!(error.contains("51820") && error.contains("sdw0-0") && error.contains("in use"), "{error}");
        drop(squatter);
        // A program that another test is just starting holds a copy of the socket for a moment.
        eventually("the port is taken", || {
            reconciler.reconcile(&one_tunnel([1; 32], PORT)).tunnels[&tunnel(0, 0)].error.is_none()
        });
        // Another port, and back, with the mark on both.
        for port in [PORT + 1, PORT] {
            let report = reconciler.reconcile(&one_tunnel([1; 32], port));
            assert_all_right(&report);
            assert_eq!(report.changes, 1);
            let sockets = std::process::Command::new("ss").args(["-ulneH"]).output().expect("ss (iproute2)").stdout;
            let sockets = String::from_utf8_lossy(&sockets).into_owned();
            assert!(sockets.contains(&format!(":{port} ")) && sockets.contains("fwmark:0x5d000100"), "{sockets}");
            let log = std::fs::read_to_string(sdwan::tunnel::device::log_path("sdw0-0")).expect("its log");
            assert!(UdpSocket::bind(("0.0.0.0", port)).is_err(), "the port is held alone: {log}");
        }
    });
}

#[test]
fn without_privileges_the_error_says_what_is_missing() {
    let site = Namespace::new();
    site.run(|| {
        std::thread::scope(|scope| {
            // Capabilities belong to threads: only this one, and the child it starts, do without.
            scope.spawn(|| {
                // For the child of a root user to lose them too, the bounding set has to go.
                for capability in 0..64_u64 {
                    // SAFETY: PR_CAPBSET_DROP takes a number and touches no memory of ours.
                    unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
                }
                let error = backend().create(tunnel(0, 0)).expect_err("no privileges").to_string();
                assert!(error.contains("CAP_NET_ADMIN") && error.contains("sdw0-0"), "{error}");
            });
        });
    });
}

#[test]
fn a_program_that_is_no_wireguard_is_found_out() {
    let site = Namespace::new();
    site.run(|| {
        let mut backend = UserspaceBackend::new("/bin/false".into(), Vec::new());
        let error = backend.create(tunnel(0, 0)).expect_err("no WireGuard").to_string();
        assert!(error.contains("sdw0-0") && error.contains("ended"), "{error}");
        let mut backend = UserspaceBackend::new("/nonexistent".into(), Vec::new());
        let error = backend.create(tunnel(0, 0)).expect_err("no program").to_string();
        assert!(error.contains("/nonexistent"), "{error}");
    });
}

#[test]
fn packets_larger_than_the_buffers_and_malformed_ones_do_no_harm() {
    let bed = Bed::with_tunnels(Underlay::Ipv4);
    let [one, two] = &bed.sites;
    let by = tunnel(0, 0);
    let to = SocketAddr::new(two.overlay(false), 7);
    assert_eq!(one.ask(two, by, false, 1), 1);
    for site in [one, two] {
        site.namespace.ip("link set sdw0-0 mtu 9000");
    }
    // The userspace WireGuard looks at the MTU twice a second.
    std::thread::sleep(Duration::from_millis(1200));
    one.namespace.run(move || {
        // A packet socket sends what no stack would: rubbish, a truncated header, a wrong length.
        let raw = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::DGRAM, Some((0x0008).into()));
        let raw = raw.expect("a packet socket");
        let ifindex = nix::net::if_::if_nametoindex("sdw0-0").expect("the interface");
        for bytes in [&[0xff_u8; 60][..], &[0x45, 0], &[0x45; 40], &[0x60; 20], &[0]] {
            let (_, address) =
                // SAFETY: the closure fills a `sockaddr_ll`, which fits the storage, and says how long it is.
                unsafe { socket2::SockAddr::try_init(|storage, length| {
                    let link = &mut *storage.cast::<libc::sockaddr_ll>();
                    link.sll_family = libc::AF_PACKET as u16;
                    link.sll_ifindex = ifindex as i32;
                    link.sll_protocol = 0x0008;
                    *length = std::mem::size_of::<libc::sockaddr_ll>() as u32;
                    Ok(())
                }) }.expect("an address");
            // The kernel refuses some itself.
            let _ = raw.send_to(bytes, &address);
        }
        let socket = bound_socket(Some("sdw0-0"), to, Duration::from_secs(2));
        let mut buffer = [0; 10_000];
        for length in [1, 1300, 1992] {
            socket.send(&vec![7; length]).expect("sent");
            assert_eq!(socket.recv(&mut buffer).expect("an answer"), length);
        }
    });
    // 6,000 bytes are more than a buffer of the device holds, and the echo says back what it could take in.
    let answered = one.namespace.run(move || {
        ip("route replace table main 100.64.0.2/32 dev sdw0-0 src 100.64.0.1 metric 1");
        let socket = bound_socket(Some("sdw0-0"), to, Duration::from_secs(2));
        socket.send(&vec![7; 6000]).expect("sent");
        let mut buffer = [0; 10_000];
        socket.recv(&mut buffer).expect("an answer")
    });
    assert_eq!(answered, 2000);
}
