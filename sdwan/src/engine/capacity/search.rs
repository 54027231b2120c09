//! Which trains to send, and when the capacity is known.
//!
//! ```text
//!          not queued: twice the rate          too slow after all: from there
//!            ┌──────┐                      ┌───────────────────────────────┐
//!            ▼      │   queued             ▼                               │
//!           Climb ──┴────────────────► Refine ── enough readings, or bytes ┴─► Done
//! ```
//! Trains are short and far apart: a tenth of the time at most, so that what they queue is gone before the next one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::combine::{capacities, crowd, median, spread, total};
use super::reading::{Reading, Sent, read};
use super::train::{MOST_PACKETS, TrainReport};
use crate::engine::time::Time;

/// How long a train of the climb lasts, if that is not too few packets.
const CLIMB: Duration = Duration::from_millis(20);
/// How long the train lasts that confirms a lower bound, and at least, where the bytes don't do for that.
const CONFIRM: Duration = Duration::from_millis(200);
const LEAST_CONFIRM: Duration = Duration::from_millis(50);
/// Least packets of a train.
const LEAST_PACKETS: u16 = 10;
/// Readings that settle it, if they agree this well, as a share …
const READINGS: usize = 5;
const AGREE: f64 = 0.01;
/// … and if they don't, as long as there are bytes.
const MOST_READINGS: usize = 9;
/// Factors over the estimate in turn: different ones, since the share of a train in a bottleneck depends on its rate.
const FACTORS: [f64; READINGS] = [1.5, 1.3, 2.0, 1.3, 2.0];
/// Longest queued part of a train of the refinement.
const LONGEST: f64 = 0.12;
/// A share of losses in a full bottleneck that says that its queue overflowed.
const OVERFLOWS: f64 = 0.03;
/// No train is so short that it delays others by less than this, s: it would say nothing.
const LEAST_ROOM: f64 = 0.004;
/// Least time between trains.
const PAUSE: Duration = Duration::from_millis(100);
/// A train is followed by so many times its length without one.
const REST: u32 = 9;
/// Share of the allowance that trains may use: questions and reports need some, too.
const TRAINS: f64 = 0.92;
/// What a train delivered without filling the path earns bytes by this share of it: a token bucket lets a short one pass
/// faster than the line, and nobody knows yet that it is one.
const PROVEN: f64 = 0.45;
/// A train that was this much faster than the estimate, and didn't fill the path, says that the estimate is too low.
const BEYOND: f64 = 1.1;
/// How much longer than usual a train of the climb may become that fills the path only at its end.
const MOST_LONGER: f64 = 8.0;
/// Trains without a report in a row after which the search gives up.
const MOST_SILENT: u32 = 3;
/// Trains in a row that this machine sent too slowly, before that counts as its limit.
const MOST_SLOW: u32 = 4;
/// Most trains.
const MOST_TRAINS: u16 = 60;

/// What the search may do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Outer bytes of a train's packets.
    pub size: u16,
    /// What the path is thought to carry, bit/s, and whether it may be much more.
    pub prior: Option<(u64, bool)>,
    /// Nothing is sent faster, bit/s.
    pub ceiling: u64,
    /// Share of the bytes that the path could carry, 0..=1 …
    pub share: f64,
    /// … in this time.
    pub interval: Duration,
    /// By how much a train may delay others.
    pub most_delay: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            size: 1_480,
            prior: None,
            ceiling: 10_000_000_000,
            share: 0.01,
            interval: Duration::from_secs(60),
            most_delay: Duration::from_millis(30),
        }
    }
}

/// A train to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Train {
    /// Its number.
    pub number: u16,
    /// Packets.
    pub packets: u16,
    /// Outer bytes of each.
    pub size: u16,
    /// Rate, bit/s.
    pub rate: u64,
}

impl Train {
    /// How long it takes to send.
    pub fn duration(&self) -> Duration {
        let bits = f64::from(self.packets) * f64::from(self.size) * 8.0;
        Duration::from_secs_f64(bits / self.rate.max(1) as f64)
    }
}

/// What to do now.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Send a train; then tell [`Search::reported`] or [`Search::silent`].
    Send(Train),
    /// Nothing before this.
    Wait(Time),
    /// It is over.
    Done(Outcome),
}

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = CapacityEnded)]
pub enum Ended {
    /// The bottleneck was found.
    Found,
    /// This machine can't send faster: the capacity is at least what was delivered.
    SenderLimited,
    /// The bytes that it may use are used up before the bottleneck was filled.
    Budget,
    /// The path stayed crowded by others, who come first.
    Crowded,
    /// The peer stopped reporting.
    Silent,
}

impl Ended {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Found => "the bottleneck was filled and its rate measured at the receiver",
            Self::SenderLimited => "this machine can't send fast enough to fill the path: it carries at least this",
            Self::Budget => "the allowed bytes were used up before the bottleneck was filled: it carries at least this",
            Self::Crowded => "the path is crowded by other traffic, which comes first",
            Self::Silent => "the peer's reports don't arrive",
        }
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Why it ended.
    pub ended: Ended,
    /// Bits of outer IP packets per second; a lower bound unless it ended with [`Ended::Found`].
    pub capacity: Option<u64>,
    /// What the trains alone got of it, bit/s.
    pub share: Option<u64>,
    /// Spread of the readings: their median distance from the median, as a share of it.
    pub spread: f64,
    /// Readings of the full bottleneck.
    pub readings: usize,
    /// Trains sent.
    pub trains: u16,
    /// Outer bytes of them.
    pub bytes: u64,
    /// Time that it took.
    pub took: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Climb {
        rate: f64,
        longer: f64,
    },
    Refine {
        estimate: f64,
    },
    /// Nothing faster can be sent; a longer train says whether a token bucket let the others pass.
    Confirm {
        rate: f64,
    },
    Over(Ended),
}

/// The search.
#[derive(Clone, Debug)]
pub struct Search {
    plan: Plan,
    phase: Phase,
    started: Time,
    next_at: Time,
    sent: u16,
    bytes: u64,
    silent: u32,
    slow: u32,
    /// Largest rate at which a train was sent, bit/s.
    fastest: f64,
    crowded: u32,
    /// Largest rate that arrived as it was sent, bit/s.
    delivered: f64,
    /// Smallest rate that was read of a full path, bit/s, whatever became of that reading: what is read too large must
    /// not earn bytes for itself.
    least: f64,
    noise: f64,
    loss: f64,
    /// Smallest delay of the session, s.
    floor: f64,
    /// By how much a train may delay others, s: less than told where the queue is too short for that.
    room: f64,
    burst: f64,
    /// Rate at which other traffic enters the bottleneck, as a share of the estimate.
    crowd: f64,
    /// What ended the climb: counts while there are few readings.
    first: Option<Reading>,
    readings: Vec<Reading>,
}

impl Search {
    /// A search that begins now.
    pub fn new(plan: Plan, now: Time) -> Self {
        // A known path is entered from below: the first train fits, and the second or third fills it.
        let share = |bound| if bound { 1.0 } else { 0.45 };
        let rate = plan.prior.map_or(1e6, |(prior, bound)| (prior as f64 * share(bound)).max(1e6));
        Self {
            phase: Phase::Climb { rate: rate.min(plan.ceiling as f64), longer: 1.0 },
            room: plan.most_delay.as_secs_f64(),
            plan,
            started: now,
            next_at: now,
            sent: 0,
            bytes: 0,
            silent: 0,
            slow: 0,
            fastest: 0.0,
            crowded: 0,
            delivered: 0.0,
            least: f64::INFINITY,
            noise: 0.0,
            loss: 0.0,
            floor: f64::INFINITY,
            burst: 0.0,
            crowd: 0.0,
            first: None,
            readings: Vec::new(),
        }
    }

    /// What to do at this time.
    pub fn step(&mut self, now: Time) -> Step {
        if let Phase::Over(ended) = self.phase {
            return Step::Done(self.outcome(ended, now));
        }
        if now < self.next_at {
            return Step::Wait(self.next_at);
        }
        let Some(train) = self.train() else {
            let ended = match () {
                () if !self.readings.is_empty() || self.first.is_some() => Ended::Found,
                // It sent more slowly than it meant to until the bytes were gone.
                () if self.slow > 0 => Ended::SenderLimited,
                () if self.silent > 0 => Ended::Silent,
                () => Ended::Budget,
            };
            self.phase = Phase::Over(ended);
            return Step::Done(self.outcome(ended, now));
        };
        self.sent += 1;
        Step::Send(train)
    }

    /// How far it is, 0..=1, by guess.
    pub fn progress(&self) -> f64 {
        match self.phase {
            Phase::Climb { .. } => (f64::from(self.sent) * 0.05).min(0.5),
            Phase::Refine { .. } => 0.5 + 0.5 * self.readings.len() as f64 / (READINGS + 1) as f64,
            Phase::Confirm { .. } => 0.8,
            Phase::Over(_) => 1.0,
        }
    }

    /// Capacity as far as it is known, bit/s.
    pub fn estimate(&self) -> Option<u64> {
        match self.phase {
            Phase::Refine { estimate } => Some(estimate as u64),
            _ => median(self.totals()).or((self.delivered > 0.0).then_some(self.delivered)).map(|rate| rate as u64),
        }
    }

    /// Outer bytes of trains so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// No report came about a train of so many bytes.
    pub fn silent(&mut self, sent: &Sent, now: Time) {
        self.bytes += sent.bytes();
        self.silent += 1;
        self.rest(sent, 0.0, now);
        if self.silent >= MOST_SILENT {
            self.end(Ended::Silent);
        }
        // A train that was too much for somebody on the way is followed by a smaller one.
        if let Phase::Climb { rate, .. } = &mut self.phase {
            *rate = (*rate * 0.5).max(1e5);
        }
    }

    /// A report about a train came in.
    pub fn reported(&mut self, sent: &Sent, report: &TrainReport, now: Time) {
        let noise = self.noise.min(self.expected_growth(sent) / 8.0);
        let Some(reading) = read(sent, report, noise, self.loss) else { return self.silent(sent, now) };
        self.bytes += sent.bytes();
        self.silent = 0;
        let standing = reading.delay - self.floor;
        self.floor = self.floor.min(reading.delay);
        self.rest(sent, reading.growth + standing.max(0.0), now);
        if standing > self.plan.most_delay.as_secs_f64() {
            // Somebody else keeps the queue full; waiting may help, and our trains don't.
            self.crowded += 1;
            self.next_at = self.next_at + Duration::from_millis(500);
            if self.crowded >= 4 {
                self.end(Ended::Crowded);
            }
        }
        if reading.saturated && reading.lost > 2.0 * self.loss + OVERFLOWS && reading.growth > LEAST_ROOM {
            // The queue overflowed, and others lost packets, too: from now on it isn't filled to its end.
            self.room = self.room.min(0.6 * reading.growth).max(LEAST_ROOM);
        }
        if reading.saturated {
            self.least = self.least.min(total(reading).unwrap_or(f64::INFINITY));
        }
        match self.phase {
            Phase::Climb { rate, longer } => self.climbed(rate, longer, &reading),
            Phase::Refine { estimate } => self.refined(estimate, reading),
            Phase::Confirm { .. } => self.confirmed(&reading),
            Phase::Over(_) => {}
        }
    }

    fn climbed(&mut self, rate: f64, longer: f64, reading: &Reading) {
        if reading.saturated {
            match reading.queued {
                Some(queued) => {
                    self.burst = reading.burst;
                    self.crowd = crowd(reading);
                    self.first = Some(*reading);
                    self.phase = Phase::Refine { estimate: queued.rate + queued.other };
                }
                // Filled only at its end: the same again, longer.
                None if longer < MOST_LONGER => {
                    // No faster than this machine really was: its bytes are better spent on time.
                    let rate = rate.min(reading.sent);
                    self.phase = Phase::Climb { rate, longer: longer * 1.6 };
                }
                None => self.phase = Phase::Refine { estimate: reading.received },
            }
            return;
        }
        self.unsaturated(reading);
        if reading.sent < 0.7 * rate {
            // A sender that is held up now and then gets there with more to catch up with; one that is at its end doesn't.
            self.slow = if reading.sent > 1.2 * self.fastest { 1 } else { self.slow + 1 };
            self.fastest = self.fastest.max(reading.sent);
            if self.slow > MOST_SLOW {
                self.phase = Phase::Confirm { rate: self.fastest };
                return;
            }
            let more = (rate * 1.25).min(4.0 * self.fastest).min(self.plan.ceiling as f64);
            self.phase = Phase::Climb { rate: more.max(rate * 0.8), longer: 1.0 };
            return;
        }
        self.fastest = self.fastest.max(reading.sent);
        self.slow = 0;
        if rate >= self.plan.ceiling as f64 {
            self.phase = Phase::Confirm { rate };
            return;
        }
        self.phase = Phase::Climb { rate: (rate * 2.0).min(self.plan.ceiling as f64), longer: 1.0 };
    }

    fn confirmed(&mut self, reading: &Reading) {
        if let Some(queued) = reading.queued.filter(|_| reading.saturated) {
            self.burst = reading.burst;
            self.crowd = crowd(reading);
            self.first = Some(*reading);
            self.phase = Phase::Refine { estimate: queued.rate + queued.other };
            return;
        }
        self.delivered = reading.received.min(reading.sent);
        self.end(Ended::SenderLimited);
    }

    fn refined(&mut self, estimate: f64, reading: Reading) {
        let Some(queued) = reading.queued.filter(|_| reading.saturated) else {
            self.delivered = self.delivered.max(reading.received.min(reading.sent));
            let received = reading.received;
            if reading.sent < BEYOND * estimate {
                self.slow += 1;
                if self.slow > MOST_SLOW {
                    match self.readings.is_empty() && self.first.is_none() {
                        true => self.phase = Phase::Confirm { rate: reading.sent },
                        false => self.end(Ended::Found),
                    }
                }
                return;
            }
            // Not full at a rate above the estimate: that was too low, and so were the readings.
            self.readings.retain(|reading| reading.queued.is_some_and(|queued| queued.rate + queued.other > received));
            self.first = None;
            self.least = self.least.max(PROVEN * received);
            self.phase = Phase::Refine { estimate: (estimate * 1.25).max(received * 1.1) };
            return;
        };
        self.readings.push(reading);
        self.crowd = self.crowd.max(crowd(&reading));
        self.burst = self.burst.max(reading.burst.min(self.burst * 1.5 + 4.0 * f64::from(self.plan.size)));
        let agree = spread(&capacities(&self.readings)) <= AGREE;
        if self.readings.len() >= MOST_READINGS || self.readings.len() >= READINGS && agree {
            return self.end(Ended::Found);
        }
        let centre = median(self.totals()).unwrap_or(queued.rate + queued.other);
        self.phase = Phase::Refine { estimate: centre };
    }

    /// By how much a train should make the delay grow if the estimate is right, s; that is what noise is held against.
    fn expected_growth(&self, sent: &Sent) -> f64 {
        match self.phase {
            Phase::Refine { estimate } => {
                (sent.span_ns as f64 * 1e-9 * (sent.rate() / estimate.max(1.0) - 1.0)).max(0.0)
            }
            _ => f64::INFINITY,
        }
    }

    /// What came out of the path in each reading, bit/s.
    fn totals(&self) -> Vec<f64> {
        self.readings.iter().copied().filter_map(total).collect()
    }

    fn unsaturated(&mut self, reading: &Reading) {
        self.delivered = self.delivered.max(reading.received.min(reading.sent));
        // What held one train up is no property of the path.
        self.noise = if self.noise == 0.0 { reading.noise } else { (self.noise + reading.noise) / 2.0 };
        if self.sent <= 1 || reading.lost < self.loss {
            self.loss = reading.lost;
        }
    }

    /// The next train; `None` when there are no bytes left for one.
    fn train(&self) -> Option<Train> {
        if self.sent >= MOST_TRAINS {
            return None;
        }
        let size = f64::from(self.plan.size);
        let sure = self.sure();
        let left = self.allowance(sure) - self.bytes as f64;
        let (rate, bytes) = match self.phase {
            Phase::Climb { rate, longer } => {
                // Long enough to stand out from the delay's own variation.
                let time = (CLIMB.as_secs_f64() * longer).max(4.0 * self.noise).min(0.2);
                (rate, (rate * time / 8.0).max(size * f64::from(LEAST_PACKETS)))
            }
            Phase::Refine { estimate } => {
                let turns = READINGS.saturating_sub(self.readings.len()).max(1) as f64;
                let fair = left / turns;
                let mut factor = FACTORS[self.readings.len() % READINGS];
                let lead = |factor: f64| self.burst * factor / (factor - 1.0);
                // A bucket has to be emptied first: faster, or most of the bytes go into it.
                while lead(factor) > 0.4 * fair && factor < 3.0 {
                    factor += 0.5;
                }
                let queued = (LONGEST.min(self.room * 0.8 / (factor + self.crowd - 1.0)) * factor * estimate / 8.0)
                    .max(size * f64::from(LEAST_PACKETS));
                let wanted = lead(factor) + queued;
                // Fewer good trains rather than more that are too short.
                let enough = lead(factor) + queued * 0.5;
                let bytes = wanted.min(fair.max(enough)).min(left);
                if bytes < enough.min(lead(factor) + 24.0 * size) {
                    return None;
                }
                (factor * estimate, bytes)
            }
            Phase::Confirm { rate } => {
                let bytes = |time: Duration| rate * time.as_secs_f64() / 8.0;
                (rate, bytes(CONFIRM).min(left.max(bytes(LEAST_CONFIRM))))
            }
            Phase::Over(_) => return None,
        };
        let rate = rate.min(self.plan.ceiling as f64);
        let packets = (bytes / size).round().clamp(f64::from(LEAST_PACKETS), f64::from(MOST_PACKETS)) as u16;
        // The first trains are few packets, and what the path carries isn't known yet.
        let opening = f64::from(LEAST_PACKETS) * size * 2.0;
        let spent = self.bytes as f64 + f64::from(packets) * size;
        if spent > self.allowance(sure).max(opening) {
            return None;
        }
        Some(Train { number: self.sent, packets, size: self.plan.size, rate: rate as u64 })
    }

    /// What the path carries for sure as far as its bytes are concerned, bit/s.
    fn sure(&self) -> f64 {
        match self.phase {
            Phase::Refine { estimate } if self.least.is_finite() => estimate.min(self.least),
            _ if self.least.is_finite() => self.least,
            // Before the first report there is what was known before, which the first train keeps well below.
            Phase::Climb { rate, .. } if self.delivered == 0.0 => rate * 0.5,
            _ => PROVEN * self.delivered,
        }
    }

    /// Bytes that may be used on a path of this capacity.
    fn allowance(&self, capacity: f64) -> f64 {
        capacity / 8.0 * self.plan.interval.as_secs_f64() * self.plan.share * TRAINS
    }

    fn rest(&mut self, sent: &Sent, queue: f64, now: Time) {
        let train = Duration::from_nanos(sent.span_ns);
        let drain = Duration::from_secs_f64(queue.clamp(0.0, 5.0)) * 2;
        self.next_at = now + (train * REST).max(PAUSE).max(drain);
    }

    fn end(&mut self, ended: Ended) {
        self.phase = Phase::Over(ended);
    }

    fn outcome(&self, ended: Ended, now: Time) -> Outcome {
        let mut readings = self.readings.clone();
        if readings.len() < 3 {
            readings.extend(self.first);
        }
        let totals = capacities(&readings);
        let centre = median(totals.clone());
        let delivered = (self.delivered > 0.0).then_some(self.delivered);
        let shares = readings.iter().filter_map(|reading| reading.queued.map(|queued| queued.rate)).collect();
        Outcome {
            ended,
            capacity: centre.or(delivered).map(|rate| rate as u64),
            share: median(shares).or(delivered).map(|rate| rate as u64),
            spread: spread(&totals),
            readings: readings.len(),
            trains: self.sent,
            bytes: self.bytes,
            took: now.since(self.started),
        }
    }
}
