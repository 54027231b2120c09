//! The daemon: opens everything, wires the tasks together, and takes it apart again.

mod adoption;
mod answers;
mod capacity;
mod core;
pub mod desired;
mod dry_run;
mod early;
mod explain;
mod history;
mod inputs;
mod moves;
mod mtu;
mod names;
mod plane;
mod policies;
mod privileges;
mod publish;
mod refused;
mod reload;
mod routes;
mod settings;
mod start;
mod storage;
mod supervisor;
mod teardown;
#[cfg(test)]
mod tests;
mod trace;
mod traffic;
mod views;

pub use privileges::{check_privileges, missing_capabilities};
pub use reload::Reloader;
pub use settings::planned_uplinks;
pub use start::{Ended, StartError, run};
pub use teardown::{Removed, teardown};
