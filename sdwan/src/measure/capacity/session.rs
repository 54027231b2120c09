//! The sending side: one measurement, on a thread of its own that may wait and keep time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tracing::debug;

use super::pacing::keep_time;
use super::socket::{BATCH, CapacitySocket};
use super::wire::{FINISH, Message, Packet, TRAIN, Verdict};
use super::{Counters, Way};
use crate::engine::capacity::reading::Sent;
use crate::engine::capacity::schedule::Reason;
use crate::engine::capacity::search::{Ended, Outcome, Plan, Search, Step, Train};
use crate::engine::capacity::train::TrainReport;
use crate::measure::clock;

/// An answer is waited for this long at least, and twice the round trip more.
const PATIENCE: Duration = Duration::from_millis(400);
/// Questions are asked so many times.
const TRIES: u32 = 4;
/// The pacing thread sleeps no shorter than this; what is due meanwhile leaves together.
const NAP: Duration = Duration::from_micros(100);
/// Packets that are later than this don't have to be caught up with.
const LATE: Duration = Duration::from_millis(5);
/// A solicited peer has this long to measure.
const SOLICITED: Duration = Duration::from_secs(100);

/// Why a measurement has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The peer doesn't want to.
    #[error("the peer refuses: {}", .0.text())]
    Refused(Reason),
    /// The peer doesn't answer.
    #[error("the peer does not answer: is it up, and does its version know capacity measurements?")]
    NoAnswer,
    /// The peer accepted, and never told what it found.
    #[error("the peer did not tell what it found")]
    NoVerdict,
    /// The daemon stops, or the tunnel went.
    #[error("the measurement was ended: the tunnel or the daemon went away")]
    Cancelled,
    /// The kernel refuses to send.
    #[error("cannot send trains by this path: {0}")]
    Socket(#[from] std::io::Error),
}

/// How far a measurement is.
#[derive(Debug, Default)]
pub struct Progress {
    permille: AtomicU64,
    estimate: AtomicU64,
    bytes: AtomicU64,
    cancelled: AtomicBool,
}

impl Progress {
    /// Share done by guess, 0..=1000.
    pub fn permille(&self) -> u64 {
        self.permille.load(Ordering::Relaxed)
    }

    /// What it looks like so far, bit/s; 0 for nothing yet.
    pub fn estimate(&self) -> u64 {
        self.estimate.load(Ordering::Relaxed)
    }

    /// Outer bytes sent.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Makes it end soon.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    fn set(&self, search: &Search) {
        self.permille.store((search.progress() * 1e3) as u64, Ordering::Relaxed);
        self.estimate.store(search.estimate().unwrap_or(0), Ordering::Relaxed);
        self.bytes.store(search.bytes(), Ordering::Relaxed);
    }
}

/// What a measurement found.
#[derive(Clone, Debug)]
pub struct Found {
    /// What the trains say.
    pub outcome: Outcome,
    /// Largest rate at which live traffic came in at the peer lately, bit/s.
    pub passive: Option<u64>,
}

/// One measurement.
pub(super) struct Session {
    pub socket: Arc<CapacitySocket>,
    pub way: Way,
    pub number: u64,
    pub answers: Receiver<Message>,
    pub progress: Arc<Progress>,
    pub counters: Arc<dyn Counters>,
}

impl Session {
    /// Measures towards the peer. `solicited` is the peer's session that asked for it, or 0.
    pub fn forward(&self, plan: Plan, solicited: u64) -> Result<Found, Failure> {
        if let Err(error) = keep_time() {
            debug!("trains are paced without real-time priority: {error}");
        }
        let asked = Instant::now();
        let passive = match self.ask(&Message::Open, PATIENCE, |answer| match answer {
            Message::Accept { passive } => Some(Ok(passive)),
            Message::Refuse(reason) => Some(Err(Failure::Refused(reason))),
            _ => None,
        })? {
            Some(answer) => answer?,
            None => return Err(Failure::NoAnswer),
        };
        let round_trip = asked.elapsed();
        let plan = Plan { size: self.way.size(), ..plan };
        let outcome = self.search(plan, round_trip);
        let verdict = match &outcome {
            Ok(outcome) => {
                Verdict { capacity: outcome.capacity.unwrap_or(0), found: outcome.ended == Ended::Found, solicited }
            }
            Err(_) => Verdict { solicited, ..Verdict::default() },
        };
        // The outcome stands even if the peer doesn't hear of it.
        let closed = self.ask(&Message::Close(verdict), PATIENCE + round_trip * 2, |answer| {
            (answer == Message::Closed).then_some(())
        });
        match outcome {
            Ok(outcome) => {
                drop(closed);
                Ok(Found { outcome, passive: (passive > 0).then_some(passive) })
            }
            Err(failure) => Err(failure),
        }
    }

    /// Has the peer measure towards us.
    pub fn backward(&self) -> Result<Verdict, Failure> {
        let answer = self.ask(&Message::Solicit, PATIENCE, |answer| match answer {
            Message::Accept { .. } => Some(Ok(None)),
            // Quicker than its own consent.
            Message::Close(verdict) => Some(Ok(Some(verdict))),
            Message::Refuse(reason) => Some(Err(Failure::Refused(reason))),
            _ => None,
        })?;
        if let Some(verdict) = answer.ok_or(Failure::NoAnswer)?? {
            return Ok(verdict);
        }
        let verdict = self.wait(SOLICITED, |answer| match answer {
            Message::Close(verdict) => Some(Ok(verdict)),
            // It tried, and couldn't.
            Message::Refuse(reason) => Some(Err(Failure::Refused(reason))),
            _ => None,
        })?;
        verdict.transpose()?.filter(|verdict| verdict.capacity > 0).ok_or(Failure::NoVerdict)
    }

    fn search(&self, plan: Plan, round_trip: Duration) -> Result<Outcome, Failure> {
        let mut search = Search::new(plan, clock::now());
        loop {
            if self.progress.is_cancelled() {
                return Err(Failure::Cancelled);
            }
            match search.step(clock::now()) {
                Step::Done(outcome) => return Ok(outcome),
                Step::Wait(until) => {
                    let wait = until.since(clock::now()).min(PATIENCE);
                    // Nothing is expected now; what comes is late.
                    self.wait(wait, |_| None::<()>)?;
                }
                Step::Send(train) => {
                    let before = (clock::now(), self.counters.others_sent(&self.way));
                    let mut sent = self.send(&train)?;
                    let patience = PATIENCE + round_trip * 2;
                    let finish = Message::Finish { train: train.number };
                    let report = self.ask(&finish, patience, |answer| match answer {
                        Message::Report(report) if report.train == train.number => Some(report),
                        _ => None,
                    })?;
                    sent.others = before.1.and_then(|former| {
                        let now = self.counters.others_sent(&self.way)?;
                        let own = sent.bytes() + FINISH as u64;
                        let time = clock::now().since(before.0).as_secs_f64();
                        Some((now.saturating_sub(former).saturating_sub(own) as f64 / time.max(1e-3)) as u64)
                    });
                    self.take(&mut search, &sent, report);
                }
            }
            self.progress.set(&search);
        }
    }

    fn take(&self, search: &mut Search, sent: &Sent, report: Option<TrainReport>) {
        match report {
            Some(report) => {
                tracing::trace!(rate = sent.rate(), ?sent, ?report, "a train was reported");
                search.reported(sent, &report, clock::now());
            }
            None => search.silent(sent, clock::now()),
        }
    }

    /// Sends a train at its rate, and ends it early when the peer says so.
    fn send(&self, train: &Train) -> Result<Sent, Failure> {
        let packet = Packet { train: train.number, index: 0, count: train.packets, sent_ns: 0 };
        let encoded = Message::Train(packet).encode(self.number);
        let mut template = [0; TRAIN];
        template.copy_from_slice(&encoded);
        let padding = vec![0; usize::from(self.way.payload()).saturating_sub(TRAIN)];
        let gap = u64::from(train.size) * 8_000_000_000 / train.rate.max(1);
        let mut start = clock::now().0;
        let (mut first, mut last) = (None, 0);
        let mut index = 0;
        let mut refused = 0;
        while index < train.packets {
            let now = clock::now().0;
            let due = start + gap * u64::from(index);
            if now < due {
                std::thread::sleep(Duration::from_nanos(due - now).max(NAP));
                continue;
            }
            if now - due > LATE.as_nanos() as u64 {
                start += now - due;
            }
            if self.must_stop(train.number)? {
                break;
            }
            let waiting = (now.saturating_sub(start) / gap.max(1) + 1).saturating_sub(u64::from(index)).max(1);
            let count = (waiting.min(BATCH as u64) as usize).min(usize::from(train.packets - index));
            match self.socket.send_train(&template, index, count, clock::unix_ns(), &padding, self.way.peer()) {
                Ok(taken) => {
                    first.get_or_insert(now);
                    last = now;
                    index += taken as u16;
                    refused = 0;
                }
                Err(error) if is_full(&error) && refused < 2_000 => {
                    refused += 1;
                    std::thread::sleep(NAP);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let span_ns = last.saturating_sub(first.unwrap_or(last));
        Ok(Sent { packets: index, size: train.size, span_ns, others: None })
    }

    fn must_stop(&self, train: u16) -> Result<bool, Failure> {
        while let Ok(message) = self.answers.try_recv() {
            if message == (Message::Stop { train }) {
                return Ok(true);
            }
        }
        if self.progress.is_cancelled() { Err(Failure::Cancelled) } else { Ok(false) }
    }

    /// Asks until an answer is what was wanted.
    fn ask<T>(
        &self,
        question: &Message,
        patience: Duration,
        mut wanted: impl FnMut(Message) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        let bytes = question.encode(self.number);
        for _ in 0..TRIES {
            match self.socket.send(&bytes, self.way.peer()) {
                Err(error) if !is_full(&error) && !is_passing(&error) => return Err(error.into()),
                _ => {}
            }
            if let Some(answer) = self.wait(patience, &mut wanted)? {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    fn wait<T>(&self, patience: Duration, mut wanted: impl FnMut(Message) -> Option<T>) -> Result<Option<T>, Failure> {
        let end = Instant::now() + patience;
        loop {
            if self.progress.is_cancelled() {
                return Err(Failure::Cancelled);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            match self.answers.recv_timeout(left.min(Duration::from_millis(500))) {
                Ok(message) => {
                    if let Some(answer) = wanted(message) {
                        return Ok(Some(answer));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::Cancelled),
            }
        }
    }
}

impl Way {
    fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.peer, super::wire::PORT)
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::EINTR))
}

/// The path may be back in a moment; the missing answer says it all.
fn is_passing(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENOKEY))
}
