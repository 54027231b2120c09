//! The sans-IO core: sites, paths, estimators, scoring, policy, selection. No tokio, no sockets, no clocks: every call
//! takes `now`.
//!
//! [`Engine`] takes an [`Input`](input::Input) at a [`Time`], says when it wants to be woken, which
//! [`Probe`](input::Probe) to send, and what [changed](input::Changes).

pub mod account;
pub mod capacity;
mod core;
pub mod emodel;
pub mod estimate;
pub mod events;
pub mod input;
pub mod mtu;
mod pace;
pub mod path;
mod penalty;
pub mod policy;
mod room;
pub mod score;
pub mod sets;
pub mod settings;
mod site;
mod stall;
mod standing;
#[cfg(test)]
mod tests;
pub mod time;
mod topology;
pub mod types;

pub use core::{Engine, IgnoredReplies, Local};
pub use pace::Paces;
pub use site::Site;
pub use time::Time;
pub use topology::{TunnelMtus, uplink_usable};
