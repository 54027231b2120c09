//! What paths there are: sites and uplinks that come, go and change, and the MTUs that follow.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::core::Engine;
use super::events::{EngineEvent, EventKind};
use super::input::{Gone, Notice};
use super::pace::next_probe;
use super::path::{Cause, PathState};
use super::site::Site;
use super::time::Time;
use super::types::{LocalUplink, PathKey, RemoteSite, SiteId, TunnelKey, UplinkIndex, wireguard_overhead};

/// Smallest MTU that a path may have: IPv6's minimum (RFC 8200 section 5).
const MINIMUM_MTU: u16 = 1280;

/// The first probe makes WireGuard shake hands, and two handshakes that cross both fail, for 5 s. Sites mostly hear of each
/// other at the same moment: the one with the smaller id begins, and the other waits for longer than that takes.
const HANDSHAKE_LEAD: Duration = Duration::from_millis(300);

/// Paths that a peer is told by that an uplink is lost: one of the copies should arrive.
const NOTICES: usize = 4;

/// MTU of each tunnel's interface, bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelMtus(Vec<u16>);

impl TunnelMtus {
    /// The MTU of a tunnel that has a path.
    pub fn get(&self, tunnel: TunnelKey) -> Option<u16> {
        self.0.get(usize::from(tunnel.code())).copied().filter(|mtu| *mtu != 0)
    }

    fn widen(&mut self, tunnel: TunnelKey, room: u16) {
        let place = usize::from(tunnel.code());
        if self.0.len() <= place {
            self.0.resize(place + 1, 0);
        }
        self.0[place] = room.max(self.0[place]).max(MINIMUM_MTU);
    }
}

impl Engine {
    /// Whether the tunnel packets of a path are IPv6; taken for so where the peer dials in, for that is the larger header.
    pub fn outer_ipv6(&self, path: &PathKey) -> Option<bool> {
        let remote = self.sites.get(&path.site)?.remote();
        let local = self.uplinks.iter().find(|uplink| uplink.index == path.tunnel.local)?;
        Some(remote.endpoint(path.tunnel, &local.addresses).is_none_or(|endpoint| endpoint.is_ipv6()))
    }

    /// MTU of each tunnel's interface, bytes: what its widest path takes, and no less than IPv6 needs.
    pub fn tunnel_mtus(&self) -> TunnelMtus {
        let mut interfaces = TunnelMtus::default();
        for (tunnel, room) in self.sites.values().flat_map(Site::rooms) {
            interfaces.widen(tunnel, room);
        }
        interfaces
    }

    /// Makes the MTUs of a site's paths fit, which has changed. The widest path of a tunnel bears on the others, by the
    /// padding: only if that changed, too, all sites are looked at.
    pub(super) fn fit_mtus(&mut self, site: Option<&SiteId>) {
        let interfaces = self.tunnel_mtus();
        let all = std::mem::replace(&mut self.interface_mtus, interfaces.clone()) != interfaces;
        if all {
            for site in self.sites.values_mut() {
                self.changes.topology |= site.fit_mtus(&interfaces);
            }
        } else if let Some(site) = site.and_then(|id| self.sites.get_mut(id)) {
            self.changes.topology |= site.fit_mtus(&interfaces);
        }
    }

    pub(super) fn site_announced(&mut self, remote: RemoteSite, now: Time) {
        let id = remote.id;
        match self.sites.get_mut(&id) {
            Some(site) if *site.remote() == remote => return,
            Some(site) => site.set_remote(remote),
            None => {
                let message = format!("site {} is active, with {} uplinks", remote.name, remote.uplinks.len());
                self.changes.events.push(EngineEvent::new(EventKind::SiteUp, message).with_site(id));
                let mut site = Site::new(remote, now);
                for (class, tunnel) in self.taken.remove(&id).unwrap_or_default() {
                    site.adopt(class, tunnel);
                }
                self.sites.insert(id, site);
            }
        }
        self.refresh_site(&id, now);
        self.reckon_paces(now);
        self.fit_mtus(Some(&id));
    }

    pub(super) fn site_gone(&mut self, id: &SiteId, gone: &Gone) {
        let Some(site) = self.sites.remove(id) else { return };
        let name = &site.remote().name;
        let (kind, message) = match gone {
            Gone::Left => (EventKind::SiteLeft, format!("site {name} left the mesh")),
            Gone::Inactive => (EventKind::SiteInactive, format!("site {name} has been silent for too long")),
            Gone::Removed(why) => (EventKind::SiteRemoved, format!("site {name} was removed: {why}")),
        };
        self.changes.events.push(EngineEvent::new(kind, message).with_site(*id));
        self.changes.topology = true;
        self.fit_mtus(None);
    }

    pub(super) fn uplinks_changed(&mut self, uplinks: Vec<LocalUplink>, now: Time) {
        if uplinks == self.uplinks {
            return;
        }
        for uplink in &uplinks {
            let former = self.uplinks.iter().find(|former| former.index == uplink.index);
            if let Some(event) = uplink_event(former, uplink) {
                self.changes.events.push(event);
            }
        }
        let usable = |uplinks: &[LocalUplink]| -> BTreeSet<_> {
            uplinks.iter().filter(|uplink| uplink_usable(uplink)).map(|uplink| uplink.index).collect()
        };
        let lost: BTreeSet<UplinkIndex> = &usable(&self.uplinks) - &usable(&uplinks);
        self.uplinks = uplinks;
        self.refresh_paths(now);
        self.tell_of(&lost, now);
    }

    /// The peers can't know yet that uplinks are lost here: what they send there is lost until they miss answers.
    fn tell_of(&mut self, lost: &BTreeSet<UplinkIndex>, now: Time) {
        if lost.is_empty() {
            return;
        }
        for site in self.sites.values() {
            let up = site.paths().filter(|(_, path)| path.state() == PathState::Up);
            self.changes.notices.extend(up.take(NOTICES).map(|(tunnel, _)| Notice {
                path: PathKey { site: site.remote().id, tunnel },
                lost: lost.clone(),
                number: now.0,
            }));
        }
    }

    /// Makes the paths of all sites fit the uplinks of both ends, and tells them what their uplink can do.
    pub(super) fn refresh_paths(&mut self, now: Time) {
        let sites: Vec<SiteId> = self.sites.keys().copied().collect();
        for id in &sites {
            self.refresh_site(id, now);
        }
        self.changes.topology = true;
        self.reckon_paces(now);
        self.interface_mtus = TunnelMtus::default();
        self.fit_mtus(None);
    }

    /// The same for one site.
    fn refresh_site(&mut self, id: &SiteId, now: Time) {
        self.changes.topology = true;
        let Some(site) = self.sites.get_mut(id) else { return };
        let mut wanted = BTreeMap::new();
        for local in &self.uplinks {
            for remote in &site.remote().uplinks {
                let tunnel = TunnelKey { local: local.index, remote: remote.index };
                let mtu = path_mtu(local, remote.mtu, site.remote(), tunnel, self.local.mtu);
                let usable = if !uplink_usable(local) {
                    Err(Cause::UplinkDown)
                } else if !self.tunnels.contains(&tunnel) {
                    Err(Cause::NoTunnel)
                } else {
                    Ok(())
                };
                let rate_down = remote.rate_down_kbps.map(|rate| u64::from(rate) * 1_000);
                let rate = local.rate_up.into_iter().chain(rate_down).min();
                wanted.insert(tunnel, (mtu, rate, local.cost, usable));
            }
        }
        for tunnel in site.refresh(&wanted, &self.settings, now, &mut self.changes) {
            let key = PathKey { site: *id, tunnel };
            let lead = if self.local.id > *id { HANDSHAKE_LEAD } else { Duration::ZERO };
            let at = next_probe(&key, now + lead, self.paces.active);
            site.set_probe_at(tunnel, at);
            self.probes.push(Reverse((at, key)));
        }
        site.decide(&self.compilation, &self.settings, now, &mut self.changes);
        site.plan(&self.settings, now);
        self.wakes.push(Reverse((site.wake_at(), *id)));
    }
}

/// Can packets leave by this uplink at all?
pub fn uplink_usable(uplink: &LocalUplink) -> bool {
    uplink.ifindex != 0 && uplink.carrier && !uplink.addresses.is_empty()
}

fn uplink_event(former: Option<&LocalUplink>, now: &LocalUplink) -> Option<EngineEvent> {
    let was = former.is_some_and(uplink_usable);
    let is = uplink_usable(now);
    let (kind, message) = match (was, is) {
        (false, true) => (EventKind::UplinkUp, format!("uplink {} ({}) is up", now.name, now.interface)),
        (true, false) => {
            let why = match () {
                () if now.ifindex == 0 => "its interface is gone",
                () if !now.carrier => "it has no carrier",
                () => "it has no address",
            };
            (EventKind::UplinkDown, format!("uplink {} ({}) is down: {why}", now.name, now.interface))
        }
        (true, true) => {
            let former = former?;
            if former.addresses == now.addresses && former.gateways == now.gateways && former.ifindex == now.ifindex {
                return None;
            }
            let list = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let message = format!(
                "uplink {} ({}) changed: addresses {} by gateway {}",
                now.name,
                now.interface,
                list(&now.addresses),
                list(&now.gateways)
            );
            (EventKind::UplinkChanged, message)
        }
        (false, false) => return None,
    };
    Some(EngineEvent::new(kind, message))
}

/// The smaller of the two uplinks' MTUs less what the tunnel adds.
fn path_mtu(local: &LocalUplink, remote_mtu: u16, remote: &RemoteSite, tunnel: TunnelKey, bound: Option<u16>) -> u16 {
    // Without an endpoint the peer dials in, and the family isn't known: leave room for the larger header.
    let outer = remote.endpoint(tunnel, &local.addresses).map_or(IpAddr::from([0u16; 8]), |endpoint| endpoint.ip());
    let mtu = local.mtu.min(remote_mtu).saturating_sub(wireguard_overhead(outer));
    mtu.min(bound.unwrap_or(u16::MAX)).max(MINIMUM_MTU)
}
