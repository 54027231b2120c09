//! What became of a stream.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::histogram::Quantiles;

/// What a sender sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Packets of each flow; their sequence numbers start at 0.
    pub flows: Vec<u64>,
    /// Sends that the kernel refused; they took no sequence number.
    pub refused: u64,
    /// The kernel's last reason to refuse.
    pub last_refusal: Option<String>,
    /// When the first packet left, ns of `CLOCK_REALTIME`.
    pub first_ns: u64,
    /// When the last packet left, ns of `CLOCK_REALTIME`.
    pub last_ns: u64,
}

impl Sent {
    /// Packets of all flows.
    pub fn packets(&self) -> u64 {
        self.flows.iter().sum()
    }
}

/// What became of a stream: every packet of [`Sent`] is either received or lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Packets sent.
    pub sent: u64,
    /// Different packets that arrived.
    pub received: u64,
    /// Packets that never arrived.
    pub lost: u64,
    /// Arrivals of packets that had arrived before.
    pub duplicated: u64,
    /// Packets that arrived after one that was sent later (RFC 4737).
    pub reordered: u64,
    /// Arrivals that aren't the stream's.
    pub foreign: u64,
    /// Packets that reached the receiver's socket and found it full. Other than 0, the loss isn't the network's.
    pub socket_dropped: u64,
    /// Interruptions: lost packets, or silence of more than the receiver's threshold; in order of their start. Not more
    /// than [`Report::MOST_GAPS`].
    pub gaps: Vec<Gap>,
    /// Longest time between two arrivals of one flow.
    pub longest_gap: Duration,
    /// One-way latency, from before the send to the kernel's receive stamp.
    pub latency: Quantiles,
    /// Latency of the latest arrivals, smoothed over 8, of the flow that has most.
    pub latency_now: Duration,
    /// Interarrival jitter of the flow that has most (RFC 3550, section 6.4.1).
    pub jitter: Duration,
    /// Arrivals by DSCP.
    pub dscp: BTreeMap<u8, u64>,
    /// Arrivals by TTL or hop limit.
    pub ttl: BTreeMap<u8, u64>,
    /// By flow.
    pub flows: Vec<FlowReport>,
}

impl Report {
    /// Gaps that a report holds.
    pub const MOST_GAPS: usize = 10_000;

    /// The longest gap with losses, zero when nothing was lost.
    pub fn longest_loss(&self) -> Duration {
        self.longest_loss_since(0)
    }

    /// The same of the gaps since a moment, Unix time in ns. A gap begins with the last packet before it, so that one that is
    /// made then may seem to have begun a little earlier.
    pub fn longest_loss_since(&self, unix_ns: u64) -> Duration {
        let since = self.gaps.iter().filter(|gap| gap.lost_packets > 0 && gap.start_ns + 50_000_000 >= unix_ns);
        since.map(|gap| gap.length).max().unwrap_or_default()
    }

    /// Share of the packets that was lost, 0.0..=1.0.
    pub fn loss(&self) -> f64 {
        if self.sent == 0 { 0.0 } else { self.lost as f64 / self.sent as f64 }
    }
}

/// One flow's share of a [`Report`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReport {
    /// Packets sent.
    pub sent: u64,
    /// Different packets that arrived.
    pub received: u64,
    /// Packets that never arrived.
    pub lost: u64,
    /// Arrivals of packets that had arrived before.
    pub duplicated: u64,
    /// Packets that arrived after one that was sent later.
    pub reordered: u64,
    /// Longest time between two arrivals.
    pub longest_gap: Duration,
}

/// An interruption of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Number of the flow.
    pub flow: u32,
    /// Arrival of the last packet before it, ns of `CLOCK_REALTIME`.
    pub start_ns: u64,
    /// From there to the arrival of the next packet; when none came any more, to the last send.
    pub length: Duration,
    /// The sequence numbers between; empty when nothing was lost.
    pub lost_sequences: Range<u64>,
    /// How many of them never arrived, not even late.
    pub lost_packets: u64,
}
