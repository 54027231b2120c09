//! This site's own announcements: when, with which number, to whom.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::seq::IteratorRandom;

use super::{Core, Route, StoreRequest};
use crate::engine::types::SiteId;
use crate::trust::announcement::{self, LocalAnnouncement};
use crate::trust::certificate::Certificate;
use crate::trust::verifier::Now;

/// Sequence numbers reserved at a time: at one announcement each 30 s, enough for three weeks with the disk full.
pub const RESERVATION: u64 = 1 << 16;

/// A change or a start is repeated after these times, because datagrams get lost and others start a little later.
const REPEATS: [Duration; 5] = [
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];
/// Reaction to one's own identity with a larger number, at most this often: two machines with one identity must not
/// drive each other up as fast as the network carries.
const OVERTAKEN: Duration = Duration::from_secs(10);
/// Sites without a tunnel that are spoken to at their last known addresses, per announcement.
const REMEMBERED_MAX: usize = 8;

impl Core {
    /// Sets what this site announces. A change goes out after the debounce time, the first announcement at once.
    pub fn set_local(&mut self, now: Now, local: LocalAnnouncement) {
        if self.local.as_ref() == Some(&local) {
            return;
        }
        self.verifier.set_own_keys([Some(local.wireguard_key), local.next_wireguard_key].into_iter().flatten());
        let first = self.local.replace(local).is_none();
        if first {
            self.announce_at = Some(now.monotonic);
            self.announce_if_due(now);
        } else {
            self.changed_at.get_or_insert(now.monotonic);
        }
    }

    /// Sets this site's certificate, after a renewal.
    pub fn set_certificate(&mut self, now: Now, certificate: Certificate) {
        if certificate.site == self.key.site() && certificate != self.certificate {
            self.certificate = certificate;
            self.changed_at.get_or_insert(now.monotonic);
        }
    }

    /// Says goodbye to everybody. Nothing is announced afterwards.
    pub fn leave(&mut self, now: Now) {
        if self.gone || self.local.is_none() {
            self.gone = true;
            return;
        }
        self.gone = true;
        self.repeats.clear();
        self.changed_at = None;
        self.announce_at = None;
        if let Some(sequence) = self.next_number() {
            let datagram = announcement::sign_leave(&self.certificate, sequence, now.unix_ms, &self.key);
            self.current = Some(datagram.into());
            self.send_current();
        }
    }

    /// Sends the leave message once more; without effect before [`Self::leave`].
    pub fn repeat_leave(&mut self) {
        if self.gone {
            self.send_current();
        }
    }

    /// Takes sequence numbers that were reserved.
    pub fn add_numbers(&mut self, now: Now, first: u64, count: u64) {
        self.reserving = false;
        let end = first.saturating_add(count);
        // Asked for before somebody else was heard with larger ones.
        let first = first.max(self.spoken + 1);
        if first >= end {
            self.reserve(first);
            return;
        }
        if first >= self.numbers.end || self.numbers.is_empty() {
            let starved = self.numbers.is_empty();
            // What is left of the old range is given up: a gap does no harm, a number used twice would.
            self.numbers = first..end;
            if starved && self.local.is_some() && !self.gone {
                self.announce_at = Some(now.monotonic);
            }
        }
    }

    /// The reservation failed; it is asked for again with the next announcement.
    pub fn reservation_failed(&mut self) {
        self.reserving = false;
    }

    /// Somebody else used as large a number with our identity, and the signature was good.
    pub(super) fn overtaken(&mut self, now: Now, sequence: u64) {
        self.spoke(sequence);
        if sequence >= self.numbers.start {
            self.numbers = if sequence + 1 < self.numbers.end { sequence + 1..self.numbers.end } else { 0..0 };
        }
        self.reserve(sequence.saturating_add(1));
        let at = now.monotonic;
        // A reaction that is still to come is one to this as well.
        let pending = self.overtaken_at.is_some_and(|reaction| reaction > at);
        if pending || self.local.is_none() || self.gone {
            return;
        }
        let reaction = self.overtaken_at.map_or(at, |last| at.max(last + OVERTAKEN));
        self.overtaken_at = Some(reaction);
        self.announce_at = Some(self.announce_at.map_or(reaction, |due| due.min(reaction)));
    }

    /// The current announcement is sent now and repeated, under the same number: somebody new may listen.
    pub(super) fn repeat_soon(&mut self, now: Duration) {
        if self.current.is_some() && !self.gone {
            self.repeats.insert(now);
            self.repeats.extend(REPEATS.map(|after| now + after));
            // Interfaces that come and go fast don't make a flood.
            while self.repeats.len() > 2 * REPEATS.len() {
                self.repeats.pop_last();
            }
        }
    }

    pub(super) fn announce_if_due(&mut self, now: Now) {
        let at = now.monotonic;
        if self.gone {
            return;
        }
        let changed = self.changed_at.is_some_and(|since| at >= since + self.timers().debounce);
        if changed || self.announce_at.is_some_and(|due| at >= due) {
            let burst = changed || self.current.is_none();
            self.announce(now);
            if burst {
                self.repeats = REPEATS.map(|after| at + after).into();
            }
            return;
        }
        if self.repeats.first().is_some_and(|due| at >= *due) {
            self.repeats = self.repeats.split_off(&(at + Duration::from_nanos(1)));
            self.send_current();
        }
    }

    /// Makes a new announcement and sends it.
    fn announce(&mut self, now: Now) {
        self.changed_at = None;
        let interval = self.timers().announce;
        self.announce_at = Some(now.monotonic + interval.mul_f64(self.random.random_range(0.8..=1.0)));
        let Some(local) = &self.local else { return };
        let (certificate, key) = (&self.certificate, &self.key);
        // Tried first with a number that is not used up, so that content that doesn't fit costs none.
        let Some(sequence) = self.numbers.clone().next() else {
            self.counters.announcements_delayed += 1;
            self.reserve(0);
            self.send_current();
            return;
        };
        match announcement::sign_announcement(certificate, sequence, now.unix_ms, local, key) {
            Ok(datagram) => {
                self.next_number();
                let datagram: Arc<[u8]> = datagram.into();
                self.verifier.set_own_datagram(datagram.clone());
                self.current = Some(datagram);
                self.send_current();
                self.send_page_in_turn();
            }
            Err(error) => {
                // The handle checks before; only a certificate that shrank meanwhile leads here.
                tracing::error!(%error, "this site can't announce itself");
                self.counters.announcements_delayed += 1;
            }
        }
    }

    fn next_number(&mut self) -> Option<u64> {
        let number = self.numbers.next();
        if let Some(number) = number {
            self.spoke(number);
        }
        if self.numbers.end - self.numbers.start < RESERVATION / 2 {
            self.reserve(0);
        }
        number
    }

    fn spoke(&mut self, sequence: u64) {
        self.spoken = self.spoken.max(sequence);
        self.verifier.set_own_sequence(self.spoken);
    }

    fn reserve(&mut self, at_least: u64) {
        if !self.reserving {
            self.reserving = true;
            self.outbox.request(StoreRequest::Reserve { at_least });
        }
    }

    /// Sends the current announcement everywhere.
    pub(super) fn send_current(&mut self) {
        if let Some(bytes) = self.current.clone() {
            self.send_everywhere(&bytes, &[]);
        }
    }

    /// To the groups, the seeds, the neighbours, remembered sites, and sources that only we may know, except these.
    pub(super) fn send_everywhere(&mut self, bytes: &Arc<[u8]>, except: &[Route]) {
        let mut routes: BTreeSet<Route> = BTreeSet::new();
        let remembered = self.remembered();
        for link in self.links.values() {
            let link_index = link.ifindex;
            if link.multicast {
                routes.insert(Route::Multicast { link: link_index });
            }
            if link.seeds {
                let seeds = self.seeds.iter().chain(&remembered);
                routes.extend(seeds.map(|to| Route::Unicast { link: link_index, to: *to }));
            }
        }
        routes.extend(self.neighbours.values().map(|address| self.overlay_route(*address)));
        routes.extend(self.lone_sources().map(|(key, _)| Route::Unicast { link: key.link, to: key.address }));
        for route in routes {
            if !except.contains(&route) {
                self.transmit(route, bytes.clone());
            }
        }
    }

    /// Addresses of some sites that were heard once and have no tunnel now: each is a seed too.
    fn remembered(&mut self) -> Vec<SocketAddr> {
        let port = self.config.port;
        let lost = self.sites.iter().filter(|(site, _)| !self.neighbours.contains_key(site));
        let chosen: Vec<SiteId> = lost.map(|(site, _)| *site).choose_multiple(&mut self.random, REMEMBERED_MAX);
        let addresses = chosen.iter().filter_map(|site| self.sites.get(site)).flat_map(|heard| &heard.addresses);
        addresses.map(|address| SocketAddr::new(*address, port)).collect()
    }
}
