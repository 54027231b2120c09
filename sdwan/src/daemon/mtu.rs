//! The search for path MTUs: what it rests on, as a function of the engine, and the orders of the API.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::core::Core;
use super::desired::{local_uplink_name, remote_uplink_name};
use crate::api::request::{Refusal, Reply};
use crate::api::views::{MtuView, VERSION};
use crate::config::Config;
use crate::engine::mtu::{Conditions, How, Known, State, port};
use crate::engine::path::{Path, PathState};
use crate::engine::types::{LocalUplink, PathKey, RemoteSite, TunnelKey};
use crate::engine::{Engine, Site};
use crate::measure::mtu::{Asked, MtuCounters, MtuTask, Order, Target, Targets, Uplink};
use crate::trust::keys::WireGuardKey;

/// Results that may wait for the core.
const RESULTS: usize = 1_024;

/// The core's end of the searches.
pub struct Mtu {
    targets: watch::Sender<Arc<Targets>>,
    orders: mpsc::Sender<Order>,
    /// What happened to probes.
    pub counters: Arc<MtuCounters>,
    _task: MtuTask,
}

impl Mtu {
    /// Starts the task. The receiver is the core's.
    pub fn start(site: crate::engine::types::SiteId, config: &Config) -> (Self, mpsc::Receiver<(PathKey, Known)>) {
        let (targets, desired) = watch::channel(Arc::default());
        let (sender, results) = mpsc::channel(RESULTS);
        let task = MtuTask::start(site, config.mtu_settings(), desired, sender);
        (Self { targets, orders: task.orders(), counters: task.counters(), _task: task }, results)
    }

    /// Publishes what the searches rest on.
    pub fn publish(&self, targets: Targets) {
        self.targets.send_replace(Arc::new(targets));
    }
}

/// Everything that probing rests on.
pub fn targets(engine: &Engine, config: &Config, wireguard: &WireGuardKey) -> Targets {
    let existing = engine.uplinks().iter().filter(|uplink| uplink.ifindex != 0 && uplink.carrier);
    let uplinks = existing.map(|uplink| Uplink {
        index: uplink.index,
        interface: uplink.interface.clone(),
        ifindex: uplink.ifindex,
        addresses: uplink.addresses.clone(),
    });
    let peers = engine.sites().map(|site| {
        let remote = site.remote();
        (remote.id, [remote.wireguard_key].into_iter().chain(remote.next_wireguard_key).collect())
    });
    let mut paths = BTreeMap::new();
    for site in engine.sites().filter(|_| config.mtu.enabled) {
        for (tunnel, path) in site.paths() {
            let Some(local) = engine.uplinks().iter().find(|uplink| uplink.index == tunnel.local) else { continue };
            if let Some(target) = target(site.remote(), tunnel, path, local, config.is_metered(&local.name)) {
                paths.insert(PathKey { site: site.remote().id, tunnel }, target);
            }
        }
    }
    Targets {
        port: port(config.tunnel.listen_port),
        uplinks: uplinks.collect(),
        own_keys: vec![wireguard.clone()],
        peers: peers.collect(),
        paths,
    }
}

fn target(remote: &RemoteSite, tunnel: TunnelKey, path: &Path, local: &LocalUplink, metered: bool) -> Option<Target> {
    let remote_mtu = remote.uplinks.iter().find(|uplink| uplink.index == tunnel.remote)?.mtu;
    let quality = path.quality();
    let endpoint = probe_endpoint(remote, tunnel, &local.addresses);
    let conditions = Conditions {
        ipv6: endpoint.is_some_and(|endpoint| endpoint.is_ipv6()),
        max: local.mtu.min(remote_mtu).max(MINIMUM),
        rtt: quality.rtt,
        variation: quality.rtt_variation,
        loss: quality.loss.round_trip,
        metered,
        up_since: (path.state() == PathState::Up).then(|| path.since()),
    };
    Some(Target { endpoint, conditions })
}

/// Smallest MTU of an interface that is believed, bytes: what every IPv4 host takes.
const MINIMUM: u16 = 576;

/// Where the remote uplink takes probes: the address of the tunnel's endpoint.
fn probe_endpoint(remote: &RemoteSite, tunnel: TunnelKey, local: &[IpAddr]) -> Option<SocketAddr> {
    let endpoint = remote.endpoint(tunnel, local)?;
    Some(SocketAddr::new(endpoint.ip(), port(remote.base_port)?))
}

/// The path that somebody means: `SITE TUNNEL`, as in `berlin 0-1` or `berlin fibre→lte`, or its number in the data path.
pub fn find_path(engine: &Engine, numbers: &[(PathKey, u32)], text: &str) -> Result<PathKey, Refusal> {
    let unknown = || {
        let example = engine.sites().find_map(|site| {
            let (tunnel, _) = site.paths().next()?;
            Some(format!(", such as `{} {tunnel}`", site.remote().name))
        });
        let message = format!(
            "there is no path {text:?}: write SITE and TUNNEL{}, or a number from `sdwan paths -o json`",
            example.unwrap_or_default()
        );
        Refusal::NotFound(message)
    };
    if let Ok(number) = text.trim().parse::<u32>() {
        return numbers.iter().find(|(_, known)| *known == number).map(|(path, _)| *path).ok_or_else(unknown);
    }
    let (name, wanted) = text.trim().rsplit_once([' ', '/']).ok_or_else(unknown)?;
    let named = |site: &&Site| site.remote().name == name.trim() || site.remote().id.to_string() == name.trim();
    let site = engine.sites().find(named).ok_or_else(unknown)?;
    let means = |tunnel: TunnelKey| {
        let uplinks = [local_uplink_name(engine.uplinks(), tunnel), remote_uplink_name(site.remote(), tunnel)];
        tunnel.to_string() == wanted || uplinks.join("→") == wanted || uplinks.join("->") == wanted
    };
    let found = site.paths().map(|(tunnel, _)| tunnel).find(|tunnel| means(*tunnel)).ok_or_else(unknown)?;
    Ok(PathKey { site: site.remote().id, tunnel: found })
}

impl Core {
    /// Searches a path's MTU now, and answers when the search ended.
    pub(super) fn measure_mtu(&self, text: &str, reply: Reply<Box<MtuView>>) {
        let path = match find_path(&self.engine, &self.plane_status.numbers, text) {
            Ok(path) => path,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        let refuse = |reply: Reply<Box<MtuView>>, why: &str| drop(reply.send(Err(Refusal::Unavailable(why.into()))));
        if !self.config.mtu.enabled {
            return refuse(reply, "the search for path MTUs is switched off: set `enabled = true` in [mtu]");
        }
        let Some(remote) = self.engine.site(&path.site).map(Site::remote) else {
            return refuse(reply, "the site has just gone");
        };
        let view = MtuView {
            version: VERSION,
            site: path.site,
            site_name: remote.name.clone(),
            tunnel: path.tunnel,
            local_uplink: local_uplink_name(self.engine.uplinks(), path.tunnel),
            remote_uplink: remote_uplink_name(remote, path.tunnel),
            endpoint: None,
            underlay_mtu: None,
            room: None,
            by: How::Configured,
            state: State::Base,
            finished: false,
            contact: false,
            probes: 0,
            unanswered: 0,
            took_ms: 0.0,
        };
        let (sender, answer) = oneshot::channel();
        if self.outbox.mtu.orders.try_send(Order { path, reply: sender }).is_err() {
            return refuse(reply, "too many searches are asked for: try again");
        }
        tokio::spawn(async move {
            let outcome = match answer.await {
                Ok(Some(asked)) => Ok(Box::new(filled(view, &asked))),
                Ok(None) => Err(Refusal::Unavailable(
                    "this path can't be probed: no address of the remote uplink is known in a family that the local uplink \
                     has, or the uplink is down"
                        .into(),
                )),
                Err(_) => Err(Refusal::Unavailable("the daemon is stopping".into())),
            };
            drop(reply.send(outcome));
        });
    }
}

fn filled(view: MtuView, asked: &Asked) -> MtuView {
    let report = asked.report;
    let known = report.known;
    let measured = known.how != How::Configured;
    MtuView {
        endpoint: asked.endpoint.map(|endpoint| endpoint.to_string()),
        underlay_mtu: measured.then_some(known.size),
        room: measured.then(|| known.size.saturating_sub(crate::engine::types::overhead(known.ipv6))),
        by: known.how,
        state: report.state,
        finished: asked.finished,
        contact: report.contact,
        probes: report.sent,
        unanswered: report.unanswered,
        took_ms: report.took.as_secs_f64() * 1e3,
        ..view
    }
}
