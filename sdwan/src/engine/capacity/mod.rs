//! How much a path carries, measured at the receiver (the method of RFC 9097, with short trains instead of long loads).
//!
//! - [`train`]: what the receiver notes about a train of packets, and what it reports
//! - [`reading`]: what one report says about the bottleneck
//! - [`search`]: which trains to send, and when it is known
//! - [`passive`]: what live traffic already shows
//! - [`schedule`]: which path is measured when, within the share of its bytes
//!
//! **Capacity** is the IP-layer capacity of the underlay (RFC 9097 section 4): bits of the outer IP packets, WireGuard's
//! overhead included, per second. Ethernet headers are not part of it.

mod combine;
pub mod passive;
pub mod reading;
pub mod schedule;
pub mod search;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
pub mod train;

use serde::{Deserialize, Serialize};

use super::time::Time;

/// Direction on a path, seen from this site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = CapacityDirection)]
pub enum Direction {
    /// Towards the peer.
    Forward,
    /// From the peer.
    Backward,
}

/// How a capacity is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = CapacityHow)]
pub enum How {
    /// The operator says so.
    Declared,
    /// Live traffic was delivered at this rate: the path carries that at least.
    Passive,
    /// By trains of packets that filled the bottleneck.
    Measured,
    /// By trains that did not fill it: the path carries that at least.
    AtLeast,
}

/// A capacity that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// Bits of outer IP packets per second.
    pub bits_per_second: u64,
    /// When.
    pub at: Time,
    /// How.
    pub how: How,
}

/// What is known about the capacity of one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Declared rate towards the peer, bit/s.
    pub declared: Option<u64>,
    forward: Option<Estimate>,
    backward: Option<Estimate>,
}

impl Known {
    /// Nothing but perhaps a declared rate, bit/s.
    pub fn declared(rate: Option<u64>) -> Self {
        Self { declared: rate, ..Self::default() }
    }

    /// Takes a new estimate. One that is only a lower bound never replaces a larger or better one; it raises it.
    pub fn set(&mut self, direction: Direction, new: Estimate) {
        let place = match direction {
            Direction::Forward => &mut self.forward,
            Direction::Backward => &mut self.backward,
        };
        let keeps = |old: &Estimate| new.how != How::Measured && old.bits_per_second >= new.bits_per_second;
        if !place.as_ref().is_some_and(keeps) {
            *place = Some(new);
        }
    }

    /// What was found towards the peer or from it; a declared rate is not.
    pub fn found(&self, direction: Direction) -> Option<Estimate> {
        match direction {
            Direction::Forward => self.forward,
            Direction::Backward => self.backward,
        }
    }

    /// Capacity towards the peer, bit/s, and how it is known. What was measured stands over what is declared; a lower
    /// bound only where it is larger.
    pub fn forward(&self) -> Option<(u64, How)> {
        let found = self.forward.map(|estimate| (estimate.bits_per_second, estimate.how));
        let declared = self.declared.map(|rate| (rate, How::Declared));
        match (found, declared) {
            (Some(found), Some(declared)) if found.1 != How::Measured && found.0 < declared.0 => Some(declared),
            (found, declared) => found.or(declared),
        }
    }
}

/// What a tunnel adds to the packets inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Bytes added to each packet.
    pub overhead: u16,
    /// Packets are filled up to a multiple of this, as far as `mtu` allows.
    pub align: u16,
    /// Largest packet inside, bytes.
    pub mtu: u16,
}

impl Framing {
    /// No tunnel.
    pub const fn none(mtu: u16) -> Self {
        Self { overhead: 0, align: 1, mtu }
    }

    /// WireGuard: `overhead` as of [`wireguard_overhead`](super::types::wireguard_overhead), filled up to 16 bytes.
    pub const fn wireguard(overhead: u16, mtu: u16) -> Self {
        Self { overhead, align: 16, mtu }
    }

    /// Bytes on the underlay of one packet of `inner` bytes.
    pub fn outer(&self, inner: u16) -> u16 {
        let filled = inner.next_multiple_of(self.align.max(1)).min(self.mtu.max(inner));
        filled.saturating_add(self.overhead)
    }

    /// Bytes on the underlay of many packets of unknown sizes: half of the alignment is taken for each.
    pub fn outer_total(&self, packets: u64, bytes: u64) -> u64 {
        bytes.saturating_add(packets.saturating_mul(u64::from(self.overhead) + u64::from(self.align) / 2))
    }
}
