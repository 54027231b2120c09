//! A session reflector on addresses of this machine.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::select_all;
use tracing::{debug, info, warn};

use super::answer::{ClockQuality, Seen};
use super::counters::{ReflectorCounters, Refusal};
use super::key::KeyError;
use super::limits::Limits;
use super::reflector::{Reflector, SESSIONS, Settings};
use crate::measure::clock;
use crate::measure::socket::{Binding, Datagram, SocketError, TestSocket};

/// How long what was learnt of the clock holds, ns.
const CLOCK_HOLDS_NS: u64 = 1_000_000_000;

/// A reflector that can't be started.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A socket.
    #[error("the STAMP reflector cannot {} its socket on {address}: {}; `ss -lunp` shows who has the port",
        .source.action, .source.source)]
    Socket {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: SocketError,
    },
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// What is known of the clock, asked for once in a while.
#[derive(Debug, Default)]
pub struct Clock {
    known: Option<(u64, ClockQuality)>,
}

impl Clock {
    /// The quality now.
    pub fn quality(&mut self, now_ns: u64) -> ClockQuality {
        match self.known {
            Some((since, quality)) if now_ns.saturating_sub(since) < CLOCK_HOLDS_NS => quality,
            _ => {
                let quality = clock::quality();
                self.known = Some((now_ns, quality));
                quality
            }
        }
    }
}

/// The sockets of a reflector.
pub struct Listener {
    open: Vec<(TestSocket, u16, Reflector)>,
    limits: Limits,
    counters: Arc<ReflectorCounters>,
}

impl Listener {
    /// Opens one socket per address.
    ///
    /// # Errors
    /// The first address that can't be listened on.
    pub fn open(addresses: &[SocketAddr], settings: &Settings) -> Result<Self, ListenError> {
        let counters = Arc::new(ReflectorCounters::default());
        let sessions = SESSIONS / addresses.len().max(1);
        let mut open = Vec::with_capacity(addresses.len());
        for &address in addresses {
            let fail = |source| ListenError::Socket { address, source };
            let socket = TestSocket::open(Binding { interface: None, local: address, mark: None, patient: true })
                .map_err(fail)?;
            let local = socket.local().map_err(|source| fail(SocketError { action: "look at", source }))?;
            info!(address = %local, "STAMP reflector");
            open.push((socket, local.port(), Reflector::new(settings.clone(), sessions, counters.clone())));
        }
        Ok(Self { open, limits: Limits::new(settings.rates), counters })
    }

    /// Its counters, shared.
    pub fn counters(&self) -> Arc<ReflectorCounters> {
        self.counters.clone()
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.open.iter().filter_map(|(socket, ..)| socket.local().ok()).collect()
    }

    /// Answers until a socket fails.
    pub async fn run(mut self) -> std::io::Error {
        let mut clock = Clock::default();
        if self.open.is_empty() {
            std::future::pending::<()>().await;
        }
        loop {
            // The futures of one task take turns: nobody ever waits for this.
            let shared = Mutex::new((&mut self.limits, &mut clock));
            let sockets = self.open.iter_mut().map(|(socket, port, reflector)| {
                let shared = &shared;
                let (socket, port) = (&*socket, *port);
                Box::pin(socket.receive_some(move |datagram| {
                    let (limits, clock) = &mut *shared.lock().unwrap_or_else(PoisonError::into_inner);
                    // Refusals are counted where they are decided.
                    match answer(reflector, limits, socket, port, clock, &datagram) {
                        Ok(_) => {}
                        Err(refusal) => debug!(source = %datagram.source, reason = refusal.name(), "no answer"),
                    }
                }))
            });
            if let (Err(error), ..) = select_all(sockets).await {
                return error;
            }
            // The first of several busy sockets must not be the only one that is served.
            self.open.rotate_left(1);
            tokio::task::yield_now().await;
        }
    }
}

/// Answers a datagram. Returns whether the kernel took the answer.
///
/// # Errors
/// Why there is none.
pub fn answer(
    reflector: &mut Reflector,
    limits: &mut Limits,
    socket: &TestSocket,
    port: u16,
    clock: &mut Clock,
    datagram: &Datagram<'_>,
) -> Result<bool, Refusal> {
    let now_unix_ns = clock::unix_ns();
    let seen = Seen {
        source: datagram.source,
        destination: datagram.destination,
        port,
        ttl: datagram.ttl.unwrap_or(0),
        traffic_class: datagram.traffic_class.unwrap_or(0),
        // A stamp of the kernel from the future means that the clock was set back meanwhile.
        received_unix_ns: datagram.received_unix_ns.filter(|at| *at <= now_unix_ns).unwrap_or(now_unix_ns),
    };
    let now_ns = clock::now().0;
    let quality = clock.quality(now_ns);
    let reply = reflector.handle(datagram.payload, &seen, limits, quality, now_ns, clock::unix_ns)?;
    let (token, class) = (reply.token, reply.dscp << 2);
    // The packet leaves after this and before the call returns; after it, the other end may have it already.
    let leaving_unix_ns = clock::unix_ns();
    let sent = socket.send_from(reply.payload, datagram.source, datagram.destination, Some(class));
    match sent {
        Ok(()) => {
            ReflectorCounters::count(&reflector.counters().answered);
            reflector.sent(token, leaving_unix_ns);
            Ok(true)
        }
        Err(error) => {
            debug!(to = %datagram.source, "cannot send an answer: {error}");
            ReflectorCounters::count(&reflector.counters().send_failed);
            Ok(false)
        }
    }
}

/// Runs a listener until it fails, and says so.
pub async fn run_and_warn(listener: Listener) {
    let error = listener.run().await;
    warn!("the STAMP reflector ended: {error}");
}
