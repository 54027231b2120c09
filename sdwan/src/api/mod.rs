//! The API: HTTP on a Unix socket, and on TCP under TLS, versioned by its path (`/v1/…`).
//!
//! - [`access`]: who asks, and with which role
//! - [`views`]: what it shows
//! - [`answer`]: answers that need no running daemon
//! - [`report`]: what paths, providers and classes did over a span of time
//! - [`request`]: what it asks of the daemon's core task
//! - [`server`]: the daemon's side; `listen`: its sockets and their clients; `guard`: who is let in; `handlers`: what
//!   each path does; `queries`: what requests hold
//! - [`tls`]: the side on TCP; [`scrape`]: `/metrics` on TCP without a login
//! - [`dashboard`]: the pages for browsers, and where they are; [`sessions`]: who logged in there; `session`: how
//! - [`tokens`]: what lets viewers in; [`audit`]: who changed what; [`refusals`]: who was turned away
//! - [`openapi`]: the document of all that
//! - [`client`]: the side of the other commands; [`remote`]: the same from another machine
//! - [`certificates`]: a small authority for the certificates of gateways and users
//! - [`flow`]: how people name a flow
//! - [`metrics`]: the views in the words of Prometheus

pub mod access;
pub mod answer;
pub mod audit;
pub mod certificates;
pub mod client;
pub mod dashboard;
pub mod flow;
mod guard;
mod handlers;
mod listen;
pub mod metrics;
pub mod openapi;
mod queries;
pub mod refusals;
pub mod remote;
pub mod report;
pub mod request;
pub mod scrape;
pub mod server;
mod session;
pub mod sessions;
pub mod tls;
pub mod tokens;
pub mod views;
