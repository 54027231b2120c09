//! Loss of the data itself, from the counters that both ends of a path put into a probe and its answer (RFC 8972
//! section 4.5).
//!
//! Per direction, the packets that were sent less those that were received are the *deficit*: it grows by each loss, and
//! what is on its way doesn't show in it, as probe and data travel in one queue. Where they don't quite – a receiver
//! that merges segments lets a probe by, another processor counts a packet before it sends it – the deficit swings for a
//! moment. Only what [`SETTLED_BY`] probes in a row agree on counts: the settled deficit moves as little as needed to
//! lie between their least and their largest. A real loss moves all of them, a swing doesn't, and a packet that was
//! merely late takes its loss back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::evidence::proven_loss;
use super::{RECENT_LOST, RECENT_SLICES};
use crate::engine::time::Time;

/// Probes in a row that must agree.
const SETTLED_BY: usize = 8;
/// Samples in a row that go backwards before one of the ends is taken for restarted; fewer were overtaken.
const RESTARTED_BY: u32 = 4;
/// Slices of the window: it slides by one of them.
const SLICES: usize = 20;
/// Packets in the window from which on their loss says something about the path.
const TELLING: u64 = 1_000;

/// What both ends had counted at one probe, packets modulo 2³². 0 stands for a number that nobody wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Sent by us before the probe.
    pub sent: u32,
    /// Received by the peer before the probe.
    pub peer_received: u32,
    /// Sent by the peer before its answer.
    pub peer_sent: u32,
    /// Received by us before the answer.
    pub received: u32,
}

/// Loss of the data over the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DataLoss {
    /// Towards the peer, 0.0..=1.0.
    pub forward: f64,
    /// Packets that it rests on.
    pub forward_packets: u64,
    /// From the peer, 0.0..=1.0.
    pub backward: f64,
    /// Packets that it rests on.
    pub backward_packets: u64,
}

impl DataLoss {
    /// The worse of the directions, of those that rest on at least 1,000 packets.
    pub fn worst(&self) -> f64 {
        let telling = |loss: f64, packets: u64| if packets >= TELLING { loss } else { 0.0 };
        telling(self.forward, self.forward_packets).max(telling(self.backward, self.backward_packets))
    }
}

/// The estimator of both directions of one path.
#[derive(Clone, Debug)]
pub struct DirectLoss {
    window: Window,
    forward: Deficit,
    backward: Deficit,
    accepted: Option<u32>,
    last: Option<u32>,
}

impl DirectLoss {
    /// A window of about `window`.
    pub fn new(window: Duration) -> Self {
        Self {
            window: Window::new(window),
            forward: Deficit::default(),
            backward: Deficit::default(),
            accepted: None,
            last: None,
        }
    }

    /// The answer to this probe was accepted: it was asked for, and it is the first one. Counters of any other change
    /// nothing.
    pub fn accept(&mut self, sequence: u32) {
        self.accepted = Some(sequence);
    }

    /// The counters that came with the accepted answer, or that there were none. Answers that were overtaken tell
    /// nothing that later ones didn't.
    pub fn sample(&mut self, sequence: u32, counters: Option<&Counters>, now: Time) {
        if self.accepted.take() != Some(sequence) {
            return;
        }
        if self.last.is_some_and(|last| (sequence.wrapping_sub(last) as i32) <= 0) {
            return;
        }
        self.last = Some(sequence);
        let counters = counters.copied().unwrap_or_default();
        let slice = self.window.slice(now);
        // A peer that has received nothing is one that says so; the other three are written from the first packet on.
        let forward = (counters.sent != 0).then_some((counters.sent, counters.peer_received));
        self.forward.sample(forward, &mut slice[0]);
        let backward = (counters.peer_sent != 0 && counters.received != 0).then_some(counters);
        self.backward.sample(backward.map(|counters| (counters.peer_sent, counters.received)), &mut slice[1]);
    }

    /// The loss now.
    pub fn loss(&mut self, now: Time) -> DataLoss {
        self.window.slice(now);
        let [forward, backward] = [0, 1].map(|direction| self.window.sum(direction, SLICES));
        DataLoss {
            forward: forward.ratio(),
            forward_packets: forward.sent,
            backward: backward.ratio(),
            backward_packets: backward.sent,
        }
    }

    /// The worse direction's loss in the last second or so, 0.0..=1.0; 0 where too few were lost to tell it from chance.
    pub fn recent_loss(&mut self, now: Time) -> f64 {
        self.window.slice(now);
        let recent = [0, 1].map(|direction| self.window.sum(direction, RECENT_SLICES));
        recent.iter().filter(|share| share.lost >= RECENT_LOST).map(Share::ratio).fold(0.0, f64::max)
    }

    /// What was counted in the window, or in the last second or so, proves of the worse direction's loss, 0.0..=1.0.
    pub fn proven_loss(&mut self, now: Time) -> f64 {
        self.window.slice(now);
        let shares = [SLICES, RECENT_SLICES].map(|slices| [0, 1].map(|direction| self.window.sum(direction, slices)));
        let sent = |share: &Share| i64::try_from(share.sent).unwrap_or(i64::MAX);
        shares.iter().flatten().map(|share| proven_loss(share.lost, sent(share))).fold(0.0, f64::max)
    }
}

/// Packets of one direction in one slice, as many as 32 bits hold. The loss is signed: a late packet takes back what an
/// earlier slice counted.
#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    sent: u32,
    lost: i32,
}

impl Slice {
    fn add(&mut self, sent: u32, lost: i32) {
        self.sent = self.sent.saturating_add(sent);
        self.lost = self.lost.saturating_add(lost);
    }
}

/// Packets of one direction in several slices.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    sent: u64,
    lost: i64,
}

impl Share {
    fn ratio(&self) -> f64 {
        if self.sent == 0 { 0.0 } else { (self.lost.max(0) as f64 / self.sent as f64).min(1.0) }
    }
}

/// The sliding window, both directions in one slice.
#[derive(Clone, Debug)]
struct Window {
    span_ns: u64,
    start: Option<Time>,
    slices: [[Slice; 2]; SLICES],
    at: u8,
}

impl Window {
    fn new(window: Duration) -> Self {
        let span_ns = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX) / SLICES as u64;
        Self { span_ns: span_ns.max(1), start: None, slices: [[Slice::default(); 2]; SLICES], at: 0 }
    }

    /// The slice that `now` is in.
    fn slice(&mut self, now: Time) -> &mut [Slice; 2] {
        let start = *self.start.get_or_insert(now);
        let steps = now.0.saturating_sub(start.0) / self.span_ns;
        for _ in 0..steps.min(SLICES as u64) {
            self.at = (self.at + 1) % SLICES as u8;
            self.slices[usize::from(self.at)] = Default::default();
        }
        self.start = Some(Time(start.0 + steps * self.span_ns));
        &mut self.slices[usize::from(self.at)]
    }

    /// Of the last `slices` slices.
    fn sum(&self, direction: usize, slices: usize) -> Share {
        let last = (0..slices).map(|back| &self.slices[(usize::from(self.at) + SLICES - back) % SLICES]);
        last.map(|slice| slice[direction]).fold(Share::default(), |sum, slice| Share {
            sent: sum.sent + u64::from(slice.sent),
            lost: sum.lost + i64::from(slice.lost),
        })
    }
}

/// Sent, and sent less received, both since the estimator began, modulo 2³²: only their differences count, and between two
/// that are compared less than 2³¹ packets pass.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    sent: u32,
    deficit: i32,
}

/// One direction.
#[derive(Clone, Debug, Default)]
struct Deficit {
    counters: Option<(u32, u32)>,
    backwards: u32,
    now: Mark,
    /// The last ones, oldest first.
    recent: [Mark; SETTLED_BY],
    count: u8,
    settled: Option<Mark>,
}

impl Deficit {
    /// Takes the counters (sent, received) at one probe, and puts what became settled by it into `slice`.
    fn sample(&mut self, counters: Option<(u32, u32)>, slice: &mut Slice) {
        let Some((sent, received)) = counters else {
            // What passes meanwhile may be counted by one end only.
            *self = Self::default();
            return;
        };
        let Some((last_sent, last_received)) = self.counters else {
            self.counters = counters;
            self.push(slice);
            return;
        };
        let advance = |now: u32, last: u32| u32::try_from(now.wrapping_sub(last) as i32).ok();
        let (Some(sent), Some(received)) = (advance(sent, last_sent), advance(received, last_received)) else {
            self.backwards += 1;
            if self.backwards >= RESTARTED_BY {
                *self = Self { counters, ..Self::default() };
                self.push(slice);
            }
            return;
        };
        self.backwards = 0;
        self.counters = counters;
        self.now.sent = self.now.sent.wrapping_add(sent);
        self.now.deficit = self.now.deficit.wrapping_add(sent.wrapping_sub(received).cast_signed());
        self.push(slice);
    }

    fn push(&mut self, slice: &mut Slice) {
        if usize::from(self.count) < SETTLED_BY {
            self.recent[usize::from(self.count)] = self.now;
            self.count += 1;
        } else {
            self.recent.rotate_left(1);
            self.recent[SETTLED_BY - 1] = self.now;
        }
        if usize::from(self.count) < SETTLED_BY {
            return;
        }
        let oldest = self.recent[0];
        // How much they are more than the oldest.
        let mut deficits = self.recent.map(|mark| mark.deficit.wrapping_sub(oldest.deficit));
        deficits.sort_unstable();
        let (least, middle, most) = (deficits[0], deficits[SETTLED_BY / 2], deficits[SETTLED_BY - 1]);
        // What settled is as old as the oldest of them: packets and losses of the same time.
        let first = || Mark { sent: oldest.sent, deficit: oldest.deficit.wrapping_add(middle) };
        let settled = self.settled.unwrap_or_else(first);
        let lost = settled.deficit.wrapping_sub(oldest.deficit).clamp(least, most);
        let new = Mark { sent: oldest.sent, deficit: oldest.deficit.wrapping_add(lost) };
        slice.add(new.sent.wrapping_sub(settled.sent), new.deficit.wrapping_sub(settled.deficit));
        self.settled = Some(new);
    }
}

#[cfg(test)]
mod tests;
