//! `[dashboard]`: where browsers of this machine find the dashboard.

use std::net::SocketAddr;

use serde::Serialize;

use super::Config;
use super::reader::{Notes, Section};

/// `[dashboard]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DashboardConfig {
    /// Loopback addresses to serve the dashboard on, without TLS, and for looking without a login; empty: only where the
    /// API is served over TLS.
    pub listen: Vec<SocketAddr>,
}

/// Reads the section.
pub(super) fn read(dashboard: &mut DashboardConfig, mut section: Section<'_>, notes: &mut Notes) {
    dashboard.listen = section.list(notes, "listen", "an address such as \"127.0.0.1:51880\"");
    section.finish(notes);
}

/// Notes what is wrong with it.
pub(super) fn validate(config: &Config, notes: &mut Notes) {
    for (index, listen) in config.dashboard.listen.iter().enumerate() {
        let key = format!("dashboard.listen[{index}]");
        if !listen.ip().to_canonical().is_loopback() {
            let message = format!("{listen} is no loopback address, and what goes there is not encrypted");
            let remedy = "use 127.0.0.1 or [::1], and ssh to reach it; or `listen` in [api], which serves the dashboard \
                          over TLS";
            notes.problem(&key, message, remedy);
        }
        if listen.port() == 0 {
            notes.problem(&key, "port 0 is no port", "name the port that browsers connect to, such as 51880");
        }
        if config.dashboard.listen[..index].contains(listen) {
            notes.problem(&key, format!("{listen} is there twice"), "name each address once");
        }
        for (others, section) in [(&config.metrics.listen, "metrics"), (&config.api.listen, "api")] {
            if others.contains(listen) {
                notes.problem(&key, format!("{listen} is one of [{section}] already"), "choose another port");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Options, parse};

    #[test]
    fn only_loopback_does_without_tls() {
        let config = parse(None, "[dashboard]\nlisten = [\"127.0.0.1:51880\", \"[::1]:51880\"]\n", &Options::default());
        assert_eq!(config.unwrap().dashboard.listen.len(), 2);
        let text = "[metrics]\nlisten = [\"127.0.0.1:1\"]\n[dashboard]\nlisten = [\"192.0.2.1:51880\", \"[::]:1\", \
                    \"127.0.0.1:0\", \"127.0.0.1:1\"]\n";
        let error = parse(None, text, &Options::default()).unwrap_err().to_string();
        for part in ["192.0.2.1:51880 is no loopback", "[::]:1 is no loopback", "port 0", "one of [metrics] already"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
