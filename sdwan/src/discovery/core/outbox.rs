//! What the core hands to its driver: datagrams, events, and what to store. Everything is bounded.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::discovery::types::DiscoveryEvent;
use crate::engine::types::SiteId;
use crate::trust::persist::{StoredAnnouncement, StoredRevocations};

/// Most events waiting that don't set a site's state.
const EVENTS_MAX: usize = 1_024;

/// How a datagram leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Route {
    /// To the groups of both families on this interface (index).
    Multicast {
        /// Interface index.
        link: u32,
    },
    /// To one address through this interface.
    Unicast {
        /// Interface index.
        link: u32,
        /// Destination.
        to: SocketAddr,
    },
    /// To a neighbour's overlay address, through a tunnel.
    Overlay {
        /// Destination.
        to: SocketAddr,
    },
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// How.
    pub route: Route,
    /// What.
    pub bytes: Arc<[u8]>,
}

/// What the store should do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreRequest {
    /// Record accepted messages.
    Record(Vec<StoredAnnouncement>),
    /// Record a page of revocations.
    Revocations(StoredRevocations),
    /// Drop a site's announcement, keep its number.
    Forget(SiteId),
    /// Reserve sequence numbers.
    Reserve {
        /// None below this.
        at_least: u64,
    },
}

/// The queues.
#[derive(Default)]
pub(super) struct Outbox {
    transmits: VecDeque<Transmit>,
    events: VecDeque<DiscoveryEvent>,
    site_events: HashMap<SiteId, DiscoveryEvent>,
    site_order: VecDeque<SiteId>,
    records: BTreeMap<SiteId, StoredAnnouncement>,
    requests: VecDeque<StoreRequest>,
    pub transmit_dropped: u64,
    pub events_dropped: u64,
}

impl Outbox {
    pub fn transmit(&mut self, most: usize, route: Route, bytes: Arc<[u8]>) {
        if self.transmits.len() >= most {
            self.transmit_dropped += 1;
        } else {
            self.transmits.push_back(Transmit { route, bytes });
        }
    }

    /// An event that sets a site's state replaces an earlier one of that site which nobody took yet, so these are
    /// bounded by the number of sites and none is lost.
    pub fn event(&mut self, event: DiscoveryEvent) {
        match event.sets_state_of() {
            Some(site) => {
                if self.site_events.insert(site, event).is_none() {
                    self.site_order.push_back(site);
                }
            }
            None if self.events.len() >= EVENTS_MAX => self.events_dropped += 1,
            None => self.events.push_back(event),
        }
    }

    pub fn record(&mut self, record: StoredAnnouncement) {
        self.records.insert(record.site, record);
    }

    pub fn request(&mut self, request: StoreRequest) {
        // A later record of the site must not come before its being forgotten.
        if let StoreRequest::Forget(site) = &request
            && let Some(record) = self.records.remove(site)
        {
            self.requests.push_back(StoreRequest::Record(vec![record]));
        }
        self.requests.push_back(request);
    }

    pub fn next_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    pub fn next_event(&mut self) -> Option<DiscoveryEvent> {
        if let Some(site) = self.site_order.pop_front() {
            return self.site_events.remove(&site);
        }
        self.events.pop_front()
    }

    pub fn has_events(&self) -> bool {
        !self.site_order.is_empty() || !self.events.is_empty()
    }

    pub fn drain_requests(&mut self) -> Vec<StoreRequest> {
        let mut requests: Vec<_> = self.requests.drain(..).collect();
        if !self.records.is_empty() {
            requests.push(StoreRequest::Record(std::mem::take(&mut self.records).into_values().collect()));
        }
        requests
    }

    pub fn has_requests(&self) -> bool {
        !self.requests.is_empty() || !self.records.is_empty()
    }
}
