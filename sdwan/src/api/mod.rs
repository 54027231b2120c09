//! The local API: HTTP on a Unix socket, versioned by its path (`/v1/…`).
//!
//! - [`views`]: what it shows
//! - [`answer`]: answers that need no running daemon
//! - [`request`]: what it asks of the daemon's core task
//! - [`server`]: the daemon's side
//! - [`scrape`]: `/metrics` on TCP
//! - [`client`]: the side of the other commands
//! - [`flow`]: how people name a flow
//! - [`metrics`]: the views in the words of Prometheus

pub mod answer;
pub mod client;
pub mod flow;
pub mod metrics;
pub mod request;
pub mod scrape;
pub mod server;
pub mod views;
