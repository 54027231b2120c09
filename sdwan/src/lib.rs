//! An SD-WAN gateway: WireGuard tunnels over every pair of uplinks, measured paths, and per-application steering by
//! eBPF programs.
//!
//! `docs/ARCHITECTURE.md` is the map. [`engine`] decides and imports nothing from the other modules; they turn packets
//! into engine events and engine outputs into system calls.

pub mod api;
pub mod cli;
pub mod config;
pub mod confine;
pub mod daemon;
pub mod dataplane;
pub mod discovery;
pub mod engine;
pub mod measure;
pub mod net;
pub mod recording;
pub mod store;
pub mod trust;
pub mod tunnel;
