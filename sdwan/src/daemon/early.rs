//! What the XDP programs should know, and where they should be, as pure functions of the configuration and of what exists.

use std::collections::BTreeSet;

use crate::config::{Config, LanInterface};
use crate::dataplane::desired::LanIngress;
use crate::dataplane::early::{EarlyDesired, GuardDesired, LanFilterDesired, XdpMode};
use crate::dataplane::{Attachment, Direction};
use crate::engine::types::{LocalUplink, TunnelKey};
use crate::net::NetSnapshot;

/// Kind of the interfaces that `auto` leaves alone where nothing makes up for it: what comes in there is a packet of the
/// kernel's already, so XDP saves nothing, and may cost a copy of it.
const VIRTUAL: &str = "veth";

/// Everything in the maps of the XDP programs. `tunnels` are those that exist and those that are to: a tunnel that can't be
/// looked at for a moment is guarded on.
pub fn desired(
    config: &Config,
    lan: &[LanIngress],
    tunnels: BTreeSet<TunnelKey>,
    snapshot: &NetSnapshot,
) -> EarlyDesired {
    if config.xdp.mode == XdpMode::Off {
        return EarlyDesired::default();
    }
    let zones = config.zones();
    let filter = |ingress: &LanIngress| {
        Some(LanFilterDesired {
            ifindex: ingress.ifindex,
            vlan: ingress.vlan,
            interface: snapshot.links.get(&ingress.ifindex)?.name.clone(),
            zone: zones.get(ingress.zone as usize).map_or(LanInterface::DEFAULT_ZONE, String::as_str).to_owned(),
            malformed: config.xdp.malformed,
            martians: config.xdp.martians,
        })
    };
    let base_port = config.tunnel.listen_port;
    let guard = config.guard.enabled.then(|| GuardDesired {
        base_port,
        tunnels,
        control_ports: [Some(config.discovery.port), crate::engine::mtu::port(base_port)],
        addresses: snapshot.addresses.iter().map(|address| address.address.addr()).collect(),
        limits: config.guard.limits(),
        learn: config.guard.learn,
    });
    EarlyDesired { rules: config.drops.clone(), lan: lan.iter().filter_map(filter).collect(), guard }
}

/// Where `lan_xdp` and `wan_xdp` hang, and `uplink_egress`, which the latter goes by.
pub fn attachments(
    config: &Config,
    desired: &EarlyDesired,
    uplinks: &[LocalUplink],
    snapshot: &NetSnapshot,
) -> BTreeSet<Attachment> {
    let eager = config.xdp.mode == XdpMode::Native;
    let gains = |ifindex: u32| {
        let link = snapshot.links.get(&ifindex);
        eager || link.is_some_and(|link| link.kind.as_deref() != Some(VIRTUAL))
    };
    let lan = desired.lan.iter().filter(|filter| {
        let ruled = desired.rules.iter().any(|rule| rule.applies_at(filter));
        ruled || (filter.malformed || filter.martians) && gains(filter.ifindex)
    });
    let lan = lan.map(|filter| Attachment {
        direction: Direction::LanXdp,
        ifindex: filter.ifindex,
        interface: filter.interface.clone(),
    });
    let guarded =
        uplinks.iter().filter(|uplink| desired.guard.is_some() && uplink.ifindex != 0 && gains(uplink.ifindex));
    let guarded = guarded.flat_map(|uplink| {
        let at = |direction| Attachment { direction, ifindex: uplink.ifindex, interface: uplink.interface.clone() };
        [at(Direction::Uplink), at(Direction::WanXdp)]
    });
    lan.chain(guarded).collect()
}
