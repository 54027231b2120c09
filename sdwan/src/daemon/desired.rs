//! What tunnels, routes and maps should be, as pure functions of the engine and of what exists.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::{Config, LanInterface};
use crate::dataplane::desired::{
    CandidateDesired, Change, Desired, LanIngress, PathDesired, SetDesired, SiteDesired, WallClock,
};
use crate::dataplane::{Attachment, Direction};
use crate::discovery::DiscoveryInterface;
use crate::engine::input::Changes;
use crate::engine::path::PathState;
use crate::engine::sets::Set;
use crate::engine::settings::Settings;
use crate::engine::types::{LocalUplink, PathKey, RemoteSite, RemoteUplink, SiteId, TunnelKey};
use crate::engine::{Engine, Site};
use crate::net::NetSnapshot;
use crate::net::marks::{tunnel_mark, uplink_mark};
use crate::net::routing::{PathRoute, RemoteRoutes};
use crate::trust::announcement::LocalAnnouncement;
use crate::tunnel::{DesiredTunnels, PeerDesired, TunnelDesired};

/// After how long without a heartbeat the data path looks to the peers' probes; the daemon gives four in that time.
/// Shorter than the detection time: of a daemon that doesn't get to run, no path may seem to be silent.
pub fn heartbeat_stale(settings: &Settings) -> Duration {
    (settings.probe_interval * settings.missed.max(1)).mul_f64(2.0 / 3.0).min(Duration::from_millis(500))
}

/// Who this site is and what it brings along.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its id.
    pub site: SiteId,
    /// Its name.
    pub name: String,
    /// Its overlay address.
    pub overlay: IpAddr,
    /// Its LAN prefixes.
    pub prefixes: Vec<IpNet>,
}

/// Every tunnel: one for each local uplink and each uplink index that any remote site has.
pub fn tunnels(engine: &Engine, base_port: u16, private_key: [u8; 32]) -> DesiredTunnels {
    let mut owned = engine.owned_prefixes();
    let mtus = engine.tunnel_mtus();
    let mut tunnels: BTreeMap<TunnelKey, TunnelDesired> = BTreeMap::new();
    for site in engine.sites() {
        let remote = site.remote();
        let mut allowed = owned.remove(&remote.id).unwrap_or_default();
        allowed.push(IpNet::from(remote.overlay));
        for (tunnel, _) in site.paths() {
            let Some(uplink) = engine.uplinks().iter().find(|uplink| uplink.index == tunnel.local) else { continue };
            let desired = tunnels.entry(tunnel).or_insert_with(|| TunnelDesired {
                listen_port: tunnel.listen_port(base_port),
                fwmark: uplink_mark(tunnel.local),
                mtu: mtus.get(tunnel).unwrap_or_default(),
                ..TunnelDesired::default()
            });
            let peer = PeerDesired {
                site: remote.id,
                endpoint: remote.endpoint(tunnel, &uplink.addresses),
                allowed_ips: allowed.clone(),
                // Probes run all the time and keep the mappings of NATs alive.
                keepalive: None,
            };
            desired.peers.insert(remote.wireguard_key, peer);
        }
    }
    DesiredTunnels { private_key, tunnels }
}

/// The remote sites as the kernel's routes need them: the fallback class's order of paths.
pub fn remote_routes(engine: &Engine) -> Vec<RemoteRoutes> {
    let mut owned = engine.owned_prefixes();
    let fallback = usize::from(engine.fallback_class());
    let routes = |site: &Site| {
        let remote = site.remote();
        let order = site.sets().get(fallback).map_or(&[][..], Set::candidates);
        let paths = order
            .iter()
            .filter_map(|ranked| Some(PathRoute { tunnel: ranked.tunnel, mtu: site.path(ranked.tunnel)?.mtu() }));
        RemoteRoutes {
            site: remote.id,
            prefixes: owned.remove(&remote.id).unwrap_or_default(),
            overlay: remote.overlay,
            paths: paths.collect(),
        }
    };
    engine.sites().map(routes).collect()
}

/// Everything in the maps. `interfaces` are the tunnels that exist, by interface index. `outer_dscp`: encrypted packets get
/// the DSCP of their class.
pub fn maps(
    engine: &Engine,
    identity: &Identity,
    config: &Config,
    lan: &[LanIngress],
    interfaces: &BTreeMap<TunnelKey, u32>,
    outer_dscp: bool,
    clock: WallClock,
) -> Desired {
    let mut owned = engine.owned_prefixes();
    let compilation = engine.compilation();
    let mut desired = Desired {
        overlay: identity.overlay,
        local_prefixes: identity.prefixes.clone(),
        lan: lan.to_vec(),
        sites: BTreeMap::new(),
        paths: BTreeMap::new(),
        sets: BTreeMap::new(),
        rules: compilation.rules.clone(),
        classes: compilation.classes.iter().map(|class| class.abi()).collect(),
        fast_path: config.dataplane.fast_path.code(),
        outer_port: if outer_dscp { config.tunnel.listen_port } else { 0 },
        // With every bit in the mask hardly any hash fits.
        flow_event_mask: config.dataplane.flow_event_mask().unwrap_or(u32::MAX),
        events_per_second: config.dataplane.events_per_second,
        heartbeat_stale: heartbeat_stale(engine.settings()),
        clock,
    };
    for site in engine.sites() {
        let id = site.remote().id;
        let prefixes = owned.remove(&id).unwrap_or_default();
        desired.sites.insert(id, SiteDesired { overlay: site.remote().overlay, prefixes });
        for (tunnel, path) in site.paths() {
            let Some(&ifindex) = interfaces.get(&tunnel) else { continue };
            let detection = path.told_detection(engine.settings());
            let record = PathDesired {
                ifindex,
                mark: tunnel_mark(tunnel),
                mtu: path.mtu(),
                up: path.state() == PathState::Up,
                detection,
                last_answer: path.last_answer().unwrap_or_default(),
                // Until a probe of the peer tells how fast it probes itself.
                peer_detection: detection,
            };
            desired.paths.insert(PathKey { site: id, tunnel }, record);
        }
        for (class, set) in (0..).zip(site.sets()) {
            let set = path_set(id, set, interfaces);
            if !set.candidates.is_empty() {
                desired.sets.insert((id, class), set);
            }
        }
    }
    desired
}

/// What of the engine's changes the data path must hear of at once. What isn't in the maps yet comes with the next whole
/// state.
pub fn urgent(engine: &Engine, interfaces: &BTreeMap<TunnelKey, u32>, changes: &Changes) -> Vec<Change> {
    let path = |key: &PathKey| engine.path(key).map(|path| (*key, path));
    let states = changes.states.iter().filter_map(path);
    let states = states.map(|(key, path)| Change::PathState(key, path.state() == PathState::Up));
    let detections = changes.detections.iter().filter_map(path);
    let detections = detections.map(|(key, path)| Change::PathDetection(key, path.told_detection(engine.settings())));
    let sets = changes.sets.iter().filter_map(|(id, class)| {
        let set = engine.site(id)?.sets().get(usize::from(*class))?;
        Some(Change::PathSet(*id, *class, path_set(*id, set, interfaces)))
    });
    states.chain(detections).chain(sets).collect()
}

/// A path set with those of its paths whose tunnel exists.
fn path_set(site: SiteId, set: &Set, interfaces: &BTreeMap<TunnelKey, u32>) -> SetDesired {
    let existing = set.candidates().iter().filter(|ranked| interfaces.contains_key(&ranked.tunnel));
    let candidates = existing.map(|ranked| CandidateDesired {
        path: PathKey { site, tunnel: ranked.tunnel },
        rank: ranked.rank,
        weight: ranked.weight,
        full: ranked.full,
    });
    SetDesired { candidates: candidates.collect(), keep_rank: set.keep_rank() }
}

/// Where LAN packets come in: the configured interfaces that exist, else every interface with an address inside this
/// site's prefixes that is neither an uplink nor a tunnel.
pub fn lan_ingresses(
    config: &Config,
    identity: &Identity,
    uplinks: &[LocalUplink],
    snapshot: &NetSnapshot,
) -> Vec<LanIngress> {
    let zones = config.zones();
    let number = |zone: &str| zones.iter().position(|known| known == zone).unwrap_or(0) as u32;
    let mut lan: Vec<LanIngress> = if config.lan.interfaces.is_empty() {
        let is_lan = |ifindex: u32| {
            let mut addresses = snapshot.usable_addresses(ifindex);
            addresses.any(|address| identity.prefixes.iter().any(|prefix| prefix.contains(&address.addr())))
        };
        let links = snapshot.links.values().filter(|link| !link.loopback);
        let links = links.filter(|link| !uplinks.iter().any(|uplink| uplink.ifindex == link.ifindex));
        let links = links.filter(|link| crate::tunnel::tunnel_of_interface(&link.name).is_none());
        links
            .filter(|link| is_lan(link.ifindex))
            .map(|link| LanIngress { ifindex: link.ifindex, vlan: None, zone: number(LanInterface::DEFAULT_ZONE) })
            .collect()
    } else {
        let existing = |interface: &LanInterface| {
            let link = snapshot.link(&interface.name)?;
            Some(LanIngress { ifindex: link.ifindex, vlan: interface.vlan, zone: number(&interface.zone) })
        };
        config.lan.interfaces.iter().filter_map(existing).collect()
    };
    lan.sort();
    lan.dedup();
    lan
}

/// Which programs hang where. `marked` are the uplinks whose encrypted packets get the DSCP of their class.
pub fn attachments(
    lan: &[LanIngress],
    interfaces: &BTreeMap<TunnelKey, u32>,
    marked: &[LocalUplink],
    snapshot: &NetSnapshot,
) -> BTreeSet<Attachment> {
    let lan = lan.iter().filter_map(|ingress| {
        let interface = snapshot.links.get(&ingress.ifindex)?.name.clone();
        Some(Attachment { direction: Direction::Lan, ifindex: ingress.ifindex, interface })
    });
    let tunnels = interfaces.iter().flat_map(|(tunnel, ifindex)| {
        let hook = |direction| Attachment { direction, ifindex: *ifindex, interface: tunnel.interface() };
        [Direction::Tunnel, Direction::IntoTunnel].map(hook)
    });
    let uplinks = marked.iter().filter(|uplink| uplink.ifindex != 0).map(|uplink| Attachment {
        direction: Direction::Uplink,
        ifindex: uplink.ifindex,
        interface: uplink.interface.clone(),
    });
    lan.chain(tunnels).chain(uplinks).collect()
}

/// Where discovery sends and listens: the uplinks, each by its own table, and whatever else is to be multicast on.
/// `multicast` are the interfaces that the configuration names; without any, every uplink.
pub fn discovery_interfaces(
    multicast: Option<&[String]>,
    uplinks: &[LocalUplink],
    snapshot: &NetSnapshot,
) -> Vec<DiscoveryInterface> {
    let existing = uplinks.iter().filter(|uplink| uplink.ifindex != 0);
    let mut interfaces: Vec<DiscoveryInterface> = existing
        .map(|uplink| DiscoveryInterface {
            name: uplink.interface.clone(),
            ifindex: uplink.ifindex,
            mark: Some(uplink_mark(uplink.index)),
            multicast: multicast.is_none_or(|wanted| wanted.contains(&uplink.interface)),
            seeds: true,
        })
        .collect();
    for name in multicast.into_iter().flatten() {
        if let Some(link) = snapshot.link(name)
            && !interfaces.iter().any(|interface| interface.name == *name)
        {
            interfaces.push(DiscoveryInterface {
                name: name.clone(),
                ifindex: link.ifindex,
                mark: None,
                multicast: true,
                seeds: false,
            });
        }
    }
    interfaces
}

/// What this site announces. An uplink stays in it while it is down: the others keep their tunnels and probe on.
pub fn announcement(
    identity: &Identity,
    base_port: u16,
    wireguard_key: [u8; 32],
    uplinks: &[LocalUplink],
) -> LocalAnnouncement {
    let uplinks = uplinks.iter().map(|uplink| RemoteUplink {
        index: uplink.index,
        name: uplink.name.clone(),
        addresses: match uplink.public_addresses.is_empty() {
            true => uplink.addresses.iter().copied().take(crate::trust::announcement::ADDRESSES_MAX).collect(),
            false => uplink.public_addresses.clone(),
        },
        mtu: uplink.mtu,
        rate_down_kbps: uplink.rate_down.and_then(|rate| u32::try_from(rate / 1_000).ok()),
    });
    LocalAnnouncement {
        wireguard_key,
        next_wireguard_key: None,
        base_port,
        uplinks: uplinks.collect(),
        prefixes: identity.prefixes.clone(),
    }
}

/// Name of a remote uplink, or its index where it isn't announced any more.
pub fn remote_uplink_name(remote: &RemoteSite, tunnel: TunnelKey) -> String {
    let uplink = remote.uplinks.iter().find(|uplink| uplink.index == tunnel.remote);
    uplink.map_or_else(|| tunnel.remote.to_string(), |uplink| uplink.name.clone())
}

/// Name of a local uplink, likewise.
pub fn local_uplink_name(uplinks: &[LocalUplink], tunnel: TunnelKey) -> String {
    let uplink = uplinks.iter().find(|uplink| uplink.index == tunnel.local);
    uplink.map_or_else(|| tunnel.local.to_string(), |uplink| uplink.name.clone())
}
