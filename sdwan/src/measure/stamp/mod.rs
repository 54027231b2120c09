//! Complete STAMP in user space (RFC 8762, RFC 8972): a session reflector for any peer, and a session sender for any
//! reflector.
//!
//! | part | home |
//! |---|---|
//! | key and hashes of the authenticated mode | [`key`] |
//! | one question → its answer | [`answer`] |
//! | who is answered, how often, with which number | [`reflector`], [`limits`], [`sessions`] |
//! | sockets around it | [`listen`] |
//! | what a session's answers say | [`session`] |
//! | sockets and timers around that | [`send`] |
//!
//! Only [`listen`] and [`send`] have clocks and sockets.

pub mod answer;
pub mod counters;
pub mod key;
pub mod limits;
pub mod listen;
pub mod reflector;
pub mod send;
pub mod session;
pub mod sessions;

/// Longest UDP payload that is answered or sent, bytes: what fits a jumbo frame.
pub const MAXIMUM_PAYLOAD: usize = 9_000;
