//! What can go wrong with a test-bed.

use std::io;

/// An error of the test-bed.
#[derive(Debug, thiserror::Error)]
pub enum BedError {
    /// This machine can't hold a bed.
    #[error("no test-bed possible here: {0}")]
    Unavailable(String),
    /// A system call or file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted, on what.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A command ended with an error.
    #[error("in namespace {namespace}: `{command}` failed: {output}")]
    Command {
        /// Name of the namespace.
        namespace: String,
        /// The command line.
        command: String,
        /// What it printed.
        output: String,
    },
    /// The keeper process refused a request or is gone.
    #[error("the bed's keeper process: {0}")]
    Keeper(String),
    /// No such site, host, provider or link.
    #[error("the bed has no {kind} {name:?}")]
    Unknown {
        /// `site`, `host`, `provider` or `link`.
        kind: &'static str,
        /// The name asked for.
        name: String,
    },
    /// The description can't be built.
    #[error("the bed can't be built: {0}")]
    Plan(String),
    /// A wait came to its end.
    #[error("{what} didn't happen within {seconds} s: {last}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: f64,
        /// The last thing seen.
        last: String,
    },
}

/// Shorthand.
pub type Result<T, E = BedError> = std::result::Result<T, E>;

/// Names what was attempted.
pub trait Attempt<T> {
    /// Turns the system's error into one that says what was attempted.
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Attempt<T> for io::Result<T> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| BedError::Io { what: what(), source })
    }
}

impl<T> Attempt<T> for nix::Result<T> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| BedError::Io { what: what(), source: errno.into() })
    }
}
