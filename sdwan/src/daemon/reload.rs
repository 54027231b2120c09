//! `sdwan reload` and SIGHUP: what is on disk is checked while the daemon goes on; when it is good, the daemon executes
//! itself anew. A reload is a restart that can't fail for a reason that could have been known before, and it costs no
//! packet for the same reason as a restart: tunnels, programs and maps stay.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::signal::{SigHandler, Signal, signal};
use serde_json::Value;

use super::core::record_event;
use super::start::{ANSWER, Grounds, StartError};
use crate::api::audit;
use crate::api::request::{Changed, Refusal, Reply};
use crate::api::views::DoneView;
use crate::config::{Config, ConfigError};
use crate::engine::events::{EngineEvent, EventKind};
use crate::measure::clock;
use crate::net::NetSnapshot;
use crate::store::{AuditEntry, AuditOutcome, Store};

/// Why a reload was refused. The daemon goes on as it was.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Keys, certificate, policies or uplinks.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Something that only a restart can change, because it is held while the daemon runs.
    #[error("{0} can't be changed by a reload: use `systemctl restart sdwan`")]
    Fixed(&'static str),
    /// Nothing to execute.
    #[error("{program} can't be executed any more: {source}", program = program.display())]
    Program {
        /// The binary that this process was started from.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What a reload needs to know of the start.
#[derive(Clone)]
pub struct Reloader {
    program: PathBuf,
    load: Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>,
}

impl Reloader {
    /// `load` reads the configuration again, with the options of the command line over it.
    ///
    /// # Errors
    /// When the path of the running binary can't be told.
    pub fn new(load: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static) -> std::io::Result<Self> {
        Ok(Self { program: std::env::current_exe()?, load: Arc::new(load) })
    }

    /// Whether the daemon would start with what is on disk now; returns the configuration that it would start with.
    pub(super) fn check(&self, running: &Config, store: &Store, network: &NetSnapshot) -> Result<Config, ReloadError> {
        std::fs::metadata(&self.program)
            .map_err(|source| ReloadError::Program { program: self.program.clone(), source })?;
        let config = (self.load)()?;
        let (old, new) = (&running.site, &config.site);
        for (key, changed) in [
            ("site.state_dir", old.state_dir != new.state_dir || old.lock != new.lock),
            ("site.database", old.database != new.database),
            ("site.socket", old.socket != new.socket),
            ("dataplane.bpffs", running.dataplane.bpffs != config.dataplane.bpffs),
        ] {
            if changed {
                return Err(ReloadError::Fixed(key));
            }
        }
        Grounds::find(&config, network, || Ok(store.clone()))?;
        Ok(config)
    }

    /// Checks, tells the outcome as an event and to whoever asked, and says whether to go ahead.
    pub(super) async fn prepare(
        &self,
        running: &Config,
        store: &Store,
        network: Arc<NetSnapshot>,
        reply: Option<Reply<Changed>>,
    ) -> bool {
        let (reloader, config, checked_store) = (self.clone(), running.clone(), store.clone());
        let check = move || reloader.check(&config, &checked_store, &network).map_err(|error| error.to_string());
        // A task that ends by a panic has found out nothing good.
        let outcome = tokio::task::spawn_blocking(check).await.unwrap_or_else(|error| Err(error.to_string()));
        let message = match &outcome {
            Ok(_) => "the daemon starts anew with its files as they are now".to_owned(),
            Err(error) => format!("the reload was refused, and the daemon goes on as it was: {error}"),
        };
        record_event(store, EngineEvent::new(EventKind::Reload, message.clone()));
        let good = outcome.is_ok();
        let changed = match outcome {
            Ok(config) => {
                let (before, after) = difference(running, &config);
                Ok(Changed { done: DoneView::new(message), before, after })
            }
            Err(_) => Err(Refusal::Invalid(message)),
        };
        match reply {
            Some(reply) => {
                drop(reply.send(changed));
                tokio::time::sleep(ANSWER).await;
            }
            None => audit::record(store, by_signal(changed)),
        }
        good
    }

    /// Becomes a new process image with the same process number; returns only when that failed.
    pub fn execute(&self) -> std::io::Error {
        use std::os::unix::process::CommandExt as _;
        // What is ignored stays ignored by the new image until it listens: a second SIGHUP doesn't kill it meanwhile.
        // SAFETY: no handler of ours is installed, only the disposition "ignore".
        if let Err(error) = unsafe { signal(Signal::SIGHUP, SigHandler::SigIgn) } {
            return error.into();
        }
        let arguments: Vec<OsString> = std::env::args_os().collect();
        let mut command = std::process::Command::new(&self.program);
        let (name, value) = crate::confine::marker();
        command.env(name, value);
        if let Some((name, rest)) = arguments.split_first() {
            command.arg0(name).args(rest);
        }
        command.exec()
    }
}

/// What is different between two configurations, as the audit log shows it: each key with its value, before and after.
fn difference(before: &Config, after: &Config) -> (Value, Value) {
    let leaves = |config: &Config| {
        let mut leaves = BTreeMap::new();
        collect(String::new(), &serde_json::to_value(config).unwrap_or_default(), &mut leaves);
        leaves
    };
    let (before, after) = (leaves(before), leaves(after));
    let only = |these: &BTreeMap<String, Value>, others: &BTreeMap<String, Value>| {
        let changed = these.iter().filter(|(key, value)| others.get(*key) != Some(value));
        Value::Object(changed.map(|(key, value)| (key.clone(), value.clone())).collect())
    };
    (only(&before, &after), only(&after, &before))
}

/// Every value of a document by its dotted key; a list is one value.
fn collect(key: String, value: &Value, leaves: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                collect(if key.is_empty() { name.clone() } else { format!("{key}.{name}") }, value, leaves);
            }
        }
        other => drop(leaves.insert(key, other.clone())),
    }
}

/// A reload by SIGHUP: the kernel doesn't tell who sent it.
fn by_signal(changed: Result<Changed, Refusal>) -> AuditEntry {
    let (before, after, outcome, message) = match changed {
        Ok(Changed { done, before, after }) => (before, after, AuditOutcome::Done, done.message),
        Err(refusal) => (Value::Null, Value::Null, AuditOutcome::Refused, refusal.to_string()),
    };
    AuditEntry {
        time_unix_ns: clock::unix_ns() as i64,
        who: "whoever sent SIGHUP".into(),
        via: "signal".into(),
        source: "a process".into(),
        role: "admin".into(),
        action: "reload".into(),
        target: String::new(),
        before,
        after,
        outcome,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_of_two_configurations_is_what_changed_and_nothing_else() {
        let before = Config::default();
        let mut after = Config::default();
        after.site.name = Some("hq".into());
        after.tunnel.listen_port = 52_000;
        let (was, is) = difference(&before, &after);
        assert_eq!(was, serde_json::json!({ "tunnel.listen_port": 51820 }));
        assert_eq!(is, serde_json::json!({ "tunnel.listen_port": 52000, "site.name": "hq" }));
        assert_eq!(difference(&before, &before), (serde_json::json!({}), serde_json::json!({})));
    }
}
