//! The session sender: one socket per tunnel, one session per path.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use sdwan_common::abi::peer_flag;
use sdwan_common::stamp::direct::{self, DirectMeasurement};
use sdwan_common::stamp::{self, Extension, ReflectorPacket, SenderPacket, Timestamp};

use super::notice::{self, Notices};
use super::reflector;
use super::socket::{Binding, Datagram, TestSocket};
use super::stamp::answer::ClockQuality;
use super::stamp::counters::ReflectorCounters;
use super::stamp::listen;
use super::{Error, Received, Replies, clock};
use crate::engine::Time;
use crate::engine::estimate::{Counters, ProbeReply};
use crate::engine::input::{Notice, Probe};
use crate::engine::types::TunnelKey;
use crate::net::marks;

/// What happened to probes outside the engine's sight.
#[derive(Debug, Default)]
pub struct ProbeCounters {
    /// Probes handed to the kernel.
    pub sent: AtomicU64,
    /// Probes and notices that the kernel refused.
    pub send_failed: AtomicU64,
    /// Packets on the sender's port that answer no probe of ours, and on the port for notices that are none: cut short,
    /// stretched, from another port, of another session.
    pub malformed: AtomicU64,
    /// Replies from the overlay address of no site.
    pub foreign: AtomicU64,
    /// Replies and notices that found the daemon busy.
    pub overrun: AtomicU64,
    /// Probes answered by the reflector in user space.
    pub reflected: AtomicU64,
    /// The reflector outside the tunnels, `[stamp]` of the configuration.
    pub listener: Arc<ReflectorCounters>,
}

impl ProbeCounters {
    /// Adds one.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

struct Tunnel {
    ifindex: u32,
    socket: Arc<TestSocket>,
    notices: Arc<TestSocket>,
    tasks: [JoinHandle<()>; 3],
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Sends probes and receives their answers on all tunnels.
pub struct Prober {
    overlay: IpAddr,
    replies: Replies,
    notices: Notices,
    counters: Arc<ProbeCounters>,
    tunnels: BTreeMap<TunnelKey, Tunnel>,
    clock: listen::Clock,
}

impl Prober {
    /// `overlay` is this site's own address, which probes come from; replies go to `replies`, and what peers say of their
    /// uplinks to `notices`; `listener` are the counters of the reflector outside the tunnels.
    pub fn new(overlay: IpAddr, replies: Replies, notices: Notices, listener: Arc<ReflectorCounters>) -> Self {
        let counters = Arc::new(ProbeCounters { listener, ..ProbeCounters::default() });
        Self { overlay, replies, notices, counters, tunnels: BTreeMap::new(), clock: listen::Clock::default() }
    }

    /// The counters, shared.
    pub fn counters(&self) -> Arc<ProbeCounters> {
        self.counters.clone()
    }

    /// Makes the sockets those of these tunnels (with their interface index: a recreated interface needs new sockets).
    /// Returns the tunnels that can be probed; the rest are tried again at the next call.
    pub fn reconcile(&mut self, wanted: &BTreeMap<TunnelKey, u32>) -> BTreeSet<TunnelKey> {
        self.tunnels.retain(|tunnel, open| {
            let alive = open.tasks.iter().all(|task| !task.is_finished());
            wanted.get(tunnel) == Some(&open.ifindex) && alive
        });
        for (&tunnel, &ifindex) in wanted {
            if self.tunnels.contains_key(&tunnel) {
                continue;
            }
            match self.open(tunnel, ifindex) {
                Ok(open) => {
                    self.tunnels.insert(tunnel, open);
                }
                Err(error) => warn!(%tunnel, "{error}"),
            }
        }
        self.tunnels.keys().copied().collect()
    }

    /// Sends a probe now. A failure is counted: the missing answer tells the engine.
    pub fn send(&mut self, probe: &Probe, destination: IpAddr) {
        let tunnel = probe.path.tunnel;
        let Some(open) = self.tunnels.get(&tunnel) else {
            ProbeCounters::count(&self.counters.send_failed);
            return;
        };
        let now_ns = clock::unix_ns();
        let payload = encode(probe, now_ns, self.clock.quality(now_ns));
        match open.socket.send(&payload, SocketAddr::new(destination, stamp::PORT)) {
            Ok(()) => ProbeCounters::count(&self.counters.sent),
            Err(error) => {
                debug!(%tunnel, %destination, "cannot send a probe: {error}");
                ProbeCounters::count(&self.counters.send_failed);
            }
        }
    }

    /// Tells a peer by a path which uplinks are lost here. A failure is counted: the peer will find out by its probes.
    pub fn tell(&mut self, notice: &Notice, destination: IpAddr) {
        let sent = self.tunnels.get(&notice.path.tunnel).map(|open| {
            let payload = notice::encode(&notice.lost, notice.number);
            open.notices.send(&payload, SocketAddr::new(destination, notice::PORT))
        });
        if !matches!(sent, Some(Ok(()))) {
            debug!(tunnel = %notice.path.tunnel, %destination, ?sent, "cannot send a notice");
            ProbeCounters::count(&self.counters.send_failed);
        }
    }

    fn open(&self, tunnel: TunnelKey, ifindex: u32) -> Result<Tunnel, Error> {
        let interface = tunnel.interface();
        // The mark leads to the tunnel's own table, which is sooner searched than the main one.
        let mark = Some(marks::tunnel_mark(tunnel));
        let open = |port, patient| {
            let local = SocketAddr::new(self.overlay, port);
            TestSocket::open(Binding { interface: Some(&interface), local, mark, patient })
                .map_err(|source| Error::Socket { interface: interface.clone(), source })
        };
        let socket = Arc::new(open(0, false)?);
        // A reflector of the operator's may listen on this port of all addresses.
        let answers = open(stamp::PORT, true)?;
        let notices = Arc::new(open(notice::PORT, true)?);
        let (replies, counters) = (self.replies.clone(), self.counters.clone());
        let to_reply = move |datagram: &Datagram<'_>| decode(tunnel, datagram);
        let receiver = tokio::spawn(receive((tunnel, "probes"), socket.clone(), to_reply, replies, counters.clone()));
        let reflector = tokio::spawn(reflector::run(interface, answers, self.counters.clone()));
        let noticing = receive((tunnel, "notices"), notices.clone(), notice::decode, self.notices.clone(), counters);
        let noticing = tokio::spawn(noticing);
        Ok(Tunnel { ifindex, socket, notices, tasks: [receiver, reflector, noticing] })
    }
}

/// The bytes of a probe that leaves at `unix_ns`, ns since 1970 UTC.
fn encode(probe: &Probe, unix_ns: u64, clock: ClockQuality) -> [u8; stamp::PROBE_LENGTH] {
    let packet = SenderPacket {
        sequence: probe.sequence,
        timestamp: Timestamp::from_unix_ns(unix_ns),
        error_estimate: clock.estimate(true),
        session: session(probe.path.tunnel),
    };
    let flags = if probe.hears { peer_flag::HEARS as u8 } else { 0 };
    let detection_ns = u64::try_from(probe.detection.as_nanos()).unwrap_or(u64::MAX);
    stamp::encode_probe(&packet, Extension::new(flags, detection_ns))
}

/// STAMP session identifier of the paths of a tunnel, not 0.
fn session(tunnel: TunnelKey) -> u16 {
    0x5d00 | u16::from(tunnel.code())
}

/// Passes on what `decode` makes of the datagrams at one tunnel's socket for `what`, until that fails.
async fn receive<T: Send>(
    (tunnel, what): (TunnelKey, &'static str),
    socket: Arc<TestSocket>,
    decode: impl Fn(&Datagram<'_>) -> Option<T> + Send,
    to: mpsc::Sender<T>,
    counters: Arc<ProbeCounters>,
) {
    let error = socket
        .receive(|datagram| match decode(&datagram) {
            Some(received) => {
                if to.try_send(received).is_err() {
                    ProbeCounters::count(&counters.overrun);
                }
            }
            None => ProbeCounters::count(&counters.malformed),
        })
        .await;
    warn!(%tunnel, "the socket for {what} failed and will be opened again: {error}");
}

/// An answer to a probe of ours, which is as long as the probe was; `None` when it is none.
fn decode(tunnel: TunnelKey, datagram: &Datagram<'_>) -> Option<Received> {
    if datagram.payload.len() != stamp::PROBE_LENGTH {
        return None;
    }
    let packet = ReflectorPacket::decode(datagram.payload).ok()?;
    if packet.session != session(tunnel) || datagram.source.port() != stamp::PORT {
        return None;
    }
    let now = clock::now();
    let unix_now = clock::unix_ns();
    // A receive stamp from the future, or long past, means that the wall clock was set meanwhile.
    let age = datagram.received_unix_ns.and_then(|at| unix_now.checked_sub(at)).filter(|age| *age < 1_000_000_000);
    let age = age.unwrap_or(0);
    let reply = ProbeReply {
        sequence: packet.sender_sequence,
        reflector_sequence: packet.sequence,
        sent_ns: packet.sender_timestamp.as_unix_ns(),
        reflector_received_ns: packet.received.as_unix_ns(),
        reflector_sent_ns: packet.timestamp.as_unix_ns(),
        received_ns: unix_now - age,
        synchronized: packet.error_estimate.synchronized && packet.sender_error_estimate.synchronized,
        clock_error_ns: packet.error_estimate.error_ns().saturating_add(packet.sender_error_estimate.error_ns()),
    };
    let counters = counters(datagram.payload);
    Some(Received { tunnel, source: datagram.source.ip(), reply, counters, at: Time(now.0.saturating_sub(age)) })
}

/// What the data paths of both ends wrote into probe and answer.
fn counters(payload: &[u8]) -> Option<Counters> {
    let DirectMeasurement { sender_transmitted, reflector_received, reflector_transmitted } =
        DirectMeasurement::answered(payload)?;
    Some(Counters {
        sent: sender_transmitted,
        peer_received: reflector_received,
        peer_sent: reflector_transmitted,
        received: direct::received(payload)?,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sdwan_common::stamp::ErrorEstimate;

    use super::*;
    use crate::engine::types::{PathKey, SiteId, UplinkIndex};

    const NOW_NS: u64 = 1_800_000_000_123_456_789;

    fn tunnel() -> TunnelKey {
        let index = |number| UplinkIndex::new(number).expect("an index");
        TunnelKey { local: index(1), remote: index(2) }
    }

    const UNKEPT: ClockQuality = ClockQuality { synchronized: false, error_ns: 1_000_000_000 >> 10 };
    const KEPT: ClockQuality = ClockQuality { synchronized: true, error_ns: 3_000_000 };

    fn probe(hears: bool, detection: Duration) -> Probe {
        Probe { path: PathKey { site: SiteId([7; 16]), tunnel: tunnel() }, sequence: 9, hears, detection }
    }

    #[test]
    fn a_probe_says_what_the_engine_told_it_to() {
        let bytes = encode(&probe(true, Duration::from_millis(150)), NOW_NS, UNKEPT);
        let packet = SenderPacket::decode(&bytes).expect("a whole packet");
        assert_eq!((packet.sequence, packet.session), (9, session(tunnel())));
        assert_eq!(packet.timestamp.as_unix_ns(), NOW_NS);
        assert_eq!(Extension::decode(&bytes), Some(Extension::new(1, 150_000_000)));
        let claimed = packet.error_estimate;
        assert_eq!((claimed.synchronized, claimed.error_ns()), (false, ErrorEstimate::OURS.error_ns()));
        let bytes = encode(&probe(false, Duration::MAX), NOW_NS, UNKEPT);
        assert_eq!(Extension::decode(&bytes), Some(Extension { flags: 0, detection: u16::MAX }));
    }
    fn datagram(payload: &[u8], port: u16) -> Datagram<'_> {
        Datagram {
            source: SocketAddr::new(IpAddr::from([100, 64, 0, 2]), port),
            destination: None,
            payload,
            received_unix_ns: None,
            ttl: None,
            traffic_class: None,
        }
    }

    /// The payload of an answer, as long as its question.
    fn whole(answer: &ReflectorPacket) -> [u8; stamp::PROBE_LENGTH] {
        let mut payload = encode(&probe(true, Duration::ZERO), NOW_NS, UNKEPT);
        payload[..stamp::BASE_LENGTH].copy_from_slice(&answer.encode());
        payload
    }

    #[test]
    fn what_is_cut_short_stretched_or_foreign_is_no_answer() {
        let question = SenderPacket::decode(&encode(&probe(true, Duration::ZERO), NOW_NS, UNKEPT)).expect("whole");
        let answer = ReflectorPacket::answer(&question, 1, question.timestamp, question.timestamp, 64);
        let good = whole(&answer);
        assert!(decode(tunnel(), &datagram(&good, stamp::PORT)).is_some());
        for length in 0..good.len() {
            assert!(decode(tunnel(), &datagram(&good[..length], stamp::PORT)).is_none(), "{length} bytes");
        }
        for more in [1, 1_000, 8_000] {
            let long = [&good[..], &vec![0; more]].concat();
            assert!(decode(tunnel(), &datagram(&long, stamp::PORT)).is_none(), "{more} bytes more");
        }
        for port in [stamp::PORT + 1, 50_000] {
            assert!(decode(tunnel(), &datagram(&good, port)).is_none(), "from port {port}");
        }
        let other = whole(&ReflectorPacket { session: answer.session ^ 1, ..answer });
        assert!(decode(tunnel(), &datagram(&other, stamp::PORT)).is_none(), "of another tunnel's session");
    }

    #[test]
    fn delays_count_as_synchronised_only_when_both_ends_say_that_their_clocks_are() {
        let error = |kept: ClockQuality| kept.estimate(true).error_ns();
        for (ours, theirs) in [(KEPT, KEPT), (KEPT, UNKEPT), (UNKEPT, KEPT), (UNKEPT, UNKEPT)] {
            let question = SenderPacket::decode(&encode(&probe(true, Duration::ZERO), NOW_NS, ours)).expect("whole");
            assert_eq!(question.error_estimate, ours.estimate(true));
            let received = Timestamp::from_unix_ns(NOW_NS + 5_000_000);
            let answer = ReflectorPacket {
                error_estimate: theirs.estimate(true),
                ..ReflectorPacket::answer(&question, 1, received, received, 64)
            };
            let payload = whole(&answer);
            let reply = decode(tunnel(), &datagram(&payload, stamp::PORT)).expect("an answer to us").reply;
            assert_eq!(reply.synchronized, ours.synchronized && theirs.synchronized, "{ours:?} {theirs:?}");
            assert_eq!(reply.clock_error_ns, error(ours) + error(theirs));
        }
    }
}
