//! What both sides of the kernel boundary share, and the only home of it.
//!
//! - [`abi`]: the structs that live in eBPF maps
//! - [`copies`]: packets that go by two paths, and how the second copy is known
//! - [`counters`]: why a packet was dropped or left to the stack, by number and name
//! - [`classify`]: packet → rule, by bit vectors
//! - [`guard`]: which datagrams to a tunnel port can be WireGuard's, and how many pass
//! - [`kernel`]: the oldest kernel that is supported
//! - [`liveness`]: is a path usable right now
//! - [`select`]: flow → path, by ranks and weighted rendezvous hashing
//! - [`stamp`]: the STAMP wire format (RFC 8762, RFC 8972)
//!
//! Everything here is `no_std`, free of allocation, clocks and IO, and compiled twice: into the eBPF programs and
//! into the daemon. `sdwan explain` and the kernel therefore can't disagree.
#![no_std]
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod abi;
pub mod classify;
pub mod copies;
pub mod counters;
pub mod guard;
pub mod kernel;
pub mod liveness;
pub mod outer;
pub mod select;
pub mod stamp;
