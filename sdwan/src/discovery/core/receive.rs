//! What comes in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::sources::{Answer, SourceKey};
use super::{Core, Origin, Route};
use crate::discovery::types::{DiscoveryEvent, Removal};
use crate::engine::types::SiteId;
use crate::trust::persist::StoredAnnouncement;
use crate::trust::verifier::{Now, Refusal, Refused, Verdict};

/// A repeated announcement proves its source within this time of its first arrival: it came by several ways at once.
const SAME_MOMENT: Duration = Duration::from_secs(5);
/// Sources that one announcement can prove.
const PROOFS_MAX: u8 = 4;

impl Core {
    /// Takes a datagram. One that is longer than 1,200 bytes may be cut to any length above that.
    pub fn receive(&mut self, now: Now, origin: Origin, source: SocketAddr, datagram: &[u8]) {
        self.counters.received += 1;
        let neighbour = origin == Origin::Overlay && self.neighbour_addresses.contains(&source.ip());
        match self.verifier.judge(now, source.ip(), neighbour, datagram) {
            Ok(verdict) => self.believe(now, origin, source, verdict),
            Err(refused) => self.refuse(now, origin, source, refused, datagram.len()),
        }
    }

    fn believe(&mut self, now: Now, origin: Origin, source: SocketAddr, verdict: Verdict) {
        let from = route_back(origin, source);
        match verdict {
            Verdict::Announcement(verified) => {
                self.counters.accepted += 1;
                let site = verified.site.id;
                let by_tunnel = origin == Origin::Overlay;
                self.note_site(now, &verified, Some(source.ip()), by_tunnel);
                self.store(now, site, verified.sequence, verified.bytes.clone());
                self.pass_on(now, site, &verified.bytes, verified.changed, from);
                self.prove(now, origin, source, site);
            }
            Verdict::Known(site) => {
                self.counters.known += 1;
                let Some(heard) = self.sites.get_mut(&site) else { return };
                if now.monotonic < heard.last + SAME_MOMENT && heard.proofs < PROOFS_MAX {
                    self.prove(now, origin, source, site);
                }
            }
            Verdict::Leave { site, sequence, bytes, was_active } => {
                self.counters.accepted += 1;
                self.store(now, site, sequence, bytes.clone());
                self.sites.remove(&site);
                self.pass_on(now, site, &bytes, true, from);
                self.sources.forget_site(site);
                if was_active {
                    self.outbox.event(DiscoveryEvent::Left { site });
                }
            }
            Verdict::Revocations { page, removed } => {
                self.counters.accepted += 1;
                self.new_page(now, page, Some(from));
                self.remove_sites(&removed, Removal::Revoked);
            }
            Verdict::KnownRevocations => self.counters.known += 1,
            Verdict::Own { ahead } => {
                self.counters.own += 1;
                if let Some(sequence) = ahead {
                    self.outbox.event(DiscoveryEvent::OwnIdentityElsewhere { source: source.ip(), sequence });
                    self.overtaken(now, sequence);
                }
            }
        }
    }

    fn refuse(&mut self, now: Now, origin: Origin, source: SocketAddr, refused: Refused, length: usize) {
        if let Some(index) = Refusal::ALL.iter().position(|reason| *reason == refused.reason) {
            self.counters.refused[index] += 1;
        }
        if let Some(event) = self.refusals.note(now.monotonic, refused, source.ip()) {
            self.outbox.event(event);
        }
        let replayed = refused.claimed.filter(|_| refused.reason == Refusal::Replayed);
        let Some(site) = replayed else { return };
        // A site that lost its store speaks with old numbers, and knows nobody. It is told about the others once it has
        // proved, by a new announcement, that this wasn't somebody else who repeated an old one.
        if let Some(heard) = self.sites.get_mut(&site).filter(|heard| heard.addresses.contains(&source.ip())) {
            heard.behind = true;
        }
        // The answer, its own newer announcement, lets it catch up. Nothing was verified, so the answer is no larger than
        // the question, and paced.
        if let Some(newer) = self.verifier.last_datagram(site).cloned()
            && newer.len() <= length
            && self.correction_pace.take(now.monotonic)
        {
            self.transmit(route_back(origin, source), newer);
        }
    }

    /// The source of a fresh announcement is somebody of the mesh, or forwards for somebody.
    fn prove(&mut self, now: Now, origin: Origin, source: SocketAddr, site: SiteId) {
        let (link, unicast) = match origin {
            Origin::Overlay => return,
            Origin::Multicast(link) => (link, false),
            Origin::Unicast(link) => (link, true),
        };
        if !self.links.contains_key(&link) {
            return;
        }
        let Some(heard) = self.sites.get_mut(&site) else { return };
        heard.proofs = heard.proofs.saturating_add(1);
        let forgetful = heard.forgetful;
        // Behind NAT, or when somebody passes on what another said, the source is not an address of the site.
        let owner = heard.addresses.contains(&source.ip()).then_some(site);
        let key = SourceKey { link, address: source };
        if forgetful {
            self.sources.forget(&key);
        }
        match self.sources.prove(key, owner, unicast, now.monotonic) {
            Answer::No => {}
            Answer::Own if !forgetful => self.answer(key),
            Answer::Own | Answer::All => self.greet_source(now, key),
        }
    }

    fn store(&mut self, now: Now, site: SiteId, sequence: u64, bytes: Arc<[u8]>) {
        self.outbox.record(StoredAnnouncement { site, sequence, accepted_unix: now.unix(), bytes });
    }
}

fn route_back(origin: Origin, source: SocketAddr) -> Route {
    match origin {
        Origin::Multicast(link) | Origin::Unicast(link) => Route::Unicast { link, to: source },
        Origin::Overlay => Route::Overlay { to: source },
    }
}
