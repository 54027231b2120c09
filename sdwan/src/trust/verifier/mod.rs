//! Turns datagrams into what may be believed. Owns no clock and no socket: every call takes `now`.
//!
//! Checks go from cheap to dear; a datagram that fails one is refused and changes nothing:
//!
//! 1. size, magic, version, mesh id, structure: no state, no allocation beyond the datagram's own size;
//! 2. the very bytes that were accepted last: known, nothing to do;
//! 3. sequence number older than the last accepted;
//! 4. token buckets of the source and of all sources;
//! 5. certificate: signature (or a cache hit), dates, revocation;
//! 6. signature of the message;
//! 7. prefixes within the certificate, no other site's overlay address or WireGuard key.

pub mod limits;
mod refusal;
mod sites;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::VerifyingKey;
use sha2::{Digest, Sha256};

use self::limits::{Sources, VerifierLimits};
pub use self::refusal::{Refusal, Refused};
use self::sites::Sites;
use super::announcement::SiteMessage;
use super::certificate::Certificate;
use super::clock::{ClockChange, ClockWatch, Dates};
use super::mesh::Mesh;
use super::persist::StoredAnnouncement;
use super::revocation::{RevocationList, RevocationPage, Revoked};
use super::wire::{DATAGRAM_MAX, Header, Kind, Reader};
use crate::engine::types::{RemoteSite, SiteId};

/// One announcement may overtake another on its way by this much; the slower one is no replay.
const OVERTAKING: Duration = Duration::from_secs(5);

/// What is left of the sites of before a restart.
#[derive(Debug, Default)]
pub struct Recalled {
    /// Those that are active again.
    pub active: Vec<Verified>,
    /// Those whose certificate was revoked or ended meanwhile, with their names.
    pub ended: Vec<(SiteId, String, Refusal)>,
}

/// The two clocks, read once by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Time since any fixed moment; never goes back.
    pub monotonic: Duration,
    /// Unix time, ms; for the dates of certificates.
    pub unix_ms: u64,
}

impl Now {
    /// Unix time, s.
    pub const fn unix(self) -> u64 {
        self.unix_ms / 1_000
    }
}

/// A certificate whose signature was verified.
#[derive(Debug)]
pub struct Admitted {
    /// The certificate.
    pub certificate: Certificate,
    identity: VerifyingKey,
    fingerprint: [u8; 16],
}

/// A believed announcement.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What it says.
    pub site: RemoteSite,
    /// Its certificate.
    pub admitted: Arc<Admitted>,
    /// Its sequence number.
    pub sequence: u64,
    /// When it was made by the sender's clock, Unix time in ms.
    pub made_unix_ms: u64,
    /// The datagram, to store and to pass on.
    pub bytes: Arc<[u8]>,
    /// It differs in more than sequence and time from the last one, or the site was not active.
    pub changed: bool,
    /// A site that lost its overlay address to this one and is not active any more.
    pub displaced: Option<SiteId>,
}

/// What to make of a datagram that was not refused.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// News of a site.
    Announcement(Box<Verified>),
    /// Exactly what was accepted last from this site.
    Known(SiteId),
    /// A site said goodbye.
    Leave {
        /// The site.
        site: SiteId,
        /// Sequence number of the message.
        sequence: u64,
        /// The datagram.
        bytes: Arc<[u8]>,
        /// It was active until now.
        was_active: bool,
    },
    /// A newer page of revocations.
    Revocations {
        /// The page.
        page: RevocationPage,
        /// Sites that were active and are revoked now.
        removed: Vec<SiteId>,
    },
    /// A page of revocations that is not newer.
    KnownRevocations,
    /// This site's own message came back.
    Own {
        /// Its sequence number, when it is larger than any that this site used since it started: the store was lost,
        /// or somebody else has the same identity.
        ahead: Option<u64>,
    },
}

/// Counters of the verifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifierCounters {
    /// Ed25519 verifications made.
    pub verifications: u64,
    /// Certificates found in the cache.
    pub certificate_hits: u64,
    /// Certificates that had to leave the cache.
    pub certificates_evicted: u64,
    /// Sources that had to leave the table of buckets.
    pub sources_evicted: u64,
    /// Inactive sites that had to leave the table of sites.
    pub sites_evicted: u64,
}

/// Decides what may be believed.
pub struct Verifier {
    mesh: Mesh,
    own: SiteId,
    own_keys: Vec<[u8; 32]>,
    own_sequence: u64,
    /// What this site said with that number, if it spoke since its start.
    own_datagram: Option<Arc<[u8]>>,
    limits: VerifierLimits,
    sources: Sources,
    certificates: HashMap<[u8; 32], Arc<Admitted>>,
    certificate_order: VecDeque<[u8; 32]>,
    sites: Sites,
    revocations: RevocationList,
    clock: ClockWatch,
    counters: VerifierCounters,
}

impl Verifier {
    /// A verifier for this site of this mesh.
    pub fn new(mesh: Mesh, own: SiteId, revocations: RevocationList, limits: VerifierLimits) -> Self {
        Self {
            sites: Sites::new(limits.sites),
            mesh,
            own,
            own_keys: Vec::new(),
            own_sequence: 0,
            own_datagram: None,
            limits,
            sources: Sources::new(limits),
            certificates: HashMap::new(),
            certificate_order: VecDeque::new(),
            revocations,
            clock: ClockWatch::default(),
            counters: VerifierCounters::default(),
        }
    }

    /// Judges a datagram. `neighbour`: it came through a tunnel of the mesh.
    pub fn judge(&mut self, now: Now, source: IpAddr, neighbour: bool, datagram: &[u8]) -> Result<Verdict, Refused> {
        if datagram.len() > DATAGRAM_MAX {
            return Err(Refusal::Oversized.into());
        }
        let mut reader = Reader::new(datagram);
        let header = Header::decode(&mut reader)?;
        if header.mesh != self.mesh.id {
            return Err(Refusal::WrongMesh.into());
        }
        if header.kind == Kind::Revocations {
            let page = RevocationPage::decode(header, reader, datagram)?;
            return self.judge_revocations(now, source, neighbour, page);
        }
        let message = SiteMessage::decode(header, reader)?;
        let claimed = message.site();
        self.judge_message(now, source, neighbour, message, datagram)
            .map_err(|reason| Refused { reason, claimed: Some(claimed) })
    }

    /// Takes what was stored before a restart. Announcements that are still good are returned and active; of all
    /// others only the sequence number is kept.
    pub fn load(&mut self, now: Now, stored: Vec<StoredAnnouncement>) -> Recalled {
        let mut recalled = Recalled::default();
        for entry in stored {
            if entry.site == self.own {
                continue;
            }
            self.sites.remember(entry.site, entry.sequence, entry.bytes.clone());
            let mut reader = Reader::new(&entry.bytes);
            let Ok(header) = Header::decode(&mut reader) else { continue };
            if header.mesh != self.mesh.id || entry.bytes.len() > DATAGRAM_MAX {
                continue;
            }
            let Ok(message) = SiteMessage::decode(header, reader) else { continue };
            if message.site() != entry.site || message.content.is_none() {
                continue;
            }
            let name = message.certificate.content.name.clone();
            match self.accept(now, message, &entry.bytes) {
                Ok(verified) => recalled.active.extend(verified),
                Err(why @ (Refusal::Revoked | Refusal::Expired)) => recalled.ended.push((entry.site, name, why)),
                Err(_) => {}
            }
        }
        self.counters.sites_evicted = self.sites.evicted;
        recalled
    }

    /// Tells the verifier which WireGuard keys this site itself uses; nobody else may announce them.
    pub fn set_own_keys(&mut self, keys: impl IntoIterator<Item = [u8; 32]>) {
        self.own_keys = keys.into_iter().collect();
    }

    /// Tells the verifier the largest sequence number that this site used.
    pub fn set_own_sequence(&mut self, sequence: u64) {
        self.own_sequence = self.own_sequence.max(sequence);
        self.own_datagram = None;
    }

    /// Tells the verifier what this site says with its largest sequence number.
    pub fn set_own_datagram(&mut self, datagram: Arc<[u8]>) {
        self.own_datagram = Some(datagram);
    }

    /// A site is silent or gone: it loses its claim on overlay address and key. Its sequence number stays.
    pub fn deactivate(&mut self, site: SiteId) {
        self.sites.deactivate(site);
    }

    /// Drops active sites whose certificate ended.
    pub fn expire(&mut self, now: Now) -> Vec<SiteId> {
        let times = self.clock.times(now);
        self.remove_where(|admitted| {
            let content = &admitted.certificate.content;
            times.dates(content.not_before, content.not_after) == Dates::Over
        })
    }

    /// Compares the wall clock with the monotonic one; to be called about once a second, and at the start. A wall clock
    /// that was set by more than an hour is not believed alone.
    pub fn look_at_clocks(&mut self, now: Now) -> Option<ClockChange> {
        self.clock.look(now)
    }

    /// Adds pages that the operator installed by hand. Returns those that are new, and the sites that they remove.
    pub fn add_revocations(&mut self, list: &RevocationList) -> (Vec<RevocationPage>, Vec<SiteId>) {
        let new: Vec<_> = list
            .pages()
            .filter(|page| page.mesh == self.mesh.id && page.verify(&self.mesh.authority).is_ok())
            .filter(|page| self.revocations.insert((*page).clone()))
            .cloned()
            .collect();
        let removed = if new.is_empty() { Vec::new() } else { self.remove_revoked() };
        (new, removed)
    }

    /// The revocations known.
    pub fn revocations(&self) -> &RevocationList {
        &self.revocations
    }

    /// The last datagram accepted from a site.
    pub fn last_datagram(&self, site: SiteId) -> Option<&Arc<[u8]>> {
        self.sites.last_datagram(site)
    }

    /// An active site.
    pub fn site(&self, site: SiteId) -> Option<&RemoteSite> {
        self.sites.active(site)
    }

    /// Counters.
    pub fn counters(&self) -> VerifierCounters {
        VerifierCounters { sources_evicted: self.sources.evicted, sites_evicted: self.sites.evicted, ..self.counters }
    }

    /// The mesh.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    fn judge_revocations(
        &mut self,
        now: Now,
        source: IpAddr,
        neighbour: bool,
        page: RevocationPage,
    ) -> Result<Verdict, Refused> {
        if let Some(held) = self.revocations.page(page.page) {
            if held.bytes() == page.bytes() {
                return Ok(Verdict::KnownRevocations);
            }
            if page.number < held.number {
                return Err(Refusal::Replayed.into());
            }
        }
        if !self.sources.allow(source, neighbour, now.monotonic) {
            return Err(Refusal::RateLimited.into());
        }
        self.counters.verifications += 1;
        page.verify(&self.mesh.authority).map_err(|_| Refusal::BadCertificateSignature)?;
        self.sources.good(source);
        if !self.revocations.insert(page.clone()) {
            return Ok(Verdict::KnownRevocations);
        }
        let removed = self.remove_revoked();
        Ok(Verdict::Revocations { page, removed })
    }

    fn judge_message(
        &mut self,
        now: Now,
        source: IpAddr,
        neighbour: bool,
        message: SiteMessage,
        datagram: &[u8],
    ) -> Result<Verdict, Refusal> {
        let site = message.site();
        let last = self.sites.sequence(site);
        if site == self.own {
            // With the same number, but not our words: said before our store was lost, or by somebody else.
            let twin = message.sequence == self.own_sequence
                && self.own_datagram.as_deref().is_some_and(|own| own != datagram);
            if message.sequence <= self.own_sequence && !twin {
                return Ok(Verdict::Own { ahead: None });
            }
        } else if let Some(last) = last {
            if message.sequence < last {
                let held = self.sites.overtaken(site).is_some_and(|held| **held == *datagram);
                let late =
                    held && self.clock.times(now).distance_ms(message.made_unix_ms) <= OVERTAKING.as_millis() as u64;
                return if late { Ok(Verdict::Known(site)) } else { Err(Refusal::Replayed) };
            }
            if message.sequence == last && self.sites.last_datagram(site).is_some_and(|held| **held == *datagram) {
                // A site that was given up stays so: it must speak again to be believed to be alive.
                return Ok(Verdict::Known(site));
            }
        }
        if !self.sources.allow(source, neighbour, now.monotonic) {
            return Err(Refusal::RateLimited);
        }
        if site == self.own {
            self.counters.verifications += 1;
            let identity = message.certificate.identity_key().map_err(|_| Refusal::BadSignature)?;
            message.verify(datagram, &identity).map_err(|_| Refusal::BadSignature)?;
            self.sources.good(source);
            return Ok(Verdict::Own { ahead: Some(message.sequence) });
        }
        let first_contact = last.is_none();
        let skew = self.clock.times(now).distance_ms(message.made_unix_ms);
        if message.content.is_none() {
            let sequence = message.sequence;
            self.authenticate(now, &message, datagram)?;
            self.sources.good(source);
            if last == Some(sequence) {
                return Err(Refusal::Replayed);
            }
            let bytes: Arc<[u8]> = datagram.into();
            let was_active = self.sites.active(site).is_some();
            self.sites.deactivate(site);
            if !self.sites.remember(site, sequence, bytes.clone()) {
                return Err(Refusal::TooManySites);
            }
            return Ok(Verdict::Leave { site, sequence, bytes, was_active });
        }
        if last == Some(message.sequence) {
            // Equal number, other bytes: a forgery, or a site that used a number twice.
            self.authenticate(now, &message, datagram)?;
            self.sources.good(source);
            return Err(Refusal::Replayed);
        }
        if first_contact && skew > self.limits.first_contact_skew.as_millis() as u64 {
            self.authenticate(now, &message, datagram)?;
            return Err(Refusal::ClockSkew);
        }
        let accepted = self.accept(now, message, datagram);
        // Whatever is found after the signature was checked, the source has to do with the mesh.
        use Refusal::{KeyInUse, OverlayCollision, PrefixOutsideCertificate, TooManySites};
        if matches!(accepted, Ok(_) | Err(KeyInUse | OverlayCollision | PrefixOutsideCertificate | TooManySites)) {
            self.sources.good(source);
        }
        match accepted? {
            Some(verified) => Ok(Verdict::Announcement(Box::new(verified))),
            None => Err(Refusal::Malformed),
        }
    }

    /// Certificate and signature.
    fn authenticate(&mut self, now: Now, message: &SiteMessage, datagram: &[u8]) -> Result<Arc<Admitted>, Refusal> {
        let admitted = self.admit(&message.certificate)?;
        let content = &admitted.certificate.content;
        match self.clock.times(now).dates(content.not_before, content.not_after) {
            Dates::Valid => {}
            Dates::NotYet => return Err(Refusal::NotYetValid),
            Dates::Over => return Err(Refusal::Expired),
        }
        if self.is_revoked(&admitted) {
            return Err(Refusal::Revoked);
        }
        self.counters.verifications += 1;
        message.verify(datagram, &admitted.identity).map_err(|_| Refusal::BadSignature)?;
        Ok(admitted)
    }

    /// The whole of an announcement whose sequence number is in order; it becomes the site's current one. `None` for
    /// a message that is no announcement.
    fn accept(&mut self, now: Now, message: SiteMessage, datagram: &[u8]) -> Result<Option<Verified>, Refusal> {
        let admitted = self.authenticate(now, &message, datagram)?;
        let Some(content) = message.content else { return Ok(None) };
        let within = |prefix| admitted.certificate.allows(prefix) && !self.mesh.overlay.contains(prefix);
        if !content.prefixes.iter().all(within) {
            return Err(Refusal::PrefixOutsideCertificate);
        }
        let id = admitted.certificate.site;
        let site = RemoteSite {
            id,
            name: admitted.certificate.content.name.clone(),
            wireguard_key: content.wireguard_key,
            next_wireguard_key: content.next_wireguard_key,
            base_port: content.base_port,
            overlay: self.mesh.overlay_address(id),
            prefixes: content.prefixes,
            uplinks: content.uplinks,
        };
        if site.overlay == self.mesh.overlay_address(self.own) {
            return Err(Refusal::OverlayCollision);
        }
        let is_own = |key: &[u8; 32]| self.own_keys.contains(key);
        if is_own(&site.wireguard_key) || site.next_wireguard_key.as_ref().is_some_and(is_own) {
            return Err(Refusal::KeyInUse);
        }
        let bytes: Arc<[u8]> = datagram.into();
        let change = self.sites.activate(site.clone(), admitted.clone(), message.sequence, bytes.clone())?;
        Ok(Some(Verified {
            site,
            admitted,
            sequence: message.sequence,
            made_unix_ms: message.made_unix_ms,
            bytes,
            changed: change.changed,
            displaced: change.displaced,
        }))
    }

    /// A verified certificate, from the cache if it was seen before.
    fn admit(&mut self, certificate: &Certificate) -> Result<Arc<Admitted>, Refusal> {
        if certificate.content.mesh != self.mesh.id {
            return Err(Refusal::WrongMesh);
        }
        let key: [u8; 32] = Sha256::digest(certificate.bytes()).into();
        if let Some(admitted) = self.certificates.get(&key) {
            self.counters.certificate_hits += 1;
            return Ok(admitted.clone());
        }
        self.counters.verifications += 1;
        certificate.verify(&self.mesh.authority).map_err(|_| Refusal::BadCertificateSignature)?;
        let identity = certificate.identity_key().map_err(|_| Refusal::BadCertificateSignature)?;
        let fingerprint = certificate.fingerprint();
        let admitted = Arc::new(Admitted { certificate: certificate.clone(), identity, fingerprint });
        if self.certificates.len() >= self.limits.certificates
            && let Some(oldest) = self.certificate_order.pop_front()
        {
            self.certificates.remove(&oldest);
            self.counters.certificates_evicted += 1;
        }
        self.certificates.insert(key, admitted.clone());
        self.certificate_order.push_back(key);
        Ok(admitted)
    }

    fn is_revoked(&self, admitted: &Admitted) -> bool {
        self.revocations.contains(Revoked::Site(admitted.certificate.site))
            || self.revocations.contains(Revoked::Certificate(admitted.fingerprint))
    }

    fn remove_revoked(&mut self) -> Vec<SiteId> {
        let revocations = std::mem::take(&mut self.revocations);
        let removed = self.remove_where(|admitted| {
            revocations.contains(Revoked::Site(admitted.certificate.site))
                || revocations.contains(Revoked::Certificate(admitted.fingerprint))
        });
        self.revocations = revocations;
        removed
    }

    fn remove_where(&mut self, gone: impl Fn(&Admitted) -> bool) -> Vec<SiteId> {
        let removed: Vec<SiteId> = self.sites.active_where(gone);
        for site in &removed {
            self.sites.deactivate(*site);
        }
        removed
    }
}

#[cfg(test)]
mod tests;
