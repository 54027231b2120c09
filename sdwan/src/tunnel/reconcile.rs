//! Makes the tunnels what they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::Error;
use super::backend::{AllowedIps, Backend, BackendKind, ObservedPeer, ObservedTunnel, PeerChange, TunnelChange};
use super::desired::{DesiredTunnels, PeerDesired, TunnelDesired};
use crate::engine::types::TunnelKey;

/// WireGuard refuses a session older than this (its `REJECT_AFTER_TIME`): whatever endpoint a peer was last heard
/// from is worth nothing then.
const SESSION_LIFETIME: Duration = Duration::from_secs(180);

/// Makes the tunnels what they should be. Looks at what is there in each run; what it keeps is only which endpoints
/// it has set, so that a peer that moved by itself isn't sent back.
pub struct TunnelReconciler {
    backend: Box<dyn Backend>,
    endpoints: BTreeMap<(TunnelKey, [u8; 32]), SocketAddr>,
}

/// State of the tunnels after a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelReport {
    /// Every desired tunnel.
    pub tunnels: BTreeMap<TunnelKey, TunnelStatus>,
    /// Steps that changed something in this run.
    pub changes: usize,
    /// What went wrong beside the tunnels themselves, such as removing one.
    pub errors: Vec<String>,
}

/// State of one tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelStatus {
    /// Which WireGuard carries it.
    pub backend: BackendKind,
    /// Interface index, 0 while there is none.
    pub ifindex: u32,
    /// MTU, bytes.
    pub mtu: u16,
    /// Why it isn't what it should be.
    pub error: Option<String>,
    /// The peers by public key: endpoint, last handshake, bytes.
    pub peers: BTreeMap<[u8; 32], ObservedPeer>,
}

impl TunnelReport {
    /// Interface index of every tunnel that exists: what the routing wants to know.
    pub fn interfaces(&self) -> BTreeMap<TunnelKey, u32> {
        let there = self.tunnels.iter().filter(|(_, status)| status.ifindex != 0);
        there.map(|(tunnel, status)| (*tunnel, status.ifindex)).collect()
    }
}

impl TunnelReconciler {
    /// Works through this backend.
    pub fn new(backend: Box<dyn Backend>) -> Self {
        Self { backend, endpoints: BTreeMap::new() }
    }

    /// Which WireGuard carries the tunnels.
    pub fn kind(&self) -> BackendKind {
        self.backend.kind()
    }

    /// Makes the tunnels `desired`. One that fails doesn't keep the others from being done.
    ///
    /// Blocks for as long as the kernel and the userspace WireGuards take: not for an async task's thread.
    pub fn reconcile(&mut self, desired: &DesiredTunnels) -> TunnelReport {
        let mut report = TunnelReport::default();
        match self.backend.list() {
            Ok(tunnels) => {
                for tunnel in tunnels.into_iter().filter(|tunnel| !desired.tunnels.contains_key(tunnel)) {
                    match self.backend.delete(tunnel) {
                        Ok(()) => report.changes += 1,
                        Err(error) => report.errors.push(error.to_string()),
                    }
                }
            }
            Err(error) => report.errors.push(error.to_string()),
        }
        self.endpoints.retain(|(tunnel, peer), _| {
            desired.tunnels.get(tunnel).is_some_and(|tunnel| tunnel.peers.contains_key(peer))
        });
        for (tunnel, want) in &desired.tunnels {
            let outcome = self.reconcile_one(*tunnel, want, &desired.private_key, &mut report.changes);
            let observed = self.backend.observe(*tunnel).ok().flatten();
            let status = TunnelStatus {
                backend: self.backend.kind(),
                ifindex: observed.as_ref().map_or(0, |observed| observed.ifindex),
                mtu: observed.as_ref().map_or(0, |observed| observed.mtu),
                error: outcome.err().map(|error| error.to_string()),
                peers: observed.map(|observed| observed.peers).unwrap_or_default(),
            };
            report.tunnels.insert(*tunnel, status);
        }
        report
    }

    /// Removes every tunnel of this backend.
    pub fn remove_all(&mut self) -> TunnelReport {
        self.reconcile(&DesiredTunnels::default())
    }

    fn reconcile_one(
        &mut self,
        tunnel: TunnelKey,
        want: &TunnelDesired,
        private_key: &[u8; 32],
        changes: &mut usize,
    ) -> Result<(), Error> {
        let observed = match self.backend.observe(tunnel)? {
            Some(observed) => observed,
            None => {
                self.endpoints.retain(|(known, _), _| *known != tunnel);
                self.backend.create(tunnel)?;
                *changes += 1;
                self.backend.observe(tunnel)?.ok_or_else(|| Error::Child {
                    interface: tunnel.interface(),
                    reason: "it was created and is gone again".into(),
                })?
            }
        };
        let endpoints = &self.endpoints;
        let pushed = |peer: &[u8; 32]| endpoints.get(&(tunnel, *peer)).copied();
        let change = difference(&observed, want, private_key, pushed);
        if !change.is_empty() {
            self.backend.configure(tunnel, &change)?;
            *changes += 1;
        }
        for (key, peer) in &want.peers {
            match peer.endpoint {
                Some(endpoint) => self.endpoints.insert((tunnel, *key), endpoint),
                None => self.endpoints.remove(&(tunnel, *key)),
            };
        }
        Ok(())
    }
}

/// What turns `observed` into `want`. `pushed` tells which endpoint of a peer was set last.
fn difference(
    observed: &ObservedTunnel,
    want: &TunnelDesired,
    private_key: &[u8; 32],
    pushed: impl Fn(&[u8; 32]) -> Option<SocketAddr>,
) -> TunnelChange {
    let mut change = TunnelChange {
        private_key: (observed.private_key.as_ref() != Some(private_key)).then_some(*private_key),
        listen_port: (observed.listen_port != want.listen_port).then_some(want.listen_port),
        fwmark: (observed.fwmark != want.fwmark).then_some(want.fwmark),
        mtu: (observed.mtu != want.mtu).then_some(want.mtu),
        up: !observed.up,
        peers: Vec::new(),
    };
    let claimed = claims(want);
    let no_peer = ObservedPeer::default();
    let mut gains = BTreeSet::new();
    for (key, wanted) in &claimed {
        let known = observed.peers.get(key).unwrap_or(&no_peer);
        gains.extend(wanted.difference(&known.allowed_ips).copied());
    }
    let gone = observed.peers.keys().filter(|key| !want.peers.contains_key(*key));
    let removals = gone.map(|key| PeerChange { remove: true, ..PeerChange::none(*key) });
    let mut updates: Vec<_> = want
        .peers
        .iter()
        .filter_map(|(key, peer)| peer_change(key, observed.peers.get(key), peer, &claimed[key], pushed(key), &gains))
        .collect();
    // Who gains prefixes goes first: they move over without a moment in which nobody has them. Removals go last for
    // the same reason.
    updates.sort_by_key(|update| match &update.allowed_ips {
        AllowedIps::Add(_) => 0,
        AllowedIps::Replace(wanted) if wanted.iter().any(|prefix| gains.contains(prefix)) => 1,
        _ => 2,
    });
    change.peers = updates.into_iter().chain(removals).collect();
    change
}

/// What turns one peer into what it should be; `None` if it is that.
fn peer_change(
    key: &[u8; 32],
    observed: Option<&ObservedPeer>,
    want: &PeerDesired,
    wanted: &BTreeSet<IpNet>,
    pushed: Option<SocketAddr>,
    gains: &BTreeSet<IpNet>,
) -> Option<PeerChange> {
    let mut change = PeerChange::none(*key);
    let Some(observed) = observed else {
        change.endpoint = want.endpoint;
        change.keepalive = want.keepalive.filter(|seconds| *seconds > 0);
        change.allowed_ips = AllowedIps::Add(wanted.iter().copied().collect());
        return Some(change);
    };
    change.endpoint = want.endpoint.filter(|endpoint| {
        let session = observed.handshake_age().is_some_and(|age| age < SESSION_LIFETIME);
        let asked_again = pushed.is_some_and(|pushed| pushed != *endpoint);
        observed.endpoint != Some(*endpoint) && (asked_again || !session)
    });
    let keepalive = want.keepalive.filter(|seconds| *seconds > 0);
    if observed.keepalive.filter(|seconds| *seconds > 0) != keepalive {
        change.keepalive = Some(keepalive.unwrap_or(0));
    }
    let missing: Vec<_> = wanted.difference(&observed.allowed_ips).copied().collect();
    // What another peer gains leaves this one by itself.
    let surplus = observed.allowed_ips.difference(wanted).any(|prefix| !gains.contains(prefix));
    change.allowed_ips = match (missing.is_empty(), surplus) {
        (_, true) => AllowedIps::Replace(wanted.iter().copied().collect()),
        (false, false) => AllowedIps::Add(missing),
        (true, false) => AllowedIps::Keep,
    };
    (change != PeerChange::none(*key)).then_some(change)
}

/// Which peer gets which prefixes. A prefix belongs to one peer only: of several that want it, the first site's gets
/// it, in every run the same.
fn claims(want: &TunnelDesired) -> BTreeMap<[u8; 32], BTreeSet<IpNet>> {
    let mut order: Vec<_> = want.peers.iter().collect();
    order.sort_by_key(|(key, peer)| (peer.site, **key));
    let mut taken = BTreeSet::new();
    let claim = |(key, peer): (&[u8; 32], &PeerDesired)| {
        let prefixes = peer.allowed_ips.iter().map(IpNet::trunc);
        (*key, prefixes.filter(|prefix| taken.insert(*prefix)).collect())
    };
    order.into_iter().map(claim).collect()
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
