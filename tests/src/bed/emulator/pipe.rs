//! One direction of an emulated line, without sockets or clocks: every call takes `now` in ns.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{Distribution, Impairment, Loss, PipeStatistics};
use crate::histogram::Histogram;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// Bytes that may be on their way at once.
const MOST_BYTES: usize = 256 << 20;

/// One direction of a line: frames go in by [`Pipe::push`] and come out of [`Pipe::pop_due`] at their time.
#[derive(Debug)]
pub struct Pipe {
    impairment: Impairment,
    random: SmallRng,
    in_bad_state: bool,
    /// When the bottleneck will have sent everything that waits, ns.
    free_at_ns: u64,
    /// When the last frame that must keep its order leaves, ns.
    last_due_ns: u64,
    queue: BinaryHeap<Reverse<Waiting>>,
    queued_bytes: usize,
    order: u64,
    statistics: PipeStatistics,
    lateness: Histogram,
}

/// A frame on its way; sorts by time, then by order of arrival.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    due_ns: u64,
    order: u64,
    frame: Box<[u8]>,
}

impl Pipe {
    /// A pipe whose chances follow from `seed`.
    pub fn new(impairment: Impairment, seed: u64) -> Self {
        Self {
            impairment,
            random: SmallRng::seed_from_u64(seed),
            in_bad_state: false,
            free_at_ns: 0,
            last_due_ns: 0,
            queue: BinaryHeap::new(),
            queued_bytes: 0,
            order: 0,
            statistics: PipeStatistics::default(),
            lateness: Histogram::default(),
        }
    }

    /// Changes what happens to the frames that come from now on.
    pub fn set(&mut self, impairment: Impairment) {
        if impairment.rate != self.impairment.rate {
            self.free_at_ns = 0;
        }
        self.impairment = impairment;
        self.in_bad_state = false;
        self.last_due_ns = 0;
    }

    /// Takes a frame that arrived at `now_ns`.
    pub fn push(&mut self, frame: &[u8], now_ns: u64) {
        self.statistics.received += 1;
        let too_big = |most: u32| frame.len().saturating_sub(ETHERNET) > most as usize;
        if self.impairment.drop_larger_than.is_some_and(too_big) {
            self.statistics.oversized += 1;
            return;
        }
        if self.is_lost() {
            self.statistics.lost += 1;
            return;
        }
        let Some(sent_ns) = self.through_bottleneck(frame.len(), now_ns) else {
            self.statistics.queue_dropped += 1;
            return;
        };
        let mut due_ns = sent_ns + self.delay_ns();
        if self.chance(self.impairment.reorder) {
            self.statistics.held_back += 1;
            due_ns += nanoseconds(self.impairment.reorder_by);
        } else if !self.impairment.jitter_reorders {
            due_ns = due_ns.max(self.last_due_ns);
            self.last_due_ns = due_ns;
        }
        if self.chance(self.impairment.duplicate) {
            self.statistics.duplicated += 1;
            self.enqueue(frame.into(), due_ns);
        }
        self.enqueue(frame.into(), due_ns);
    }

    /// When the next frame is due, ns.
    pub fn next_due(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse(waiting)| waiting.due_ns)
    }

    /// A frame that is due at `now_ns`.
    pub fn pop_due(&mut self, now_ns: u64) -> Option<Box<[u8]>> {
        if self.next_due()? > now_ns {
            return None;
        }
        let Reverse(waiting) = self.queue.pop()?;
        self.queued_bytes -= waiting.frame.len();
        self.lateness.record_ns(now_ns - waiting.due_ns);
        self.statistics.forwarded += 1;
        Some(waiting.frame)
    }

    /// Notes frames that the socket lost or refused.
    pub fn count_failed(&mut self, frames: u64) {
        self.statistics.failed += frames;
    }

    /// What happened so far.
    pub fn statistics(&self) -> PipeStatistics {
        PipeStatistics { lateness: self.lateness.quantiles(), ..self.statistics }
    }

    fn is_lost(&mut self) -> bool {
        match self.impairment.loss {
            Loss::None => false,
            Loss::Random(share) => self.chance(share),
            Loss::GilbertElliott { to_bad, to_good, loss_good, loss_bad } => {
                let step = if self.in_bad_state { to_good } else { to_bad };
                if self.chance(step) {
                    self.in_bad_state = !self.in_bad_state;
                }
                self.chance(if self.in_bad_state { loss_bad } else { loss_good })
            }
        }
    }

    /// When the bottleneck has sent the frame, ns; `None` when its queue is full.
    fn through_bottleneck(&mut self, length: usize, now_ns: u64) -> Option<u64> {
        let Some(rate) = self.impairment.rate else { return Some(now_ns) };
        let time_of = |bytes: u64| {
            u64::try_from(u128::from(bytes) * 8_000_000_000 / u128::from(rate.bits_per_second.max(1)))
                .unwrap_or(u64::MAX / 4)
        };
        let earliest = now_ns.saturating_sub(time_of(u64::from(rate.burst_bytes)));
        let start = self.free_at_ns.max(earliest);
        if start.saturating_sub(now_ns) > time_of(u64::from(rate.queue_bytes)) {
            return None;
        }
        self.free_at_ns = start.saturating_add(time_of(length as u64));
        Some(self.free_at_ns.max(now_ns))
    }

    fn delay_ns(&mut self) -> u64 {
        let delay = nanoseconds(self.impairment.delay) as f64;
        let jitter = nanoseconds(self.impairment.jitter) as f64;
        if jitter == 0.0 {
            return delay as u64;
        }
        let offset = match self.impairment.distribution {
            Distribution::Uniform => self.random.random_range(-1.0..=1.0),
            Distribution::Normal => self.standard_normal(),
        };
        (delay + offset * jitter).max(0.0) as u64
    }

    /// Box and Muller 1958.
    fn standard_normal(&mut self) -> f64 {
        let radius: f64 = self.random.random_range(f64::MIN_POSITIVE..1.0);
        let angle: f64 = self.random.random_range(0.0..std::f64::consts::TAU);
        (-2.0 * radius.ln()).sqrt() * angle.cos()
    }

    fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.random.random::<f64>() < share
    }

    fn enqueue(&mut self, frame: Box<[u8]>, due_ns: u64) {
        if self.queued_bytes + frame.len() > MOST_BYTES {
            self.statistics.failed += 1;
            return;
        }
        self.queued_bytes += frame.len();
        self.order += 1;
        self.queue.push(Reverse(Waiting { due_ns, order: self.order, frame }));
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}
