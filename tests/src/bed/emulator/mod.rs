//! An emulated line: what it does to packets, by direction.

mod line;
mod packet_socket;
mod pipe;
#[cfg(test)]
mod pipe_tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::histogram::Quantiles;

pub(crate) use line::clock;
pub use line::{Line, LineSpec};
pub(crate) use packet_socket::{Batch, PacketSocket, Received};
pub use pipe::Pipe;

/// Direction on a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// From the site to the provider.
    Up,
    /// From the provider to the site.
    Down,
}

impl Direction {
    /// Both of them, `Up` first.
    pub const BOTH: [Self; 2] = [Self::Up, Self::Down];
}

/// What one direction of a line does to packets. The default does nothing.
///
/// A packet is first lost or kept ([`Loss`]), then queued for the rate, then delayed, then perhaps doubled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Impairment {
    /// One-way delay.
    pub delay: Duration,
    /// Spread of the delay around [`Self::delay`]; see [`Distribution`].
    pub jitter: Duration,
    /// How the delay spreads.
    pub distribution: Distribution,
    /// Jitter may reorder packets. Off: a packet waits for the one before it, as in a queue.
    pub jitter_reorders: bool,
    /// Which packets vanish.
    pub loss: Loss,
    /// Bottleneck.
    pub rate: Option<Rate>,
    /// Share of packets that arrive twice, 0.0..=1.0.
    pub duplicate: f64,
    /// Share of packets that are held back by [`Self::reorder_by`], 0.0..=1.0.
    pub reorder: f64,
    /// How long such a packet is held back.
    pub reorder_by: Duration,
    /// IP packets of more bytes than this vanish without a word: a path MTU black hole.
    pub drop_larger_than: Option<u32>,
}

/// How a delay spreads by its jitter `j`; never below zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Distribution {
    /// Evenly within `± j`.
    #[default]
    Uniform,
    /// Normal, with standard deviation `j`.
    Normal,
}

/// Which packets vanish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Loss {
    /// None.
    #[default]
    None,
    /// Each with this probability, 0.0..=1.0, independently.
    Random(f64),
    /// Bursts: a two-state chain (Gilbert 1960, Elliott 1963) that steps at each packet.
    GilbertElliott {
        /// Probability of the step from good to bad.
        to_bad: f64,
        /// Probability of the step from bad to good.
        to_good: f64,
        /// Loss in the good state.
        loss_good: f64,
        /// Loss in the bad state.
        loss_bad: f64,
    },
}

impl Loss {
    /// The share of packets that vanish in the long run, 0.0..=1.0.
    pub fn mean(&self) -> f64 {
        match *self {
            Self::None => 0.0,
            Self::Random(share) => share,
            Self::GilbertElliott { to_bad, to_good, loss_good, loss_bad } => {
                let bad = if to_bad + to_good > 0.0 { to_bad / (to_bad + to_good) } else { 0.0 };
                bad * loss_bad + (1.0 - bad) * loss_good
            }
        }
    }
}

/// A bottleneck: a token bucket with a queue that drops at its tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Rate of Ethernet frames without preamble and checksum, bit/s.
    pub bits_per_second: u64,
    /// Bytes that pass at once after a pause.
    pub burst_bytes: u32,
    /// Bytes that wait at most.
    pub queue_bytes: u32,
}

impl Impairment {
    /// A delay and nothing else.
    pub fn delay(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// A delay in milliseconds and nothing else.
    pub fn delay_ms(ms: u64) -> Self {
        Self::delay(Duration::from_millis(ms))
    }

    /// With jitter, evenly distributed and without reordering.
    pub fn jitter(self, jitter: Duration) -> Self {
        Self { jitter, ..self }
    }

    /// With independent loss, 0.0..=1.0.
    pub fn loss(self, share: f64) -> Self {
        Self { loss: Loss::Random(share), ..self }
    }

    /// With a bottleneck of so many Mbit/s, a burst of 3,000 bytes and a queue of 50 ms, at least 16 full packets.
    pub fn rate_mbps(self, mbps: f64) -> Self {
        let bits_per_second = (mbps * 1e6) as u64;
        let queue_bytes = ((bits_per_second / 8 / 20) as u32).max(16 * 1_514);
        Self { rate: Some(Rate { bits_per_second, burst_bytes: 3_000, queue_bytes }), ..self }
    }
}

/// What one direction of a line did since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PipeStatistics {
    /// Packets that came in.
    pub received: u64,
    /// Packets that went out, doubles included.
    pub forwarded: u64,
    /// Packets that [`Impairment::loss`] took.
    pub lost: u64,
    /// Packets that found the queue of [`Impairment::rate`] full.
    pub queue_dropped: u64,
    /// Packets that were larger than [`Impairment::drop_larger_than`].
    pub oversized: u64,
    /// Packets that were doubled.
    pub duplicated: u64,
    /// Packets that were held back by [`Impairment::reorder_by`].
    pub held_back: u64,
    /// Packets that the emulator itself failed to read or write in time. Other than 0, the rest isn't the truth.
    pub failed: u64,
    /// How much later than planned packets went out.
    pub lateness: Quantiles,
}

/// What a line did since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LineStatistics {
    /// From the site to the provider.
    pub up: PipeStatistics,
    /// From the provider to the site.
    pub down: PipeStatistics,
    /// Its thread runs with real-time priority.
    pub realtime: bool,
}
