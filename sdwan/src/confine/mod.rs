//! What the daemon gives up once it is told what to do: every capability that it doesn't need, and writing anywhere but
//! where its files are.

pub mod capabilities;
mod files;
pub mod precedence;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tracing::{debug, warn};

use crate::config::{Config, TunnelBackend};
use capabilities::Set;

/// Says to the next image of this process that it is confined already: rules of Landlock stay over an execution, and the
/// kernel takes at most sixteen sets of them.
const CONFINED: &str = "SDWAN_CONFINED";

/// What came of it, for the log of a daemon that has started.
static OUTCOME: OnceLock<&str> = OnceLock::new();

/// How this process is confined.
pub fn outcome() -> &'static str {
    OUTCOME.get().copied().unwrap_or("not at all")
}

/// A process that is confined.
#[derive(Debug, Default)]
#[must_use]
pub struct Confined {
    /// Directories that were made for it, the innermost first.
    made: Vec<PathBuf>,
}

impl Confined {
    /// Removes those of the directories made for it that nothing is in.
    pub fn leave(self) {
        for directory in self.made {
            // Something is in it: others use it, or the userspace WireGuard goes on.
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// Confines this process, as far as the kernel can. Capabilities and rules belong to threads: call it before others are
/// started. `recording` is a file that it writes besides.
///
/// What doesn't work is told in the log, and is no reason for a gateway not to start.
pub fn confine(config: &Config, recording: Option<&Path>) -> Confined {
    // It is told once, and a second time changes nothing.
    let told = |outcome| {
        OUTCOME.get_or_init(|| outcome);
    };
    if let Err(error) = precedence::take() {
        debug!("the core goes before no other thread: {error}");
    }
    if std::env::var(CONFINED).is_ok_and(|pid| pid == std::process::id().to_string()) {
        told("as before");
        return Confined::default();
    }
    // The kernel's WireGuard may be a module, and loading it takes what is given up below.
    if config.tunnel.backend != TunnelBackend::Userspace
        && let Err(error) = crate::tunnel::kernel_has_wireguard()
    {
        debug!("cannot tell whether the kernel has WireGuard: {error}");
    }
    if let Err(error) = capabilities::allow_pacing() {
        debug!("the thread that paces capacity measurements gets no real-time priority: {error}");
    }
    let given_up = Set::held().and_then(|held| capabilities::keep_only(held.needed()));
    if let Err(error) = &given_up {
        warn!("cannot give up capabilities that aren't needed: {error}");
    }
    let mut confined = Confined::default();
    let restricted = files::restrict(config, recording, &mut confined.made);
    if let Err(error) = &restricted {
        warn!("cannot confine the daemon to its files: {error}");
    }
    told(match (given_up, restricted) {
        (Ok(()), Ok(true)) => "to its capabilities and its files",
        (Ok(()), Ok(false)) => "to its capabilities; the kernel has no Landlock for files",
        (Ok(()), Err(_)) => "to its capabilities",
        (Err(_), Ok(true)) => "to its files",
        (Err(_), _) => "not at all",
    });
    confined
}

/// What the next image of this process is to find in its environment.
pub fn marker() -> (&'static str, String) {
    (CONFINED, std::process::id().to_string())
}
