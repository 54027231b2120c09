//! Capacity measurements: sockets, threads and clocks around the engine's search.
//!
//! Each tunnel has a socket on [`PORT`], bound to the tunnel's interface, and a thread that receives on it and answers.
//! A measurement is a thread of its own, since pacing wants to sleep. Who may measure what when is decided elsewhere.

mod pacing;
mod receiver;
mod responder;
mod session;
mod socket;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use super::Error;
use super::socket::SocketError;
use crate::engine::capacity::schedule::Reason;
use crate::engine::capacity::search::Plan;
use crate::engine::capacity::{Direction, Framing};
use crate::engine::types::{TunnelKey, UplinkIndex};

pub use pacing::may_keep_time;
pub use session::{Failure, Found, Progress};
pub use wire::{Message, PORT, Verdict, WireError};

use session::Session;
use socket::CapacitySocket;

/// A receiving thread looks up from its socket this often at least.
const PATIENCE: Duration = Duration::from_millis(500);
/// Answers that may wait for a measurement's thread.
const ANSWERS: usize = 64;

/// The way that a measurement takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The tunnel.
    pub tunnel: TunnelKey,
    /// Overlay address of the peer.
    pub peer: IpAddr,
    /// What the tunnel adds to packets.
    pub framing: Framing,
    /// Bytes of the IP packets inside that trains are made of.
    pub inner: u16,
}

impl Way {
    /// Outer bytes of a train's packet.
    pub fn size(&self) -> u16 {
        self.framing.outer(self.inner)
    }

    /// UDP payload of a train's packet, bytes.
    pub fn payload(&self) -> u16 {
        self.inner.saturating_sub(headers(self.peer))
    }
}

/// Bytes of the IP and UDP headers.
const fn headers(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => 28,
        IpAddr::V6(_) => 48,
    }
}

/// What else passes by a path: the counters of the data path and of the interfaces. Read by several threads, often.
pub trait Counters: Send + Sync {
    /// All packets but probes that came in from a peer by a tunnel so far, and their bytes inside the tunnel.
    fn received(&self, tunnel: TunnelKey, peer: IpAddr) -> Option<(u64, u64)>;
    /// Outer bytes that left by the way's uplink so far, but for the users' packets on the way itself.
    fn others_sent(&self, way: &Way) -> Option<u64>;
}

/// How a peer is treated on a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whether it may send trains.
    pub consent: Result<(), Reason>,
    /// What the tunnel adds to packets.
    pub framing: Framing,
    /// Largest rate at which live traffic came in from it lately, bit/s; 0 if unknown.
    pub passive: u64,
}

/// The peers by tunnel and overlay address. Nobody else is answered.
pub type Rules = HashMap<(TunnelKey, IpAddr), Rule>;

/// Something that the schedule should know.
#[derive(Debug)]
pub enum Event {
    /// A peer asks to be measured towards; answer it by [`Meter::answer`].
    Solicited {
        /// The tunnel that it asked by.
        tunnel: TunnelKey,
        /// Its overlay address.
        peer: IpAddr,
        /// Number of its session.
        session: u64,
    },
    /// A peer measured towards us.
    Told {
        /// The tunnel.
        tunnel: TunnelKey,
        /// Its overlay address.
        peer: IpAddr,
        /// What it found.
        verdict: Verdict,
    },
    /// A measurement of ours ended.
    Ended {
        /// The way.
        way: Way,
        /// The direction.
        direction: Direction,
        /// Outer bytes that it sent.
        bytes: u64,
        /// How it went.
        result: Result<Found, Failure>,
    },
}

/// What happened to messages outside of measurements.
#[derive(Debug, Default)]
pub struct MeterCounters {
    /// Datagrams that are no messages: truncated, too long, of another protocol or version, or with impossible values.
    pub malformed: AtomicU64,
    /// Datagrams from addresses or ports that aren't a peer's.
    pub foreign: AtomicU64,
    /// Messages that fit no session: forged, replayed, doubled, late.
    pub stray: AtomicU64,
    /// Requests of peers that were refused.
    pub refused: AtomicU64,
    /// Messages that the kernel refused to send.
    pub send_failed: AtomicU64,
    /// Messages that found the daemon busy.
    pub overrun: AtomicU64,
}

impl MeterCounters {
    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where the answers to the measurement that runs on a tunnel go: its session, its peer, its thread.
type Slot = Arc<Mutex<Option<(u64, IpAddr, SyncSender<Message>)>>>;

/// Uplinks on which a peer is measuring now, by index.
type Claims = Arc<[AtomicBool; UplinkIndex::COUNT as usize]>;

struct Tunnel {
    ifindex: u32,
    socket: Arc<CapacitySocket>,
    slot: Slot,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    running: Option<Arc<Progress>>,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(progress) = &self.running {
            progress.cancel();
        }
        self.socket.wake();
    }
}

/// Measures, and answers those who do, on all tunnels.
pub struct Meter {
    overlay: IpAddr,
    events: mpsc::Sender<Event>,
    sources: Arc<dyn Counters>,
    counters: Arc<MeterCounters>,
    rules: watch::Sender<Arc<Rules>>,
    claims: Claims,
    tunnels: BTreeMap<TunnelKey, Tunnel>,
}

impl Meter {
    /// `overlay` is this site's own address; `events` is bounded, and what finds it full is lost and counted, but for
    /// the end of a measurement.
    pub fn new(overlay: IpAddr, events: mpsc::Sender<Event>, sources: Arc<dyn Counters>) -> Self {
        Self {
            overlay,
            events,
            sources,
            counters: Arc::default(),
            rules: watch::Sender::new(Arc::default()),
            claims: Arc::default(),
            tunnels: BTreeMap::new(),
        }
    }

    /// The counters, shared.
    pub fn counters(&self) -> Arc<MeterCounters> {
        self.counters.clone()
    }

    /// Makes the sockets those of these tunnels (with their interface index). What fails is tried again at the next call.
    pub fn reconcile(&mut self, wanted: &BTreeMap<TunnelKey, u32>) {
        let named = wanted.iter().map(|(tunnel, ifindex)| (*tunnel, (tunnel.interface(), *ifindex))).collect();
        self.reconcile_named(&named);
    }

    /// The same for interfaces of any name.
    pub fn reconcile_named(&mut self, wanted: &BTreeMap<TunnelKey, (String, u32)>) {
        self.tunnels.retain(|key, tunnel| {
            let same = wanted.get(key).is_some_and(|(_, ifindex)| *ifindex == tunnel.ifindex);
            same && !tunnel.thread.is_finished()
        });
        for (key, (interface, ifindex)) in wanted {
            if self.tunnels.contains_key(key) {
                continue;
            }
            match self.open(*key, interface, *ifindex) {
                Ok(tunnel) => drop(self.tunnels.insert(*key, tunnel)),
                Err(error) => warn!(tunnel = %key, "no capacity can be measured: {error}"),
            }
        }
    }

    /// Replaces the rules.
    pub fn set_rules(&self, rules: Rules) {
        self.rules.send_replace(Arc::new(rules));
    }

    /// Measures towards the peer; [`Event::Ended`] tells the outcome. `solicited` is the session of the peer that asked
    /// for it, or 0. One at a time on a tunnel.
    pub fn forward(&mut self, way: Way, plan: Plan, solicited: u64) -> Result<Arc<Progress>, Failure> {
        self.start(way, Direction::Forward, rand::random(), move |session| session.forward(plan, solicited))
    }

    /// Has the peer measure towards us.
    pub fn backward(&mut self, way: Way) -> Result<Arc<Progress>, Failure> {
        self.start(way, Direction::Backward, rand::random(), |session| {
            let verdict = session.backward()?;
            Ok(Found { outcome: told(&verdict), passive: None })
        })
    }

    /// Answers a [`Event::Solicited`].
    pub fn answer(&self, tunnel: TunnelKey, peer: IpAddr, session: u64, outcome: Result<(), Reason>) {
        let Some(open) = self.tunnels.get(&tunnel) else { return };
        let message = match outcome {
            Ok(()) => Message::Accept { passive: 0 },
            Err(reason) => {
                MeterCounters::count(&self.counters.refused);
                Message::Refuse(reason)
            }
        };
        if let Err(error) = open.socket.send(&message.encode(session), SocketAddr::new(peer, PORT)) {
            debug!(%tunnel, %peer, "cannot answer: {error}");
            MeterCounters::count(&self.counters.send_failed);
        }
    }

    fn start(
        &mut self,
        way: Way,
        direction: Direction,
        number: u64,
        work: impl FnOnce(&Session) -> Result<Found, Failure> + Send + 'static,
    ) -> Result<Arc<Progress>, Failure> {
        let tunnel = self.tunnels.get_mut(&way.tunnel).ok_or(Failure::Cancelled)?;
        let slot = tunnel.slot.clone();
        let (sender, answers) = sync_channel(ANSWERS);
        {
            let mut place = slot.lock().unwrap_or_else(PoisonError::into_inner);
            if place.is_some() {
                return Err(Failure::Refused(Reason::Busy));
            }
            *place = Some((number, way.peer, sender));
        }
        let progress = Arc::new(Progress::default());
        let session = Session {
            socket: tunnel.socket.clone(),
            way,
            number,
            answers,
            progress: progress.clone(),
            counters: self.sources.clone(),
        };
        let events = self.events.clone();
        let done = slot.clone();
        let spawned = std::thread::Builder::new().name(format!("capacity {}", way.tunnel)).spawn(move || {
            let result = work(&session);
            done.lock().unwrap_or_else(PoisonError::into_inner).take();
            let bytes = session.progress.bytes();
            // Nobody listens when the daemon stops.
            let _ = events.blocking_send(Event::Ended { way, direction, bytes, result });
        });
        if let Err(error) = spawned {
            slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            return Err(error.into());
        }
        tunnel.running = Some(progress.clone());
        Ok(progress)
    }

    fn open(&self, key: TunnelKey, interface: &str, ifindex: u32) -> Result<Tunnel, Error> {
        let socket = Arc::new(CapacitySocket::open(interface, SocketAddr::new(self.overlay, PORT), PATIENCE)?);
        let slot = Slot::default();
        let stop = Arc::new(AtomicBool::new(false));
        let receiver = receiver::Receiver {
            tunnel: key,
            socket: socket.clone(),
            slot: slot.clone(),
            stop: stop.clone(),
            rules: self.rules.subscribe(),
            claims: self.claims.clone(),
            events: self.events.clone(),
            sources: self.sources.clone(),
            counters: self.counters.clone(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("capacity in {key}"))
            .spawn(move || receiver.run())
            .map_err(|source| SocketError { action: "start the thread of", source })
            .map_err(|source| Error::Socket { interface: interface.into(), source })?;
        Ok(Tunnel { ifindex, socket, slot, stop, thread, running: None })
    }
}

/// A peer's verdict as an outcome.
fn told(verdict: &Verdict) -> crate::engine::capacity::search::Outcome {
    use crate::engine::capacity::search::{Ended, Outcome};
    Outcome {
        ended: if verdict.found { Ended::Found } else { Ended::Budget },
        capacity: (verdict.capacity > 0).then_some(verdict.capacity),
        share: None,
        spread: 0.0,
        readings: 0,
        trains: 0,
        bytes: 0,
        took: Duration::ZERO,
    }
}
