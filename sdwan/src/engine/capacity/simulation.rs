//! A bottleneck in virtual time: token bucket, queue, cross traffic, jitter, losses, aggregation.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::Framing;
use super::reading::Sent;
use super::search::{Outcome, Plan, Search, Step, Train};
use super::train::{Gathering, Sample, TrainReport};
use crate::engine::time::Time;

/// Time between two stalls, s.
const STALLS: f64 = 0.037;
/// Mean time between two moments at which the sender is held up, s.
const HOLDS: f64 = 0.010;
/// A sender that is later than this doesn't make up for it, s.
const LATE: f64 = 0.005;

/// What the line does.
#[derive(Clone, Debug)]
pub struct Line {
    /// Bit/s.
    pub rate: f64,
    /// Bytes that pass at once after a pause.
    pub burst: f64,
    /// Bytes that wait at most.
    pub queue: f64,
    /// Cross traffic on the same path, bit/s, packets of 1,000 bytes.
    pub own: f64,
    /// Cross traffic of the same uplink to elsewhere, bit/s.
    pub others: f64,
    /// The others share this bottleneck.
    pub shared: bool,
    /// Share that is lost behind the bottleneck.
    pub loss: f64,
    /// Spread of the delay, s, in order.
    pub jitter: f64,
    /// Arrivals come in clumps of this length, s.
    pub clump: f64,
    /// Before the bottleneck packets are held up for so long, s, once in 37 ms: a machine that has other things to do.
    pub stall: f64,
    /// What the sender can do, bit/s.
    pub sender: f64,
    /// The sender is held up by others for up to so long, s, about every 10 ms, and makes up for it.
    pub held: f64,
    /// Drops what exceeds the bucket instead of queueing it.
    pub polices: bool,
}

impl Line {
    /// A plain bottleneck with a queue of 100 ms.
    pub fn of(rate: f64) -> Self {
        Self {
            rate,
            burst: 3_000.0,
            queue: rate / 8.0 * 0.1,
            own: 0.0,
            others: 0.0,
            shared: true,
            loss: 0.0,
            jitter: 0.0,
            clump: 0.0,
            stall: 0.0,
            sender: 20e9,
            held: 0.0,
            polices: false,
        }
    }
}

/// What a search did on a line.
pub struct Run {
    pub outcome: Outcome,
    /// Longest queueing delay of any cross packet or train packet, s.
    pub longest: f64,
    /// Longest share of any second that trains took.
    pub trains: Vec<Train>,
}

struct World {
    line: Line,
    random: SmallRng,
    tokens: f64,
    token_at: f64,
    /// When the queue is empty, s.
    free_at: f64,
    next_own: f64,
    next_other: f64,
    last_out: f64,
    longest: f64,
}

/// Sends a packet into the bottleneck; returns when it leaves, `None` when it is dropped.
fn pass(world: &mut World, at: f64, bytes: f64) -> Option<f64> {
    let line = &world.line;
    let start = at.max(world.free_at);
    let tokens = (world.tokens + (start - world.token_at) * line.rate / 8.0).min(line.burst);
    let wait = ((bytes - tokens) * 8.0 / line.rate).max(0.0);
    if (line.polices && start + wait > at + 1e-9) || (start + wait - at) * line.rate / 8.0 > line.queue {
        return None;
    }
    let out = start + wait;
    world.tokens = tokens + wait * line.rate / 8.0 - bytes;
    world.token_at = out;
    world.free_at = out;
    world.longest = world.longest.max(out - at);
    Some(out)
}

/// Lets the cross traffic before `at` pass; returns when packets of the same path came out.
fn cross(world: &mut World, at: f64, arrivals: &mut Vec<(f64, u64)>) {
    loop {
        let (own, other) = (world.line.own > 0.0, world.line.others > 0.0 && world.line.shared);
        let next_own = if own { world.next_own } else { f64::INFINITY };
        let next_other = if other { world.next_other } else { f64::INFINITY };
        let time = next_own.min(next_other);
        if time > at {
            return;
        }
        let spread: f64 = world.random.random_range(0.5..1.5);
        let out = pass(world, time, 1_000.0);
        if next_own <= next_other {
            world.next_own += 8_000.0 / world.line.own * spread;
            arrivals.extend(out.map(|out| (out, 1_000)));
        } else {
            world.next_other += 8_000.0 / world.line.others * spread;
        }
    }
}

fn send(world: &mut World, train: &Train, start: f64) -> (Sent, TrainReport, f64) {
    let gap = f64::from(train.size) * 8.0 / train.rate as f64;
    let least_gap = f64::from(train.size) * 8.0 / world.line.sender;
    let mut own = Vec::new();
    cross(world, start, &mut own);
    own.clear();
    let mut arrivals = Vec::new();
    let (mut at, mut base, mut ready) = (start, start, start);
    for index in 0..train.packets {
        if world.line.held > 0.0 && world.random.random::<f64>() < gap / HOLDS {
            ready += world.random.random_range(0.0..world.line.held);
        }
        let due = base + gap * f64::from(index);
        at = due.max(ready);
        base += if at - due > LATE { at - due } else { 0.0 };
        ready = at + least_gap;
        cross(world, at, &mut own);
        let since = at % STALLS;
        let enters = if since < world.line.stall { at - since + world.line.stall } else { at };
        let Some(out) = pass(world, enters, f64::from(train.size)) else { continue };
        if world.random.random::<f64>() < world.line.loss {
            continue;
        }
        let jitter = if world.line.jitter > 0.0 { world.random.random_range(0.0..world.line.jitter) } else { 0.0 };
        let mut arrives = (out + 0.010 + jitter).max(world.last_out);
        if world.line.clump > 0.0 {
            arrives = (arrives / world.line.clump).ceil() * world.line.clump;
        }
        world.last_out = arrives;
        arrivals.push((index, at, arrives));
    }
    cross(world, at.max(world.free_at) + 0.02, &mut own);
    let nanoseconds = |seconds: f64| (seconds * 1e9) as u64;
    let train_size = train.size;
    let mut gathering = Gathering::new(train.number, train.packets, 0);
    for (index, sent, arrives) in &arrivals {
        gathering.packet(*index, nanoseconds(*sent), nanoseconds(*arrives));
    }
    let mut bytes = 0;
    for (packets, (out, more)) in (1..).zip(own) {
        bytes += more;
        let at = out + 0.010;
        let train = arrivals.iter().filter(|(.., arrives)| nanoseconds(*arrives) <= nanoseconds(at)).count() as u64;
        gathering.sample(Sample {
            at_ns: nanoseconds(at),
            packets: packets + train,
            bytes: bytes + train * u64::from(train_size),
            inner: train_size,
            framing: Framing::none(9_000),
        });
    }
    let sent = Sent {
        packets: train.packets,
        size: train.size,
        span_ns: nanoseconds(at - start),
        others: (world.line.others > 0.0).then_some((world.line.others / 8.0) as u64),
    };
    (sent, gathering.report(), world.last_out.max(at))
}

/// Runs a search to its end.
pub fn run(line: Line, plan: Plan, seed: u64) -> Run {
    let mut world = World {
        tokens: line.burst,
        token_at: 0.0,
        free_at: 0.0,
        next_own: 0.0,
        next_other: 0.0,
        last_out: 0.0,
        longest: 0.0,
        random: SmallRng::seed_from_u64(seed),
        line,
    };
    let time = |seconds: f64| Time((seconds * 1e9) as u64);
    let mut now = 10.0;
    let mut search = Search::new(plan, time(now));
    let mut trains = Vec::new();
    for _ in 0..10_000 {
        match search.step(time(now)) {
            Step::Done(outcome) => return Run { outcome, longest: world.longest, trains },
            Step::Wait(until) => now = until.0 as f64 * 1e-9 + 1e-6,
            Step::Send(train) => {
                let (sent, report, end) = send(&mut world, &train, now);
                trains.push(train);
                now = end.max(now) + 0.020;
                search.reported(&sent, &report, time(now));
            }
        }
    }
    panic!("the search does not end");
}
