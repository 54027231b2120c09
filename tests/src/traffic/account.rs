//! Accounts of arrivals, without sockets or clocks.

use std::collections::BTreeMap;
use std::time::Duration;

use super::report::{FlowReport, Gap, Report, Sent};
use crate::histogram::Histogram;

/// Bytes in front of each payload: magic, flow, sequence number, time of sending; all in network order.
pub(super) const HEADER: usize = 24;
const MAGIC: u32 = 0x5344_5754;
/// Flows that accounts keep.
const MOST_FLOWS: u32 = 4 << 20;

/// What a packet of a stream says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of the flow.
    pub flow: u32,
    /// Sequence number in the flow, from 0.
    pub sequence: u64,
    /// When it was sent, ns of `CLOCK_REALTIME`.
    pub sent_ns: u64,
}

impl Header {
    /// Writes it to the front of a payload of at least [`HEADER`] bytes.
    pub fn write(&self, payload: &mut [u8]) {
        payload[..4].copy_from_slice(&MAGIC.to_be_bytes());
        payload[4..8].copy_from_slice(&self.flow.to_be_bytes());
        payload[8..16].copy_from_slice(&self.sequence.to_be_bytes());
        payload[16..24].copy_from_slice(&self.sent_ns.to_be_bytes());
    }

    /// Reads it; `None` for a payload that isn't a stream's.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (magic, rest) = payload.split_first_chunk()?;
        let (flow, rest) = rest.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (sent_ns, _) = rest.split_first_chunk()?;
        let header = Self {
            flow: u32::from_be_bytes(*flow),
            sequence: u64::from_be_bytes(*sequence),
            sent_ns: u64::from_be_bytes(*sent_ns),
        };
        (u32::from_be_bytes(*magic) == MAGIC && header.flow < MOST_FLOWS).then_some(header)
    }
}

/// An arrival.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// What the packet says.
    pub header: Header,
    /// When the kernel got it, ns of `CLOCK_REALTIME`.
    pub received_ns: u64,
    /// Its DSCP.
    pub dscp: u8,
    /// Its TTL or hop limit.
    pub ttl: u8,
}

/// Accounts of all flows of a stream.
#[derive(Clone, Debug)]
pub struct Accounts {
    flows: Vec<Flow>,
    gaps: Vec<Gap>,
    silence: Duration,
    foreign: u64,
    latency: Histogram,
    dscp: BTreeMap<u8, u64>,
    ttl: BTreeMap<u8, u64>,
}

#[derive(Clone, Debug, Default)]
struct Flow {
    received: u64,
    duplicated: u64,
    reordered: u64,
    /// One above the highest sequence number that arrived.
    next: u64,
    /// One bit for each sequence number that arrived.
    seen: Vec<u64>,
    last_ns: u64,
    last_transit_ns: i64,
    jitter_ns: f64,
    latency_ns: f64,
    longest_ns: u64,
}

impl Accounts {
    /// Accounts that note silence of more than `silence` as a gap.
    pub fn new(silence: Duration) -> Self {
        Self {
            flows: Vec::new(),
            gaps: Vec::new(),
            silence,
            foreign: 0,
            latency: Histogram::default(),
            dscp: BTreeMap::new(),
            ttl: BTreeMap::new(),
        }
    }

    /// Notes an arrival.
    pub fn arrived(&mut self, arrival: Arrival) {
        let Arrival { header, received_ns, dscp, ttl } = arrival;
        let index = header.flow as usize;
        if index >= self.flows.len() {
            self.flows.resize_with(index + 1, Flow::default);
        }
        *self.dscp.entry(dscp).or_default() += 1;
        *self.ttl.entry(ttl).or_default() += 1;
        let flow = &mut self.flows[index];
        if !flow.see(header.sequence) {
            flow.duplicated += 1;
            return;
        }
        self.latency.record_ns(received_ns.saturating_sub(header.sent_ns));
        flow.note_transit(header.sent_ns, received_ns);
        let silence_ns = if flow.received > 0 { received_ns.saturating_sub(flow.last_ns) } else { 0 };
        flow.longest_ns = flow.longest_ns.max(silence_ns);
        let skipped = flow.next..header.sequence.max(flow.next);
        if (!skipped.is_empty() || u128::from(silence_ns) > self.silence.as_nanos())
            && self.gaps.len() < Report::MOST_GAPS
        {
            self.gaps.push(Gap {
                flow: header.flow,
                start_ns: if flow.received > 0 { flow.last_ns } else { received_ns },
                length: Duration::from_nanos(silence_ns),
                lost_packets: 0,
                lost_sequences: skipped,
            });
        }
        if header.sequence < flow.next {
            flow.reordered += 1;
        }
        flow.next = flow.next.max(header.sequence + 1);
        flow.received += 1;
        flow.last_ns = received_ns;
    }

    /// Notes a packet that isn't the stream's.
    pub fn foreign(&mut self) {
        self.foreign += 1;
    }

    /// Different packets that arrived so far.
    pub fn received(&self) -> u64 {
        self.flows.iter().map(|flow| flow.received).sum()
    }

    /// What must have been sent at least: everything up to the highest sequence number that arrived.
    pub fn presumed(&self) -> Sent {
        let last_ns = self.flows.iter().map(|flow| flow.last_ns).max().unwrap_or(0);
        Sent { flows: self.flows.iter().map(|flow| flow.next).collect(), last_ns, ..Sent::default() }
    }

    /// What became of the packets that were sent.
    pub fn report(&self, sent: &Sent) -> Report {
        let mut report = Report {
            sent: sent.packets(),
            foreign: self.foreign,
            latency: self.latency.quantiles(),
            dscp: self.dscp.clone(),
            ttl: self.ttl.clone(),
            ..Report::default()
        };
        report.gaps = self.gaps.iter().filter_map(|gap| self.settled(gap)).collect();
        let none = Flow::default();
        for number in 0..sent.flows.len().max(self.flows.len()) {
            let flow = self.flows.get(number).unwrap_or(&none);
            let flow_sent = sent.flows.get(number).copied().unwrap_or(0);
            report.add(flow, flow_sent);
            if flow.next < flow_sent && report.gaps.len() < Report::MOST_GAPS {
                let start_ns = if flow.received > 0 { flow.last_ns } else { sent.first_ns };
                report.gaps.push(Gap {
                    flow: number as u32,
                    start_ns,
                    length: Duration::from_nanos(sent.last_ns.saturating_sub(start_ns)),
                    lost_sequences: flow.next..flow_sent,
                    lost_packets: flow_sent - flow.next,
                });
            }
        }
        report.gaps.sort_by_key(|gap| gap.start_ns);
        report
    }

    /// The gap with what arrived late taken off; `None` when nothing is left of it.
    fn settled(&self, gap: &Gap) -> Option<Gap> {
        let flow = &self.flows[gap.flow as usize];
        let lost_packets = gap.lost_sequences.clone().filter(|sequence| !flow.has_seen(*sequence)).count() as u64;
        (lost_packets > 0 || gap.length > self.silence).then(|| Gap { lost_packets, ..gap.clone() })
    }
}

impl Report {
    fn add(&mut self, flow: &Flow, sent: u64) {
        let one = FlowReport {
            sent,
            received: flow.received,
            lost: sent.saturating_sub(flow.received),
            duplicated: flow.duplicated,
            reordered: flow.reordered,
            longest_gap: Duration::from_nanos(flow.longest_ns),
        };
        self.received += one.received;
        self.lost += one.lost;
        self.duplicated += one.duplicated;
        self.reordered += one.reordered;
        self.longest_gap = self.longest_gap.max(one.longest_gap);
        self.latency_now = self.latency_now.max(Duration::from_nanos(flow.latency_ns as u64));
        self.jitter = self.jitter.max(Duration::from_nanos(flow.jitter_ns as u64));
        self.flows.push(one);
    }
}

impl Flow {
    /// Notes a sequence number; false when it was there before.
    fn see(&mut self, sequence: u64) -> bool {
        let word = (sequence / 64) as usize;
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        let bit = 1 << (sequence % 64);
        let new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        new
    }

    fn has_seen(&self, sequence: u64) -> bool {
        self.seen.get((sequence / 64) as usize).is_some_and(|word| word >> (sequence % 64) & 1 == 1)
    }

    fn note_transit(&mut self, sent_ns: u64, received_ns: u64) {
        let transit = received_ns.cast_signed().wrapping_sub(sent_ns.cast_signed());
        let latency = transit.max(0) as f64;
        self.latency_ns = if self.received > 0 { self.latency_ns + (latency - self.latency_ns) / 8.0 } else { latency };
        if self.received > 0 {
            let difference = (transit - self.last_transit_ns).unsigned_abs() as f64;
            self.jitter_ns += (difference - self.jitter_ns) / 16.0;
        }
        self.last_transit_ns = transit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn accounts(arrivals: &[(u64, u64)]) -> Accounts {
        let mut accounts = Accounts::new(Duration::from_millis(100));
        for &(sequence, received_ns) in arrivals {
            let header = Header { flow: 0, sequence, sent_ns: sequence * 20 * MS };
            accounts.arrived(Arrival { header, received_ns, dscp: 46, ttl: 63 });
        }
        accounts
    }

    fn sent(packets: u64) -> Sent {
        Sent { flows: vec![packets], last_ns: packets.saturating_sub(1) * 20 * MS, ..Sent::default() }
    }

    #[test]
    fn a_header_reads_back_and_noise_does_not() {
        let header = Header { flow: 7, sequence: u64::MAX, sent_ns: 12 };
        let mut payload = [0; HEADER];
        header.write(&mut payload);
        assert_eq!(Header::read(&payload), Some(header));
        assert_eq!(Header::read(&payload[..HEADER - 1]), None);
        assert_eq!(Header::read(&[0; 64]), None);
    }

    #[test]
    fn a_hole_in_the_sequence_is_a_gap_with_its_length_and_numbers() {
        let report = accounts(&[(0, 10 * MS), (1, 30 * MS), (5, 110 * MS), (6, 130 * MS)]).report(&sent(7));
        assert_eq!((report.received, report.lost, report.reordered, report.duplicated), (4, 3, 0, 0));
        assert_eq!(report.gaps.len(), 1);
        let gap = &report.gaps[0];
        assert_eq!((gap.length, gap.lost_sequences.clone(), gap.lost_packets), (Duration::from_millis(80), 2..5, 3));
    }

    #[test]
    fn what_arrives_late_is_reordered_and_not_lost() {
        let report = accounts(&[(0, 0), (2, 40 * MS), (1, 45 * MS), (2, 46 * MS)]).report(&sent(3));
        assert_eq!((report.received, report.lost, report.reordered, report.duplicated), (3, 0, 1, 1));
        assert!(report.gaps.is_empty());
    }

    #[test]
    fn silence_without_loss_is_a_gap_too() {
        let report = accounts(&[(0, 0), (1, 150 * MS)]).report(&sent(2));
        assert_eq!(report.gaps.len(), 1);
        assert_eq!((report.gaps[0].lost_packets, report.longest_gap), (0, Duration::from_millis(150)));
    }

    #[test]
    fn an_end_that_never_arrives_is_a_gap_to_the_last_send() {
        let report = accounts(&[(0, 0), (1, 20 * MS)]).report(&sent(10));
        assert_eq!((report.lost, report.gaps.len()), (8, 1));
        assert_eq!((report.gaps[0].lost_sequences.clone(), report.gaps[0].length), (2..10, Duration::from_millis(160)));
        assert_eq!(Accounts::new(Duration::from_secs(1)).report(&sent(3)).lost, 3);
    }
}
