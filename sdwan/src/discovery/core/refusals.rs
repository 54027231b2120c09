//! Refusals as events: at most one per reason, source and second.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::discovery::types::DiscoveryEvent;
use crate::engine::types::SiteId;
use crate::trust::verifier::{Refusal, Refused};

const WINDOW: Duration = Duration::from_secs(1);
/// Pairs of reason and source that are told apart at one time.
const WINDOWS_MAX: usize = 256;

struct Window {
    since: Duration,
    untold: u64,
    claimed: Option<SiteId>,
}

/// Collects refusals.
#[derive(Default)]
pub(super) struct RefusalLog {
    windows: HashMap<(Refusal, IpAddr), Window>,
}

impl RefusalLog {
    /// Counts a refusal; the first of its kind is told at once.
    pub fn note(&mut self, now: Duration, refused: Refused, source: IpAddr) -> Option<DiscoveryEvent> {
        let Refused { reason, claimed } = refused;
        let mut key = (reason, source);
        if !self.windows.contains_key(&key) && self.windows.len() >= WINDOWS_MAX {
            key.1 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        }
        if let Some(window) = self.windows.get_mut(&key) {
            window.untold += 1;
            window.claimed = claimed;
            return None;
        }
        self.windows.insert(key, Window { since: now, untold: 0, claimed });
        Some(DiscoveryEvent::Refused { reason, source: key.1, claimed, count: 1 })
    }

    /// Tells what came after the first in windows that are over, and closes those with nothing to tell.
    pub fn tick(&mut self, now: Duration) -> Vec<DiscoveryEvent> {
        let mut events = Vec::new();
        self.windows.retain(|(reason, source), window| {
            if now < window.since + WINDOW {
                return true;
            }
            if window.untold == 0 {
                return false;
            }
            let (reason, source, claimed, count) = (*reason, *source, window.claimed, window.untold);
            events.push(DiscoveryEvent::Refused { reason, source, claimed, count });
            *window = Window { since: now, untold: 0, claimed: None };
            true
        });
        events
    }

    /// Whether a tick is needed.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(event: &DiscoveryEvent) -> u64 {
        match event {
            DiscoveryEvent::Refused { count, .. } => *count,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_event_per_reason_source_and_second_and_nothing_is_lost() {
        let mut log = RefusalLog::default();
        let source: IpAddr = "192.0.2.1".parse().unwrap();
        let refused = Refused { reason: Refusal::Replayed, claimed: None };
        let (mut told, mut events) = (0, 0);
        for millisecond in 0..5_000 {
            let now = Duration::from_millis(millisecond);
            for event in log.note(now, refused, source).into_iter().chain(log.tick(now)) {
                told += count(&event);
                events += 1;
            }
        }
        for event in log.tick(Duration::from_secs(7)) {
            told += count(&event);
            events += 1;
        }
        assert_eq!(told, 5_000);
        assert!((5..=6).contains(&events), "{events} events");
        log.tick(Duration::from_secs(9));
        assert!(log.is_empty());
    }

    #[test]
    fn many_sources_share_one_window() {
        let mut log = RefusalLog::default();
        let refused = Refused { reason: Refusal::Malformed, claimed: None };
        let mut events: Vec<_> =
            (0..100_000u32).filter_map(|n| log.note(Duration::ZERO, refused, IpAddr::V4(n.into()))).collect();
        assert!(log.windows.len() <= WINDOWS_MAX + 1);
        events.extend(log.tick(Duration::from_secs(1)));
        assert_eq!(events.iter().map(count).sum::<u64>(), 100_000);
        assert!(events.len() <= WINDOWS_MAX + 2);
    }
}
