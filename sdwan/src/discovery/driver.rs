//! The task around the core: sockets, timers, and the ways in and out.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};

use super::core::{Core, Identity, Route};
use super::seeds::{self, Seed};
use super::sockets::{Datagram, Inbox, LinkSockets, OverlaySocket};
use super::storage::{Storage, StoreReply};
use super::types::{DiscoveryConfig, DiscoveryCounters, DiscoveryEvent, DiscoveryInterface};
use crate::engine::types::SiteId;
use crate::trust::announcement::{self, LocalAnnouncement};
use crate::trust::certificate::Certificate;
use crate::trust::persist::{SequenceStore, StoreError};
use crate::trust::revocation::RevocationList;
use crate::trust::verifier::Now;
use crate::trust::wire::EncodeError;

/// Datagrams received and not yet judged.
const INBOX: usize = 1_024;
/// Datagrams judged in one go.
const BATCH: usize = 64;
/// Events that nobody took yet, beyond those in the core.
const EVENTS: usize = 256;
/// Accepted announcements are stored this often.
const STORE_EVERY: Duration = Duration::from_millis(250);
/// Interfaces that failed are tried again this often.
const RETRY_INTERFACES: Duration = Duration::from_secs(5);
/// The leave message is repeated once, after this time.
const LEAVE_AGAIN: Duration = Duration::from_millis(50);
/// Longest wait for the store at the end.
const FLUSH: Duration = Duration::from_secs(2);

/// Discovery can't start.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The store.
    #[error("{0}: check the disk and the file named in `database`")]
    Store(#[from] StoreError),
    /// The socket for gossip.
    #[error(
        "cannot listen on the overlay address {address} port {port}: {source}; `ss -ulpn sport = :{port}` names a \
         program that has the port: stop it, or choose another `port` in [discovery]"
    )]
    Overlay {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The discovery task is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("discovery is not running")]
pub struct Stopped;

/// What the handle sets.
#[derive(Clone)]
struct Settings {
    certificate: Certificate,
    local: Option<LocalAnnouncement>,
    interfaces: Vec<DiscoveryInterface>,
    neighbours: Vec<(SiteId, IpAddr)>,
    revocations: RevocationList,
}

/// Steers discovery. Setting something replaces what was set before and never blocks. When the last clone is dropped,
/// discovery stops without a leave message.
#[derive(Clone)]
pub struct DiscoveryHandle {
    settings: Arc<watch::Sender<Settings>>,
    seeds: Arc<watch::Sender<Vec<Seed>>>,
    leave: mpsc::Sender<oneshot::Sender<()>>,
    counters: watch::Receiver<DiscoveryCounters>,
}

impl DiscoveryHandle {
    /// Sets what this site announces. An error: it can't be announced, and what was set before stays.
    pub fn set_local(&self, local: LocalAnnouncement) -> Result<(), EncodeError> {
        announcement::check(&self.settings.borrow().certificate, &local)?;
        self.settings.send_modify(|settings| settings.local = Some(local));
        Ok(())
    }

    /// Sets a renewed certificate of this site. An error: what is announced now doesn't fit it.
    pub fn set_certificate(&self, certificate: Certificate) -> Result<(), EncodeError> {
        if let Some(local) = &self.settings.borrow().local {
            announcement::check(&certificate, local)?;
        }
        self.settings.send_modify(|settings| settings.certificate = certificate);
        Ok(())
    }

    /// Sets the interfaces to speak on.
    pub fn set_interfaces(&self, interfaces: Vec<DiscoveryInterface>) {
        self.settings.send_modify(|settings| settings.interfaces = interfaces);
    }

    /// Sets the sites that tunnels lead to, with their overlay addresses.
    pub fn set_neighbours(&self, neighbours: Vec<(SiteId, IpAddr)>) {
        self.settings.send_modify(|settings| settings.neighbours = neighbours);
    }

    /// Sets the seeds, of which 64 are used.
    pub fn set_seeds(&self, seeds: Vec<Seed>) {
        self.seeds.send_replace(seeds);
    }

    /// Adds revocations that the operator installed.
    pub fn add_revocations(&self, list: &RevocationList) {
        self.settings.send_modify(|settings| {
            for page in list.pages() {
                settings.revocations.insert(page.clone());
            }
        });
    }

    /// Says goodbye to the others and stops. Returns when the message is sent and everything is stored.
    pub async fn leave(&self) -> Result<(), Stopped> {
        let (done, wait) = oneshot::channel();
        self.leave.send(done).await.map_err(|_| Stopped)?;
        wait.await.map_err(|_| Stopped)
    }

    /// What discovery did so far.
    pub fn counters(&self) -> DiscoveryCounters {
        self.counters.borrow().clone()
    }
}

/// Starts discovery: loads what is stored, and runs the task on the current runtime.
pub async fn start(
    identity: Identity,
    config: DiscoveryConfig,
    store: Box<dyn SequenceStore>,
) -> Result<(DiscoveryHandle, mpsc::Receiver<DiscoveryEvent>), DiscoveryError> {
    let (storage, loaded) = Storage::start(store).await?;
    let (sender, inbox) = mpsc::channel(INBOX);
    let sender = Inbox { sender, dropped: Arc::new(AtomicU64::new(0)) };
    let address = identity.mesh.overlay_address(identity.key.site());
    let overlay = OverlaySocket::open(address, config.port, &sender).map_err(|source| DiscoveryError::Overlay {
        address,
        port: config.port,
        source,
    })?;

    let settings = Settings {
        certificate: identity.certificate.clone(),
        local: None,
        interfaces: Vec::new(),
        neighbours: Vec::new(),
        revocations: RevocationList::default(),
    };
    let (settings, settings_seen) = watch::channel(settings);
    let (seeds, seeds_wanted) = watch::channel(Vec::new());
    let (resolved, seeds_seen) = watch::channel(Vec::new());
    let (problems, problems_seen) = mpsc::channel(EVENTS);
    let (leave, leave_asked) = mpsc::channel(1);
    let (counters, counters_seen) = watch::channel(DiscoveryCounters::default());
    let (events, events_seen) = mpsc::channel(EVENTS);
    tokio::spawn(seeds::resolve(seeds_wanted, resolved, problems));

    let clock = Clock(Instant::now());
    let first = loaded.first_number;
    let numbers = first..first.saturating_add(super::core::RESERVATION);
    let mut core = Core::new(identity, config.clone(), numbers, rand::random(), clock.now());
    core.load(clock.now(), loaded.announcements, &loaded.revocations);
    let driver = Driver {
        clock,
        core,
        config,
        storage,
        sender,
        inbox,
        overlay,
        links: BTreeMap::new(),
        failed: BTreeMap::new(),
        settings: settings_seen,
        seeds: seeds_seen,
        problems: problems_seen,
        leave: leave_asked,
        events,
        counters,
        sent: 0,
        send_failed: 0,
    };
    tokio::spawn(driver.run());
    let handle =
        DiscoveryHandle { settings: Arc::new(settings), seeds: Arc::new(seeds), leave, counters: counters_seen };
    Ok((handle, events_seen))
}

#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn now(self) -> Now {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { monotonic: self.0.elapsed(), unix_ms: unix.as_millis() as u64 }
    }

    fn instant(self, monotonic: Duration) -> tokio::time::Instant {
        (self.0 + monotonic).into()
    }
}

struct Driver {
    clock: Clock,
    core: Core,
    config: DiscoveryConfig,
    storage: Storage,
    sender: Inbox,
    inbox: mpsc::Receiver<Datagram>,
    overlay: OverlaySocket,
    links: BTreeMap<u32, LinkSockets>,
    /// Interfaces that can't be opened, and what was told about them.
    failed: BTreeMap<u32, String>,
    settings: watch::Receiver<Settings>,
    seeds: watch::Receiver<Vec<SocketAddr>>,
    problems: mpsc::Receiver<DiscoveryEvent>,
    leave: mpsc::Receiver<oneshot::Sender<()>>,
    events: mpsc::Sender<DiscoveryEvent>,
    counters: watch::Sender<DiscoveryCounters>,
    sent: u64,
    send_failed: u64,
}

impl Driver {
    async fn run(mut self) {
        let events = self.events.clone();
        let mut store_tick = tokio::time::interval(STORE_EVERY);
        store_tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut retry_tick = tokio::time::interval(RETRY_INTERFACES);
        retry_tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.send();
            self.publish();
            let deadline = tokio::time::sleep_until(self.clock.instant(self.core.next_deadline()));
            tokio::select! {
                Some(datagram) = self.inbox.recv() => self.receive(datagram),
                changed = self.settings.changed() => match changed {
                    Ok(()) => self.apply(),
                    Err(_) => return,
                },
                Ok(()) = self.seeds.changed() => {
                    let seeds = self.seeds.borrow_and_update().clone();
                    self.core.set_seeds(self.clock.now(), seeds);
                }
                Some(problem) = self.problems.recv() => self.core.tell(problem),
                Some(reply) = self.storage.replies.recv() => self.stored(reply),
                permit = events.reserve(), if self.core.has_events() => match permit {
                    Ok(permit) => {
                        if let Some(event) = self.core.poll_event() {
                            permit.send(event);
                        }
                    }
                    // Nobody listens any more; the queue must not stay full for ever.
                    Err(_) => while self.core.poll_event().is_some() {},
                },
                _ = store_tick.tick(), if self.core.has_store_requests() => self.store(),
                _ = retry_tick.tick(), if self.has_incomplete_links() => self.reconcile(),
                Some(done) = self.leave.recv() => {
                    self.say_goodbye().await;
                    // The caller may have given up waiting.
                    let _ = done.send(());
                    return;
                }
                () = deadline => {}
            }
            let now = self.clock.now();
            if now.monotonic >= self.core.next_deadline() {
                self.core.handle_timeout(now);
            }
        }
    }

    fn receive(&mut self, first: Datagram) {
        let now = self.clock.now();
        self.core.receive(now, first.origin, first.source, &first.bytes);
        for _ in 1..BATCH {
            let Ok(next) = self.inbox.try_recv() else { break };
            self.core.receive(now, next.origin, next.source, &next.bytes);
        }
    }

    fn apply(&mut self) {
        let settings = self.settings.borrow_and_update().clone();
        let now = self.clock.now();
        self.core.add_revocations(now, &settings.revocations);
        self.core.set_certificate(now, settings.certificate);
        self.reconcile();
        if let Some(local) = settings.local {
            self.core.set_local(now, local);
        }
        self.core.set_neighbours(now, settings.neighbours);
    }

    /// Makes the sockets those of the interfaces that are set.
    fn reconcile(&mut self) {
        let wanted: BTreeMap<u32, DiscoveryInterface> =
            self.settings.borrow().interfaces.iter().map(|interface| (interface.ifindex, interface.clone())).collect();
        self.links.retain(|ifindex, sockets| wanted.get(ifindex) == Some(&sockets.interface));
        self.failed.retain(|ifindex, _| wanted.contains_key(ifindex));
        for (ifindex, interface) in wanted {
            if let Some(sockets) = self.links.get_mut(&ifindex) {
                if !sockets.is_complete()
                    && let Err(error) = sockets.complete(&self.config, &self.sender)
                {
                    tracing::debug!(interface = interface.name, %error, "a family is still missing");
                }
                continue;
            }
            let name = interface.name.clone();
            match LinkSockets::open(interface, &self.config, &self.sender) {
                Ok(sockets) => {
                    self.failed.remove(&ifindex);
                    self.links.insert(ifindex, sockets);
                }
                Err(error) => {
                    let text = error.to_string();
                    if self.failed.insert(ifindex, text.clone()).as_ref() != Some(&text) {
                        self.core.tell(DiscoveryEvent::InterfaceFailed { interface: name, error: text });
                    }
                }
            }
        }
        self.core.set_links(self.clock.now(), self.links.values().map(LinkSockets::link));
    }

    fn has_incomplete_links(&self) -> bool {
        !self.failed.is_empty() || self.links.values().any(|sockets| !sockets.is_complete())
    }

    fn send(&mut self) {
        while let Some(transmit) = self.core.poll_transmit() {
            let bytes = &transmit.bytes;
            let result = match transmit.route {
                Route::Multicast { link } => {
                    let counts = self.links.get(&link).map(|sockets| sockets.send_groups(bytes, &self.config));
                    let (sent, failed) = counts.unwrap_or_default();
                    self.sent += sent;
                    self.send_failed += failed;
                    continue;
                }
                Route::Unicast { link, to } => {
                    self.links.get(&link).map_or(Ok(false), |sockets| sockets.send(bytes, to))
                }
                Route::Overlay { to } => self.overlay.send(bytes, to).map(|()| true),
            };
            match result {
                Ok(true) => self.sent += 1,
                Ok(false) => {}
                Err(error) => {
                    self.send_failed += 1;
                    tracing::trace!(%error, route = ?transmit.route, "send failed");
                }
            }
        }
    }

    fn store(&mut self) {
        if self.storage.is_ready() {
            self.storage.send(self.core.store_requests());
        }
    }

    fn stored(&mut self, reply: StoreReply) {
        match reply {
            StoreReply::Reserved { first, count } => self.core.add_numbers(self.clock.now(), first, count),
            StoreReply::NotReserved(error) => {
                self.core.reservation_failed();
                self.core.tell(DiscoveryEvent::StoreFailed { error });
            }
            StoreReply::Failed(error) => self.core.tell(DiscoveryEvent::StoreFailed { error }),
        }
    }

    fn publish(&self) {
        let mut counters = self.core.counters();
        counters.sent = self.sent;
        counters.send_failed = self.send_failed;
        counters.receive_dropped = self.sender.dropped.load(Ordering::Relaxed);
        self.counters.send_if_modified(|current| {
            let differs = *current != counters;
            *current = counters;
            differs
        });
    }

    async fn say_goodbye(&mut self) {
        self.core.leave(self.clock.now());
        self.send();
        tokio::time::sleep(LEAVE_AGAIN).await;
        self.core.repeat_leave();
        self.send();
        self.store();
        if !self.storage.flush(FLUSH).await {
            tracing::warn!("the store is slow; what discovery learned last is not stored");
        }
        self.publish();
    }
}
