//! The sites known: last sequence number and datagram of each, and who is active with which address and key.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Admitted, Refusal};
use crate::engine::types::{RemoteSite, SiteId};

struct Known {
    sequence: u64,
    bytes: Arc<[u8]>,
    /// The announcement before the one in force, if that followed it directly.
    overtaken: Option<Arc<[u8]>>,
    active: Option<(RemoteSite, Arc<Admitted>)>,
    /// Counts up over all sites; the smallest is the one heard longest ago.
    touched: u64,
}

/// What the activation of a site changed.
pub(super) struct Change {
    pub changed: bool,
    pub displaced: Option<SiteId>,
}

/// The table of sites.
pub(super) struct Sites {
    capacity: usize,
    known: HashMap<SiteId, Known>,
    overlays: HashMap<IpAddr, SiteId>,
    keys: HashMap<[u8; 32], SiteId>,
    clock: u64,
    /// Inactive sites that had to make room.
    pub evicted: u64,
}

impl Sites {
    pub fn new(capacity: usize) -> Self {
        let (known, overlays, keys) = Default::default();
        Self { capacity, known, overlays, keys, clock: 0, evicted: 0 }
    }

    pub fn sequence(&self, site: SiteId) -> Option<u64> {
        self.known.get(&site).map(|known| known.sequence)
    }

    pub fn last_datagram(&self, site: SiteId) -> Option<&Arc<[u8]>> {
        self.known.get(&site).map(|known| &known.bytes).filter(|bytes| !bytes.is_empty())
    }

    /// The announcement that the one in force replaced.
    pub fn overtaken(&self, site: SiteId) -> Option<&Arc<[u8]>> {
        self.known.get(&site)?.overtaken.as_ref()
    }

    pub fn active(&self, site: SiteId) -> Option<&RemoteSite> {
        self.known.get(&site)?.active.as_ref().map(|(site, _)| site)
    }

    pub fn active_where(&self, wanted: impl Fn(&Admitted) -> bool) -> Vec<SiteId> {
        let is_wanted = |known: &Known| known.active.as_ref().is_some_and(|(_, admitted)| wanted(admitted));
        self.known.iter().filter(|(_, known)| is_wanted(known)).map(|(site, _)| *site).collect()
    }

    /// Keeps a sequence number and its datagram. `false`: every place is taken by an active site.
    pub fn remember(&mut self, site: SiteId, sequence: u64, bytes: Arc<[u8]>) -> bool {
        if !self.make_room(site) {
            return false;
        }
        self.clock += 1;
        let touched = self.clock;
        let known = self.known.entry(site).or_insert(Known {
            sequence,
            bytes: bytes.clone(),
            overtaken: None,
            active: None,
            touched,
        });
        known.sequence = sequence;
        known.overtaken = None;
        known.bytes = bytes;
        known.touched = touched;
        true
    }

    /// Makes a site active with this content, or says why it can't be.
    pub fn activate(
        &mut self,
        site: RemoteSite,
        admitted: Arc<Admitted>,
        sequence: u64,
        bytes: Arc<[u8]>,
    ) -> Result<Change, Refusal> {
        let id = site.id;
        let taken = |key: &[u8; 32]| self.keys.get(key).is_some_and(|holder| *holder != id);
        if taken(&site.wireguard_key) || site.next_wireguard_key.as_ref().is_some_and(taken) {
            return Err(Refusal::KeyInUse);
        }
        let rival = self.overlays.get(&site.overlay).copied().filter(|holder| *holder != id);
        if let Some(rival) = rival
            && !self.beats(&admitted, rival)
        {
            return Err(Refusal::OverlayCollision);
        }
        if !self.make_room(id) {
            return Err(Refusal::TooManySites);
        }
        if let Some(rival) = rival {
            self.deactivate(rival);
        }
        let changed = match self.known.get(&id).and_then(|known| known.active.as_ref()) {
            Some((held, held_admitted)) => {
                *held != site || held_admitted.certificate.bytes() != admitted.certificate.bytes()
            }
            None => true,
        };
        let overtaken = self.known.get(&id).filter(|known| known.active.is_some()).map(|known| known.bytes.clone());
        self.deactivate(id);
        self.overlays.insert(site.overlay, id);
        for key in [Some(site.wireguard_key), site.next_wireguard_key].into_iter().flatten() {
            self.keys.insert(key, id);
        }
        self.clock += 1;
        self.known
            .insert(id, Known { sequence, bytes, overtaken, active: Some((site, admitted)), touched: self.clock });
        Ok(Change { changed, displaced: rival })
    }

    /// Takes a site's overlay address and keys away; sequence number and datagram stay.
    pub fn deactivate(&mut self, site: SiteId) {
        let Some((held, _)) = self.known.get_mut(&site).and_then(|known| known.active.take()) else { return };
        self.overlays.remove(&held.overlay);
        for key in [Some(held.wireguard_key), held.next_wireguard_key].into_iter().flatten() {
            self.keys.remove(&key);
        }
    }

    /// Of two sites with one overlay address, the one with the earlier certificate keeps it; then the smaller id.
    fn beats(&self, newcomer: &Admitted, holder: SiteId) -> bool {
        let Some((_, held)) = self.known.get(&holder).and_then(|known| known.active.as_ref()) else { return true };
        let order = |admitted: &Admitted| (admitted.certificate.content.not_before, admitted.certificate.site);
        order(newcomer) < order(held)
    }

    fn make_room(&mut self, site: SiteId) -> bool {
        if self.known.contains_key(&site) || self.known.len() < self.capacity {
            return true;
        }
        let inactive = self.known.iter().filter(|(_, known)| known.active.is_none());
        let Some(oldest) = inactive.min_by_key(|(_, known)| known.touched).map(|(site, _)| *site) else { return false };
        self.known.remove(&oldest);
        self.evicted += 1;
        true
    }
}
