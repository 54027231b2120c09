//! The answering side on one tunnel, without sockets or clocks: which message gets which answer.

use std::net::IpAddr;

use super::wire::{Message, Verdict};
use crate::engine::capacity::schedule::Reason;
use crate::engine::capacity::train::{Gathering, Sample, Taken};

/// A session ends when nothing was heard of it for this long, ns.
const IDLE_NS: u64 = 10_000_000_000;
/// … or when it has lasted this long, ns.
const LONGEST_NS: u64 = 120_000_000_000;
/// Time between two sessions of a peer, ns.
const LEAST_BETWEEN_NS: u64 = 5_000_000_000;
/// A train ends early when its delay has risen by this much, ns.
const MOST_DELAY_NS: i64 = 60_000_000;
/// Sessions that are remembered to answer their repeated questions.
const REMEMBERED: usize = 16;

/// What a message leads to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effect {
    /// What goes back to where it came from.
    pub answer: Option<Message>,
    /// What the peer found out about its direction, which is ours backward.
    pub verdict: Option<Verdict>,
    /// The message changed nothing, because it fits no session.
    pub stray: bool,
}

impl Effect {
    fn answer(message: Message) -> Self {
        Self { answer: Some(message), ..Self::default() }
    }

    fn stray() -> Self {
        Self { stray: true, ..Self::default() }
    }
}

/// A session in which a peer sends trains.
#[derive(Debug)]
struct Session {
    peer: IpAddr,
    number: u64,
    began_ns: u64,
    heard_ns: u64,
    /// One-way delay of its first packet, by two clocks, ns.
    reference_ns: Option<i64>,
    train: Option<Gathering>,
}

/// The answering side.
#[derive(Debug, Default)]
pub struct Responder {
    session: Option<Session>,
    /// Sessions that ended, with their peers and the time.
    ended: Vec<(IpAddr, u64, u64)>,
}

impl Responder {
    /// Whether a peer may have a session now. The same one again is fine: its answer was lost.
    pub fn may_open(&mut self, peer: IpAddr, number: u64, now_ns: u64) -> Result<(), Reason> {
        self.expire(now_ns);
        if let Some(session) = &self.session {
            let same = session.peer == peer && session.number == number;
            return if same { Ok(()) } else { Err(Reason::Busy) };
        }
        if self.ended.iter().any(|(other, old, _)| *other == peer && *old == number) {
            // A question that somebody kept.
            return Err(Reason::Budget);
        }
        let last = self.ended.iter().filter(|(other, ..)| *other == peer).map(|(.., at)| *at).max();
        match last {
            Some(at) if now_ns.saturating_sub(at) < LEAST_BETWEEN_NS => Err(Reason::Budget),
            _ => Ok(()),
        }
    }

    /// Whether a session is open.
    pub fn is_open(&mut self, now_ns: u64) -> bool {
        self.expire(now_ns);
        self.session.is_some()
    }

    /// Opens a session that [`Self::may_open`] allowed.
    pub fn open(&mut self, peer: IpAddr, number: u64, now_ns: u64) {
        let same = |session: &Session| session.peer == peer && session.number == number;
        if !self.session.as_ref().is_some_and(same) {
            self.session =
                Some(Session { peer, number, began_ns: now_ns, heard_ns: now_ns, reference_ns: None, train: None });
        }
    }

    /// A message of the sending side came in. `received_ns` and `now_ns` are by the clock of `CLOCK_REALTIME`.
    pub fn handle(&mut self, peer: IpAddr, number: u64, message: &Message, received_ns: u64, now_ns: u64) -> Effect {
        self.expire(now_ns);
        if let Message::Close(verdict) = message {
            return self.close(peer, number, *verdict, now_ns);
        }
        let session = self.session.as_mut().filter(|session| session.peer == peer && session.number == number);
        let Some(session) = session else { return Effect::stray() };
        match message {
            Message::Train(packet) => {
                let reference = *session.reference_ns.get_or_insert(received_ns.wrapping_sub(packet.sent_ns) as i64);
                let newer = |train: &Gathering| packet.train > train.train();
                if session.train.as_ref().is_none_or(newer) {
                    session.train = Some(Gathering::new(packet.train, packet.count, reference));
                    session.heard_ns = now_ns;
                }
                let Some(train) = session.train.as_mut().filter(|train| train.train() == packet.train) else {
                    return Effect::stray();
                };
                if train.packet(packet.index, packet.sent_ns, received_ns) == Taken::Surplus {
                    return Effect::stray();
                }
                if train.should_stop(packet.sent_ns, received_ns, MOST_DELAY_NS) {
                    return Effect::answer(Message::Stop { train: packet.train });
                }
                Effect::default()
            }
            Message::Finish { train } => {
                session.heard_ns = now_ns;
                match &session.train {
                    Some(gathering) if gathering.train() == *train => {
                        Effect::answer(Message::Report(gathering.report()))
                    }
                    // All of it was lost, or it is long over.
                    Some(gathering) if gathering.train() > *train => Effect::stray(),
                    _ => Effect::answer(Message::Report(Gathering::new(*train, 1, 0).report())),
                }
            }
            _ => Effect::stray(),
        }
    }

    /// The counters of the path were read while a train comes in.
    pub fn counted(&mut self, sample: Sample) {
        if let Some(train) = self.session.as_mut().and_then(|session| session.train.as_mut()) {
            train.sample(sample);
        }
    }

    fn close(&mut self, peer: IpAddr, number: u64, verdict: Verdict, now_ns: u64) -> Effect {
        let same = |session: &Session| session.peer == peer && session.number == number;
        if self.session.as_ref().is_some_and(same) {
            self.end(now_ns);
            return Effect { answer: Some(Message::Closed), verdict: Some(verdict), stray: false };
        }
        // Again: its answer was lost.
        match self.ended.iter().any(|(other, old, _)| *other == peer && *old == number) {
            true => Effect::answer(Message::Closed),
            false => Effect::stray(),
        }
    }

    fn expire(&mut self, now_ns: u64) {
        let over = |session: &Session| {
            now_ns.saturating_sub(session.heard_ns) > IDLE_NS || now_ns.saturating_sub(session.began_ns) > LONGEST_NS
        };
        if self.session.as_ref().is_some_and(over) {
            self.end(now_ns);
        }
    }

    fn end(&mut self, now_ns: u64) {
        if let Some(session) = self.session.take() {
            if self.ended.len() >= REMEMBERED {
                self.ended.remove(0);
            }
            self.ended.push((session.peer, session.number, now_ns));
        }
    }
}
