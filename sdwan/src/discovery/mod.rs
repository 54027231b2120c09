//! Finding the other sites: multicast, seeds, and gossip through the tunnels.
//!
//! [`core`] decides and owns no socket; [`start`] runs it with sockets, timers and the store around it.

pub mod core;
mod driver;
mod seeds;
mod sockets;
mod storage;
mod types;

pub use core::Identity;
pub use driver::{DiscoveryError, DiscoveryHandle, Stopped, start};
pub use seeds::{ParseSeedError, SEEDS_MAX, Seed};
pub use types::*;
