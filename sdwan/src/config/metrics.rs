//! `[metrics]`: where Prometheus scrapes.

use std::net::SocketAddr;

use serde::Serialize;

use super::reader::{Notes, Section};

/// `[metrics]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MetricsConfig {
    /// TCP addresses to serve `/metrics` on, without a login; empty: on the daemon's Unix socket only.
    pub listen: Vec<SocketAddr>,
}

/// Reads the section.
pub(super) fn read(metrics: &mut MetricsConfig, mut section: Section<'_>, notes: &mut Notes) {
    metrics.listen = section.list(notes, "listen", "an address such as \"127.0.0.1:9586\"");
    section.finish(notes);
}

/// Notes what is wrong with it.
pub(super) fn validate(metrics: &MetricsConfig, notes: &mut Notes) {
    for (index, listen) in metrics.listen.iter().enumerate() {
        let key = format!("metrics.listen[{index}]");
        if listen.port() == 0 {
            notes.problem(&key, "port 0 is no port", "name the port that Prometheus scrapes, such as 9586");
        }
        if metrics.listen[..index].contains(listen) {
            notes.problem(&key, format!("{listen} is there twice"), "name each address once");
        }
    }
}
