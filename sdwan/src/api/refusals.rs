//! Who was turned away, and why: counted, and told in the log a little at a time.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::info;

/// Between two lines of the log about the same reason.
const QUIET: Duration = Duration::from_secs(10);

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a connection or a request is refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in the status and the metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    /// A certificate of the past, or of the future.
    CertificateExpired = "certificate_expired",
    /// A certificate of an authority that isn't the configured one.
    UnknownAuthority = "unknown_authority",
    /// Another failure of the handshake, such as no TLS at all.
    TlsFailed = "tls_failed",
    /// Neither a certificate nor a token.
    NotLoggedIn = "not_logged_in",
    /// A certificate of the authority, of nobody who is configured.
    UnknownUser = "unknown_user",
    /// A token that isn't known, or has ended.
    WrongToken = "wrong_token",
    /// Somebody whose role doesn't allow it.
    WrongRole = "wrong_role",
    /// A page of another site sent it.
    CrossSite = "cross_site",
    /// It was meant for another host.
    WrongHost = "wrong_host",
    /// A body beyond the limit.
    OversizedBody = "oversized_body",
    /// A client that did not get on in time.
    SlowClient = "slow_client",
    /// No room for one more connection.
    TooManyConnections = "too_many_connections",
}

/// The counters.
#[derive(Debug, Default)]
pub struct Refusals {
    reasons: [Counter; Reason::ALL.len()],
}

#[derive(Debug, Default)]
struct Counter {
    count: AtomicU64,
    /// What the count was at the last line of the log.
    told: AtomicU64,
    /// When that was, ms since the first use of [`since_start`], plus 1; 0 for never.
    told_at: AtomicU64,
}

impl Refusals {
    /// Counts one; `detail` goes into the log, if it is time for a line.
    pub fn count(&self, reason: Reason, detail: impl Display) {
        let counter = &self.reasons[reason as usize];
        let count = counter.count.fetch_add(1, Ordering::Relaxed) + 1;
        let now = since_start().as_millis() as u64 + 1;
        let last = counter.told_at.load(Ordering::Relaxed);
        if last != 0 && now.saturating_sub(last) < QUIET.as_millis() as u64 {
            return;
        }
        if counter.told_at.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let more = count - counter.told.swap(count, Ordering::Relaxed);
            let reason = reason.name();
            info!(target: "sdwan::api", reason, count = more, "refused: {detail}");
        }
    }

    /// All counts, by name.
    pub fn snapshot(&self) -> BTreeMap<String, u64> {
        let count = |reason: &Reason| self.reasons[*reason as usize].count.load(Ordering::Relaxed);
        Reason::ALL.iter().map(|reason| (reason.name().to_owned(), count(reason))).collect()
    }
}

fn since_start() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_counter_of_its_own() {
        let refusals = Refusals::default();
        refusals.count(Reason::WrongRole, "a viewer");
        refusals.count(Reason::WrongRole, "a viewer");
        refusals.count(Reason::TooManyConnections, "somebody");
        let counts = refusals.snapshot();
        assert_eq!(counts.len(), Reason::ALL.len(), "names are unique");
        assert_eq!((counts["wrong_role"], counts["too_many_connections"], counts["cross_site"]), (2, 1, 0));
    }
}
