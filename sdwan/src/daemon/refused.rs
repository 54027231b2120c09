//! What discovery tells beside the coming and going of sites, as events for operators.

use crate::discovery::DiscoveryEvent;
use crate::engine::events::{EngineEvent, EventKind};

/// The event, if it is one for operators.
pub fn event_of(event: &DiscoveryEvent) -> Option<EngineEvent> {
    let new = |kind, message: String| EngineEvent::new(kind, message);
    Some(match event {
        DiscoveryEvent::Refused { reason, source, claimed, count } => {
            let times = if *count == 1 { String::new() } else { format!(" ({count} of them)") };
            let message = format!("refused an announcement from {source}{times}: {reason}");
            let mut event = new(EventKind::AnnouncementRefused, message);
            event.details = serde_json::json!({
                "reason": reason,
                "source": source,
                "claimed_site": claimed,
                "count": count,
            });
            event
        }
        DiscoveryEvent::RevocationsUpdated { page, number, entries } => new(
            EventKind::SiteRemoved,
            format!("the revocation list changed: page {page} number {number}, {entries} entries in all"),
        ),
        DiscoveryEvent::OwnCertificateRevoked => new(
            EventKind::SiteRemoved,
            "this site's own certificate is revoked, and the others drop it: ask the mesh authority for a new one"
                .into(),
        ),
        DiscoveryEvent::OwnIdentityElsewhere { source, sequence } => new(
            EventKind::AnnouncementRefused,
            format!(
                "{source} announces with this site's identity (sequence {sequence}): if the state of this site was \
                 not lost lately, somebody has a copy of its key"
            ),
        ),
        DiscoveryEvent::Clock(change) => new(EventKind::ClockSet, change.text()),
        DiscoveryEvent::StoreFailed { error } => new(EventKind::StoreTrouble, error.clone()),
        DiscoveryEvent::InterfaceFailed { interface, error } => {
            new(EventKind::UplinkChanged, format!("discovery can't use interface {interface}: {error}"))
        }
        DiscoveryEvent::SeedFailed { seed, error } => {
            new(EventKind::UplinkChanged, format!("seed {seed} can't be resolved: {error}"))
        }
        DiscoveryEvent::NotRecalled { site, name, why } => {
            new(EventKind::SiteRemoved, format!("site {name} was removed: {}", why.text())).with_site(*site)
        }
        DiscoveryEvent::Site { .. }
        | DiscoveryEvent::Heard { .. }
        | DiscoveryEvent::Left { .. }
        | DiscoveryEvent::Inactive { .. }
        | DiscoveryEvent::Removed { .. } => return None,
    })
}
