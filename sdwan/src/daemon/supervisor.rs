//! What systemd is told (sd_notify(3)): that the daemon is ready, that it lives, that it ends. Without systemd, nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;
use tracing::warn;

/// Tells, as long as it is asked to, that the core works: a core that hangs tells nothing, and is started anew.
#[derive(Debug)]
pub struct Watchdog {
    every: Option<Duration>,
    next: Instant,
}

impl Watchdog {
    /// As often as systemd wants to hear of it: three times in `WatchdogSec=`.
    pub fn from_environment() -> Self {
        Self { every: sd_notify::watchdog_enabled().map(|limit| limit / 3), next: Instant::now() }
    }

    /// Called in every turn of the core's loop; tells when it is time.
    pub fn alive(&mut self) {
        let (Some(every), now) = (self.every, Instant::now()) else { return };
        if now >= self.next {
            self.next = now + every;
            tell(&[NotifyState::Watchdog]);
        }
    }
}

/// The daemon works.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The daemon is about to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState]) {
    // Where nobody asked for it, this does nothing.
    if let Err(error) = sd_notify::notify(states) {
        warn!("cannot tell systemd: {error}");
    }
}
