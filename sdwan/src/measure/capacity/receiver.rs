//! The thread that receives on a tunnel: answers peers that measure, and hands their answers to our own measurement.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use super::responder::Responder;
use super::socket::{CapacitySocket, Datagram, Inbox};
use super::wire::{Message, PORT};
use super::{Claims, Counters, Event, MeterCounters, Rules, Slot, headers};
use crate::engine::capacity::Framing;
use crate::engine::capacity::schedule::Reason;
use crate::engine::capacity::train::Sample;
use crate::engine::types::TunnelKey;
use crate::measure::clock;

/// A look at the counters that takes longer than this was interrupted, ns.
const LONGEST_LOOK_NS: u64 = 200_000;

/// What the thread works with.
pub(super) struct Receiver {
    pub tunnel: TunnelKey,
    pub socket: Arc<CapacitySocket>,
    pub slot: Slot,
    pub stop: Arc<AtomicBool>,
    pub rules: watch::Receiver<Arc<Rules>>,
    pub claims: Claims,
    pub events: mpsc::Sender<Event>,
    pub sources: Arc<dyn Counters>,
    pub counters: Arc<MeterCounters>,
}

/// What is going on.
#[derive(Default)]
struct State {
    responder: Responder,
    /// This tunnel has claimed its uplink for a peer's measurement.
    claimed: bool,
    /// Who sent the last packet of a train, its bytes inside the tunnel, and what the tunnel adds.
    train: Option<(IpAddr, u16, Framing)>,
}

impl Receiver {
    /// Works until told to stop, or until the socket fails.
    pub fn run(self) {
        let mut inbox = Inbox::default();
        let mut state = State::default();
        while !self.stop.load(Ordering::Relaxed) {
            state.train = None;
            let received = self.socket.receive(&mut inbox, |datagram| self.take(&mut state, &datagram));
            if let Err(error) = received {
                warn!(tunnel = %self.tunnel, "the capacity socket failed and will be opened again: {error}");
                break;
            }
            if let Some((peer, inner, framing)) = state.train
                && let Some(sample) = self.sample(peer, inner, framing)
            {
                state.responder.counted(sample);
            }
            if state.claimed && !state.responder.is_open(clock::unix_ns()) {
                self.claim().store(false, Ordering::Relaxed);
                state.claimed = false;
            }
        }
        if state.claimed {
            self.claim().store(false, Ordering::Relaxed);
        }
    }

    /// The counters of the path now; `None` when reading them took so long that nobody knows when that was.
    fn sample(&self, peer: IpAddr, inner: u16, framing: Framing) -> Option<Sample> {
        let at_ns = clock::unix_ns();
        let (packets, bytes) = self.sources.received(self.tunnel, peer)?;
        let took = clock::unix_ns().saturating_sub(at_ns);
        (took <= LONGEST_LOOK_NS).then_some(Sample { at_ns, packets, bytes, inner, framing })
    }

    fn claim(&self) -> &AtomicBool {
        &self.claims[usize::from(self.tunnel.local.get())]
    }

    fn take(&self, state: &mut State, datagram: &Datagram<'_>) {
        let peer = datagram.source.ip();
        // Not earlier: while the thread waited they may have changed.
        let rule = self.rules.borrow().get(&(self.tunnel, peer)).copied();
        let rule = rule.filter(|_| datagram.source.port() == PORT);
        let Some(rule) = rule else { return MeterCounters::count(&self.counters.foreign) };
        let (session, message) = match Message::decode(datagram.bytes) {
            Ok(decoded) if datagram.length <= super::wire::LONGEST => decoded,
            _ => return MeterCounters::count(&self.counters.malformed),
        };
        let now = clock::unix_ns();
        let received = datagram.received_ns.filter(|at| *at <= now).unwrap_or(now);
        match message {
            Message::Open => {
                let outcome = rule.consent.and_then(|()| self.admit(state, peer, session, now));
                let answer = match outcome {
                    Ok(()) => Message::Accept { passive: rule.passive },
                    Err(reason) => {
                        MeterCounters::count(&self.counters.refused);
                        Message::Refuse(reason)
                    }
                };
                self.send(&answer, session, datagram.source);
            }
            Message::Train(_) | Message::Finish { .. } | Message::Close(_) => {
                if let Message::Train(_) = message {
                    let inner = u16::try_from(datagram.length).unwrap_or(u16::MAX).saturating_add(headers(peer));
                    state.train = Some((peer, inner, rule.framing));
                }
                let effect = state.responder.handle(peer, session, &message, received, now);
                if effect.stray {
                    MeterCounters::count(&self.counters.stray);
                }
                if let Some(answer) = effect.answer {
                    self.send(&answer, session, datagram.source);
                }
                if let Some(verdict) = effect.verdict {
                    if verdict.solicited != 0 {
                        self.deliver(peer, verdict.solicited, Message::Close(verdict));
                    }
                    self.tell(Event::Told { tunnel: self.tunnel, peer, verdict });
                }
            }
            Message::Solicit => self.tell(Event::Solicited { tunnel: self.tunnel, peer, session }),
            Message::Accept { .. }
            | Message::Refuse(_)
            | Message::Report(_)
            | Message::Stop { .. }
            | Message::Closed => {
                self.deliver(peer, session, message);
            }
        }
    }

    /// One peer at a time measures on each uplink: two would measure each other.
    fn admit(&self, state: &mut State, peer: IpAddr, session: u64, now: u64) -> Result<(), Reason> {
        state.responder.may_open(peer, session, now)?;
        if !state.claimed {
            let claimed = self.claim().compare_exchange(false, true, Ordering::Relaxed, Ordering::Relaxed);
            claimed.map_err(|_| Reason::Busy)?;
            state.claimed = true;
        }
        state.responder.open(peer, session, now);
        Ok(())
    }

    /// Hands an answer to the measurement that waits for it.
    fn deliver(&self, peer: IpAddr, session: u64, message: Message) {
        let slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.as_ref().filter(|(number, other, _)| *number == session && *other == peer) {
            Some((.., sender)) => {
                if sender.try_send(message).is_err() {
                    MeterCounters::count(&self.counters.overrun);
                }
            }
            None => MeterCounters::count(&self.counters.stray),
        }
    }

    fn tell(&self, event: Event) {
        if self.events.try_send(event).is_err() {
            MeterCounters::count(&self.counters.overrun);
        }
    }

    fn send(&self, message: &Message, session: u64, to: SocketAddr) {
        if let Err(error) = self.socket.send(&message.encode(session), to) {
            debug!(tunnel = %self.tunnel, %to, "cannot answer: {error}");
            MeterCounters::count(&self.counters.send_failed);
        }
    }
}
