//! The receiver's side of a train: notes each packet, and sums them up in a report of bounded size.

use serde::{Deserialize, Serialize};

use super::Framing;

/// Most packets of a train.
pub const MOST_PACKETS: u16 = 32_768;
/// Most sections of a report.
pub const MOST_BINS: usize = 48;
/// Samples of other traffic kept per train; further ones are left out.
const MOST_SAMPLES: usize = 8_192;

/// A section of a train: neighbouring packets, in the order of sending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bin {
    /// Packets that arrived.
    pub received: u16,
    /// When the last of them did, µs since the train's first arrival.
    pub at_us: u32,
    /// Smallest one-way delay among them, µs, against that of the session's first packet (the clocks may differ).
    pub delay_us: i32,
    /// Bytes of other traffic on the path since the train's first arrival, outer packets.
    pub other: u32,
}

/// What became of a train.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainReport {
    /// Number of the train.
    pub train: u16,
    /// Different packets that arrived.
    pub received: u16,
    /// Packets that arrived again, or belonged to another train.
    pub surplus: u16,
    /// The receiver asked for its end, because the delay rose.
    pub stopped: bool,
    /// Its sections; those of which nothing arrived are left out.
    pub bins: Vec<Bin>,
}

/// A packet of a train that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It counts.
    Fresh,
    /// It came in before, or its number is out of range.
    Surplus,
}

#[derive(Clone, Copy, Debug, Default)]
struct Section {
    received: u16,
    last_ns: u64,
    delay_ns: i64,
}

/// Collects the packets of one train.
#[derive(Clone, Debug)]
pub struct Gathering {
    train: u16,
    count: u16,
    seen: Vec<u64>,
    sections: Vec<Section>,
    received: u16,
    surplus: u16,
    first_ns: Option<u64>,
    /// One-way delay that others are told against, ns.
    reference_ns: i64,
    least_delay_ns: i64,
    stopped: bool,
    /// When packets of the train arrived, in the order that they were read.
    arrivals: Vec<u64>,
    samples: Vec<Sample>,
}

/// Everything that came in by the path up to a time, packets of the train included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When the counters were read, by the clock of the arrivals, ns.
    pub at_ns: u64,
    /// Packets so far.
    pub packets: u64,
    /// Bytes of them, inside the tunnel.
    pub bytes: u64,
    /// Bytes of a packet of the train, inside the tunnel.
    pub inner: u16,
    /// What the tunnel adds.
    pub framing: Framing,
}

impl Gathering {
    /// A train of `count` packets, 1..=[`MOST_PACKETS`]; `reference_ns` is the delay of the session's first packet.
    pub fn new(train: u16, count: u16, reference_ns: i64) -> Self {
        let count = count.clamp(1, MOST_PACKETS);
        let sections = usize::from(count).min(MOST_BINS);
        Self {
            train,
            count,
            seen: vec![0; usize::from(count).div_ceil(64)],
            sections: vec![Section::default(); sections],
            received: 0,
            surplus: 0,
            first_ns: None,
            reference_ns,
            least_delay_ns: i64::MAX,
            stopped: false,
            arrivals: Vec::new(),
            samples: Vec::new(),
        }
    }

    /// Number of the train.
    pub fn train(&self) -> u16 {
        self.train
    }

    /// Packets that arrived so far.
    pub fn received(&self) -> u16 {
        self.received
    }

    /// A packet came in: its number in the train, when it was sent by the sender's clock and received by ours, ns.
    pub fn packet(&mut self, index: u16, sent_ns: u64, received_ns: u64) -> Taken {
        let word = usize::from(index) / 64;
        let bit = 1 << (index % 64);
        if index >= self.count || self.seen[word] & bit != 0 {
            self.surplus = self.surplus.saturating_add(1);
            return Taken::Surplus;
        }
        self.seen[word] |= bit;
        self.first_ns.get_or_insert(received_ns);
        self.received += 1;
        self.arrivals.push(received_ns);
        let delay = (received_ns.wrapping_sub(sent_ns) as i64).wrapping_sub(self.reference_ns);
        self.least_delay_ns = self.least_delay_ns.min(delay);
        let place = usize::from(index) * self.sections.len() / usize::from(self.count);
        let section = &mut self.sections[place];
        section.delay_ns = if section.received == 0 { delay } else { section.delay_ns.min(delay) };
        section.last_ns = section.last_ns.max(received_ns);
        section.received += 1;
        Taken::Fresh
    }

    /// Whether the last packet's delay has risen so far, ns, that the train should end; says so once.
    pub fn should_stop(&mut self, sent_ns: u64, received_ns: u64, most_ns: i64) -> bool {
        let delay = (received_ns.wrapping_sub(sent_ns) as i64).wrapping_sub(self.reference_ns);
        if self.stopped || delay.saturating_sub(self.least_delay_ns) <= most_ns {
            return false;
        }
        self.stopped = true;
        true
    }

    /// The counters of the path were read. What the sockets still hold when that happens doesn't matter: packets of the
    /// train are told apart by their arrival, not by when they were read.
    pub fn sample(&mut self, sample: Sample) {
        if self.samples.len() < MOST_SAMPLES && self.samples.last().is_none_or(|last| sample.at_ns > last.at_ns) {
            self.samples.push(sample);
        }
    }

    /// The report.
    pub fn report(&self) -> TrainReport {
        let first = self.first_ns.unwrap_or(0);
        let others = self.others();
        let other_at = |at_ns| interpolate(&others, at_ns);
        let bin = |section: &Section| Bin {
            received: section.received,
            at_us: micro(section.last_ns.saturating_sub(first)),
            delay_us: i32::try_from(section.delay_ns / 1_000).unwrap_or(match section.delay_ns < 0 {
                true => i32::MIN,
                false => i32::MAX,
            }),
            other: u32::try_from(other_at(section.last_ns).saturating_sub(other_at(first))).unwrap_or(u32::MAX),
        };
        TrainReport {
            train: self.train,
            received: self.received,
            surplus: self.surplus,
            stopped: self.stopped,
            bins: self.sections.iter().filter(|section| section.received > 0).map(bin).collect(),
        }
    }

    /// (time, outer bytes of other traffic since the first sample).
    fn others(&self) -> Vec<(u64, u64)> {
        let mut arrivals = self.arrivals.clone();
        arrivals.sort_unstable();
        let mut others: Vec<(u64, u64)> = Vec::with_capacity(self.samples.len());
        let mut base = None;
        for sample in &self.samples {
            let own = arrivals.partition_point(|at| *at <= sample.at_ns) as u64;
            let packets = sample.packets.saturating_sub(own);
            let bytes = sample.bytes.saturating_sub(own * u64::from(sample.inner));
            let (first_packets, first_bytes) = *base.get_or_insert((packets, bytes));
            let packets = packets.saturating_sub(first_packets);
            let outer = sample.framing.outer_total(packets, bytes.saturating_sub(first_bytes));
            // A packet that is stamped and not counted yet must not make it fall.
            let before = others.last().map_or(0, |(_, before)| *before);
            others.push((sample.at_ns, outer.max(before)));
        }
        others
    }
}

/// The value at a time.
fn interpolate(samples: &[(u64, u64)], at_ns: u64) -> u64 {
    let after = samples.partition_point(|(time, _)| *time < at_ns);
    let Some(&(to, last)) = samples.get(after) else { return samples.last().map_or(0, |(_, bytes)| *bytes) };
    let Some(&(from, start)) = after.checked_sub(1).and_then(|before| samples.get(before)) else { return last };
    let share = at_ns.saturating_sub(from) as f64 / to.saturating_sub(from).max(1) as f64;
    start + (last.saturating_sub(start) as f64 * share) as u64
}

fn micro(nanoseconds: u64) -> u32 {
    u32::try_from(nanoseconds / 1_000).unwrap_or(u32::MAX)
}
