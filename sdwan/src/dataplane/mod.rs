//! The user-space side of the data path: loads, attaches and pins the programs, makes the maps what the engine wants,
//! and reads them.
//!
//! [`Dataplane`] is the whole of it for the daemon. Everything lives in pins under `<bpffs>/sdwan/v<ABI>`, so that
//! packets flow while the daemon is away and the next one goes on where this one stopped.

mod attach;
pub mod desired;
pub mod early;
mod error;
mod events;
mod inherit;
mod load;
#[cfg(test)]
mod memory;
mod numbers;
mod plane;
mod read;
mod reconcile;
mod shadow;
mod tables;
#[cfg(test)]
mod tests;

pub use attach::{AttachMode, Attachment, Direction, XdpState};
pub use error::Error;
pub use events::{EventStream, PlaneEvent};
pub use inherit::FormerFlow;
pub use load::{Capacities, Layout, OBJECT, anything_pinned, detach_all};
pub use numbers::Numbers;
pub use plane::{Dataplane, Settings};
pub use read::{FlowRecord, PathCounters, Reader, TcpRttSummary};
pub use reconcile::Reconciler;
pub use tables::{Table, Tables};
