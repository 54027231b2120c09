//! Loss per direction over a sliding window, from the sender's and the stateful reflector's sequence numbers.
//!
//! Between two answers the sender's number advanced by `s`, the reflector's by `r`: `s - r` probes were lost on the way
//! there, `r - 1` answers on the way back. Probes without any later answer are lost in an unknown direction.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::evidence::proven_loss;
use crate::engine::time::Time;

/// Loss over the window, each 0.0..=1.0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Probes that didn't reach the peer.
    pub forward: f64,
    /// Answers that didn't come back, of those that were sent.
    pub backward: f64,
    /// Probes without an answer, whichever way they were lost.
    pub round_trip: f64,
    /// Probes that these ratios rest on.
    pub probes: u32,
}

impl Loss {
    /// The worst of the directions; the whole when the direction isn't known.
    pub fn worst(&self) -> f64 {
        // A round trip's loss that the directions don't explain was seen as silence: count it in full.
        let explained = 1.0 - (1.0 - self.forward) * (1.0 - self.backward);
        self.forward.max(self.backward).max(self.round_trip - explained)
    }
}

/// How a slice counts: with more than its type holds it stays at that, which is far beyond what a loss is told by.
pub trait Count: Copy + Default + Into<i32> {
    /// More by so many.
    fn plus(self, more: i32) -> Self;
}

impl Count for i32 {
    fn plus(self, more: i32) -> Self {
        self.saturating_add(more)
    }
}

impl Count for i16 {
    fn plus(self, more: i32) -> Self {
        let sum = i32::from(self).saturating_add(more);
        sum.clamp(i16::MIN.into(), i16::MAX.into()) as Self
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Slice<C> {
    answered: C,
    lost_forward: C,
    lost_backward: C,
    timed_out: C,
}

/// The window, which slides by one of its slices. A slice of half a second counts in 16 bits, one of half a day in 32.
#[derive(Clone, Debug)]
pub struct LossWindow<const SLICES: usize, C> {
    slice_ns: u64,
    slice_start: Time,
    slices: [Slice<C>; SLICES],
    at: u8,
    last: Option<(u32, u32)>,
    /// Probes that timed out after the last answer: the next answer tells in which direction.
    unexplained: u32,
}

impl<const SLICES: usize, C: Count> LossWindow<SLICES, C> {
    /// A window of about `window`.
    pub fn new(window: Duration) -> Self {
        Self {
            slice_ns: u64::try_from(window.as_nanos()).unwrap_or(u64::MAX) / SLICES as u64,
            slice_start: Time(0),
            slices: [Slice::default(); SLICES],
            at: 0,
            last: None,
            unexplained: 0,
        }
    }

    /// A probe was answered. The caller has made sure that it is the first answer to this probe.
    pub fn answered(&mut self, sequence: u32, reflector_sequence: u32, now: Time) {
        self.slide(now);
        let unexplained = std::mem::take(&mut self.unexplained);
        let slice = &mut self.slices[usize::from(self.at)];
        slice.answered = slice.answered.plus(1);
        let Some((last_sequence, last_reflector)) = self.last else {
            self.last = Some((sequence, reflector_sequence));
            return;
        };
        let sent = sequence.wrapping_sub(last_sequence) as i32;
        let reflected = reflector_sequence.wrapping_sub(last_reflector) as i32;
        if sent <= 0 {
            // Overtaken: it was counted as lost, in the direction in which it was late.
            if reflected > 0 {
                slice.lost_forward = slice.lost_forward.plus(-1);
                self.last = Some((last_sequence, reflector_sequence));
            } else {
                slice.lost_backward = slice.lost_backward.plus(-1);
            }
            self.unexplained = unexplained;
            return;
        }
        self.last = Some((sequence, reflector_sequence));
        if reflected <= 0 || reflected > sent {
            // The reflector was restarted: only the total is known, and timed-out probes were counted already.
            slice.timed_out = slice.timed_out.plus((sent - 1 - unexplained as i32).max(0));
            return;
        }
        slice.lost_forward = slice.lost_forward.plus(sent - reflected);
        slice.lost_backward = slice.lost_backward.plus(reflected - 1);
        // What timed out in the meantime is explained now; it may have been counted in an earlier slice.
        self.forget_timed_out(unexplained);
    }

    /// A probe got no answer in time.
    pub fn timed_out(&mut self, sequence: u32, now: Time) {
        self.slide(now);
        let newer_answered = self.last.is_some_and(|(last, _)| (last.wrapping_sub(sequence) as i32) > 0);
        if !newer_answered {
            let slice = &mut self.slices[usize::from(self.at)];
            slice.timed_out = slice.timed_out.plus(1);
            self.unexplained = self.unexplained.saturating_add(1);
        }
    }

    /// The loss now.
    pub fn loss(&mut self, now: Time) -> Loss {
        self.slide(now);
        let sum = |field: fn(&Slice<C>) -> C| self.slices.iter().map(|slice| field(slice).into()).sum::<i32>().max(0);
        let answered = sum(|slice| slice.answered);
        let forward = sum(|slice| slice.lost_forward);
        let backward = sum(|slice| slice.lost_backward);
        let timed_out = sum(|slice| slice.timed_out);
        let ratio = |part: i32, whole: i32| if whole > 0 { f64::from(part) / f64::from(whole) } else { 0.0 };
        let directed = answered + forward + backward;
        Loss {
            forward: ratio(forward, directed),
            backward: ratio(backward, answered + backward),
            round_trip: ratio(forward + backward + timed_out, directed + timed_out),
            probes: (directed + timed_out) as u32,
        }
    }

    /// The worse direction's loss in the last `slices` slices, 0.0..=1.0; 0 when fewer than `least` were lost.
    pub fn recent(&mut self, now: Time, slices: usize, least: i64) -> f64 {
        let ratio = |(lost, whole): (i64, i64)| if lost >= least { lost as f64 / whole as f64 } else { 0.0 };
        self.directions(now, slices).map(ratio).into_iter().fold(0.0, f64::max)
    }

    /// What the last `slices` slices prove of the worse direction's loss, 0.0..=1.0.
    pub fn proven(&mut self, now: Time, slices: usize) -> f64 {
        let proven = |(lost, whole): (i64, i64)| proven_loss(lost, whole);
        self.directions(now, slices).map(proven).into_iter().fold(0.0, f64::max)
    }

    /// Lost, and sent, of the last `slices` slices: towards the peer, and from it.
    fn directions(&mut self, now: Time, slices: usize) -> [(i64, i64); 2] {
        self.slide(now);
        let recent =
            || (0..slices.min(SLICES)).map(|back| &self.slices[(usize::from(self.at) + SLICES - back) % SLICES]);
        let sum = |field: fn(&Slice<C>) -> C| recent().map(|slice| i64::from(field(slice).into())).sum::<i64>().max(0);
        let (answered, forward, backward) =
            (sum(|slice| slice.answered), sum(|slice| slice.lost_forward), sum(|slice| slice.lost_backward));
        [(forward, answered + forward + backward), (backward, answered + backward)]
    }

    fn forget_timed_out(&mut self, count: u32) {
        let mut left = i32::try_from(count).unwrap_or(i32::MAX);
        for step in 0..SLICES {
            let slice = &mut self.slices[(usize::from(self.at) + SLICES - step) % SLICES];
            let here = slice.timed_out.into().min(left);
            slice.timed_out = slice.timed_out.plus(-here);
            left -= here;
        }
    }

    fn slide(&mut self, now: Time) {
        if self.slice_start == Time(0) {
            self.slice_start = now;
        }
        let slice = Duration::from_nanos(self.slice_ns);
        let mut steps = 0;
        while now.since(self.slice_start) >= slice && steps < SLICES {
            self.at = (self.at + 1) % SLICES as u8;
            self.slices[usize::from(self.at)] = Slice::default();
            self.slice_start = self.slice_start + slice;
            steps += 1;
        }
        if now.since(self.slice_start) >= slice {
            self.slice_start = now;
        }
    }
}
