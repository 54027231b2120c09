//! What is done with a datagram, cheapest check first. No sockets here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;

use super::MtuCounters;
use super::keys::PeerKeys;
use super::limit::Limits;
use super::wire::{Kind, Message, authentic};
use crate::engine::Time;
use crate::engine::mtu::{HEADER_LENGTH, headers};
use crate::engine::types::{PathKey, SiteId, TunnelKey, UplinkIndex};

/// A datagram, as far as it matters.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// The uplink that it came by.
    pub uplink: UplinkIndex,
    /// Its sender.
    pub source: SocketAddr,
    /// Its beginning, if it is long enough.
    pub header: Option<Box<[u8; HEADER_LENGTH]>>,
    /// Length of its UDP payload, bytes.
    pub length: usize,
    /// It was fragmented on its way.
    pub fragmented: bool,
}

/// What follows from a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answer with this. The source has proved that it is the other end of this path.
    Answer(PathKey, [u8; HEADER_LENGTH]),
    /// A probe of ours got through, if it is one that we asked about.
    Acknowledged(PathKey, u64, u16),
    /// Nothing; the counter says why.
    Refuse,
}

/// Judges datagrams.
#[derive(Debug)]
pub struct Judge {
    site: SiteId,
    peers: BTreeMap<SiteId, PeerKeys>,
    /// Sequence number of the newest probe of each sender and pair of uplinks.
    newest: BTreeMap<(SiteId, TunnelKey), u64>,
    limits: Limits,
}

impl Judge {
    /// A judge for this site, who knows nobody yet.
    pub fn new(site: SiteId) -> Self {
        Self { site, peers: BTreeMap::new(), newest: BTreeMap::new(), limits: Limits::default() }
    }

    /// Sets who is known. What was seen of those who stay is remembered.
    pub fn set_peers(&mut self, peers: BTreeMap<SiteId, PeerKeys>) {
        self.newest.retain(|(site, _), _| peers.contains_key(site));
        self.peers = peers;
    }

    /// Keys shared with a site.
    pub fn keys(&self, site: &SiteId) -> Option<&PeerKeys> {
        self.peers.get(site)
    }

    /// What follows from a datagram.
    pub fn judge(&mut self, datagram: &Datagram, counters: &MtuCounters, now: Time) -> Verdict {
        match self.check(datagram, counters, now) {
            Ok(verdict) => verdict,
            Err(counter) => {
                MtuCounters::count(counter);
                Verdict::Refuse
            }
        }
    }

    fn check<'a>(
        &mut self,
        datagram: &Datagram,
        counters: &'a MtuCounters,
        now: Time,
    ) -> Result<Verdict, &'a AtomicU64> {
        let header = datagram.header.as_deref().ok_or(&counters.malformed)?;
        let message = Message::decode(header).map_err(|_| &counters.malformed)?;
        let expected = match message.kind {
            Kind::Probe => usize::from(message.size).checked_sub(usize::from(headers(datagram.source.is_ipv6()))),
            Kind::Acknowledgement => Some(HEADER_LENGTH),
        };
        if expected != Some(datagram.length) {
            return Err(&counters.malformed);
        }
        let uplink = match message.kind {
            Kind::Probe => message.uplinks.remote,
            Kind::Acknowledgement => message.uplinks.local,
        };
        if message.to != self.site || uplink != datagram.uplink {
            return Err(&counters.foreign);
        }
        if !self.limits.take(datagram.source.ip(), now) {
            return Err(&counters.limited);
        }
        let keys = self.peers.get(&message.from).ok_or(&counters.foreign)?;
        let key = authentic(header, keys).ok_or(&counters.forged)?;
        match message.kind {
            Kind::Acknowledgement => {
                let path = PathKey { site: message.from, tunnel: message.uplinks };
                Ok(Verdict::Acknowledged(path, message.sequence, message.size))
            }
            Kind::Probe => {
                let newest = self.newest.entry((message.from, message.uplinks)).or_default();
                if message.sequence <= *newest {
                    return Err(&counters.replayed);
                }
                *newest = message.sequence;
                if datagram.fragmented {
                    return Err(&counters.fragmented);
                }
                let answer = Message { kind: Kind::Acknowledgement, from: self.site, to: message.from, ..message };
                let bytes = answer.encode(keys, Some(key)).ok_or(&counters.forged)?;
                let tunnel = TunnelKey { local: message.uplinks.remote, remote: message.uplinks.local };
                Ok(Verdict::Answer(PathKey { site: message.from, tunnel }, bytes))
            }
        }
    }
}
