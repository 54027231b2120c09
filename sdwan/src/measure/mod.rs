//! STAMP probes (RFC 8762): sockets and clocks around the engine's estimators.
//!
//! Each tunnel has a sender socket, bound to the tunnel's interface, and a reflector socket that answers where no eBPF
//! reflector is attached. Neither decides anything: replies go to the engine as they are.

pub mod capacity;
pub mod clock;
pub mod mtu;
pub mod notice;
mod reflector;
mod sender;
pub mod socket;
pub mod stamp;

use std::net::IpAddr;

use tokio::sync::mpsc;

use crate::engine::Time;
use crate::engine::estimate::{Counters, ProbeReply};
use crate::engine::types::TunnelKey;

pub use sender::{ProbeCounters, Prober};

/// A reply to a probe, as it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The tunnel that it came by.
    pub tunnel: TunnelKey,
    /// Overlay address of the reflector.
    pub source: IpAddr,
    /// What it says.
    pub reply: ProbeReply,
    /// What both ends had counted of the data; `None` when one of them doesn't count.
    pub counters: Option<Counters>,
    /// When it came in, by the kernel's receive time stamp.
    pub at: Time,
}

/// Where replies go. Bounded: what doesn't fit is counted and lost, like a packet.
pub type Replies = mpsc::Sender<Received>;

/// A socket of the prober that could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Opening or binding failed.
    #[error("cannot {} the probe socket of tunnel interface {interface}: {}", .source.action, .source.source)]
    Socket {
        /// Interface of the tunnel.
        interface: String,
        /// What failed.
        #[source]
        source: socket::SocketError,
    },
}
