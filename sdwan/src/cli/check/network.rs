//! What the daemon will find in the kernel's network: what it would change there, and what would get in its way. Only reads.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;

use super::Check;
use crate::config::Config;
use crate::daemon::planned_uplinks;
use crate::engine::types::{LocalUplink, TunnelKey, UplinkIndex};
use crate::net::routing::{ForeignRule, RoutingReconciler};
use crate::net::sysctl::{Change, Sysctl, needed_settings};
use crate::net::{Network, marks};
use crate::tunnel::tunnel_of_interface;

/// Smallest MTU of an uplink with which a tunnel carries IPv6 (RFC 8200 section 5) over IPv6, bytes.
const UPLINK_MTU: u16 = 1280 + 80;

/// All checks of the network.
pub(super) async fn checks(config: &Config) -> Vec<Check> {
    match look(config).await {
        Ok(checks) => checks,
        Err(error) => {
            vec![Check::failed("network", format!("{error:#}"), "run as root, in the gateway's network namespace")]
        }
    }
}

async fn look(config: &Config) -> anyhow::Result<Vec<Check>> {
    let network = Network::connect()?;
    let snapshot = network.snapshot().await?;
    // Without uplinks, another check has said so.
    let uplinks = planned_uplinks(config, &snapshot).unwrap_or_default();
    let names = snapshot.links.values().map(|link| link.name.as_str());
    let tunnels: Vec<&str> = names.filter(|name| tunnel_of_interface(name).is_some()).collect();
    let mut checks: Vec<Check> = uplinks.iter().filter(|uplink| uplink.ifindex != 0).map(uplink).collect();
    let interfaces = uplinks.iter().filter(|uplink| uplink.ifindex != 0).map(|uplink| uplink.interface.as_str());
    let settings = needed_settings(interfaces, tunnels.iter().copied());
    checks.push(kernel_settings(&Sysctl::new(&config.site.state_dir).pending(&settings)?));
    checks.push(rules(&RoutingReconciler::new(network).earlier_rules().await?));
    checks.push(ports(config.tunnel.listen_port, &uplinks, &tunnels));
    checks.push(additions(&uplinks, &tunnels, &config.dataplane.bpffs));
    Ok(checks)
}

/// Can it carry tunnels?
fn uplink(uplink: &LocalUplink) -> Check {
    let LocalUplink { name, interface, mtu, .. } = uplink;
    if uplink.addresses.is_empty() {
        let remedy = format!(
            "give {interface} an address, or wait for its DHCP client; `ip address show {interface}` lists them"
        );
        return Check::warning("uplink addresses", format!("{name} has no address that can be announced"), remedy);
    }
    if uplink.gateways.is_empty() {
        let remedy = format!(
            "only sites on the same link are reached by it: add a default route by {interface}, or `gateways` of the uplink"
        );
        return Check::warning("uplink addresses", format!("{name} has no default route and no gateway"), remedy);
    }
    let addresses: Vec<String> = uplink.addresses.iter().map(ToString::to_string).collect();
    let finding = format!("{name} has {}; MTU {mtu}", addresses.join(", "));
    if *mtu < UPLINK_MTU {
        let remedy = format!(
            "IPv6 in a tunnel needs {UPLINK_MTU} bytes: `ip link set {interface} mtu 1500`, if the line takes it"
        );
        return Check::warning("uplink addresses", finding, remedy);
    }
    Check::ok("uplink addresses", finding)
}

pub(in crate::cli) fn kernel_settings(changes: &[Change]) -> Check {
    if changes.is_empty() {
        return Check::ok("kernel settings", "are what a gateway needs");
    }
    let told: Vec<String> = changes
        .iter()
        .map(|Change { path, from, to }| format!("{} from {from} to {to}", path.replace('/', ".")))
        .collect();
    Check::ok("kernel settings", format!("the daemon sets, until `sdwan down`: {}", told.join(", ")))
}

pub(in crate::cli) fn rules(foreign: &[ForeignRule]) -> Check {
    let name = "routing rules";
    if foreign.is_empty() {
        return Check::ok(name, "nobody's come before sdwan's");
    }
    let told: Vec<String> = foreign
        .iter()
        .map(|rule| format!("{}{} (table {})", if rule.ipv6 { "IPv6 " } else { "" }, rule.priority, rule.table))
        .collect();
    Check::warning(
        name,
        format!("others come before sdwan's, which end at {}: {}", marks::LAST_PRIORITY, told.join(", ")),
        "see with `ip rule` that they don't take packets with marks 0x5d…; else give them a higher number",
    )
}

/// Are the ports of tunnels, and the one after them for probes of MTUs, free, or ours?
fn ports(base: u16, uplinks: &[LocalUplink], tunnels: &[&str]) -> Check {
    let indices = (0..UplinkIndex::COUNT).filter_map(UplinkIndex::new);
    let wanted =
        uplinks.iter().flat_map(|uplink| indices.clone().map(|remote| TunnelKey { local: uplink.index, remote }));
    let taken: Vec<String> = wanted
        .filter(|tunnel| !tunnels.contains(&tunnel.interface().as_str()))
        .map(|tunnel| tunnel.listen_port(base))
        .filter(|port| is_taken(*port))
        .map(|port| port.to_string())
        .collect();
    let range = format!("{base}–{}", base.saturating_add(sdwan_common::abi::TUNNEL_PORTS));
    if taken.is_empty() {
        return Check::ok("ports", format!("UDP {range} are free or sdwan's"));
    }
    Check::failed(
        "ports",
        format!("UDP {} of {range} are in use by somebody else", taken.join(", ")),
        "`ss -lunp` names the program; end it, or set another `listen_port` in [tunnel]",
    )
}

fn is_taken(port: u16) -> bool {
    let taken = |outcome: std::io::Result<UdpSocket>| outcome.is_err_and(|error| error.kind() == ErrorKind::AddrInUse);
    taken(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))) || taken(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)))
}

/// What there will be, or is.
fn additions(uplinks: &[LocalUplink], tunnels: &[&str], pins: &Path) -> Check {
    let name = "what it adds";
    if !tunnels.is_empty() {
        return Check::ok(
            name,
            format!("{} tunnels are here already; `sdwan down` removes all that sdwan made", tunnels.len()),
        );
    }
    let count = uplinks.len();
    let plural = if count == 1 { "uplink" } else { "uplinks" };
    let finding = format!(
        "a WireGuard interface sdwA-B for each of {count} {plural} and each uplink of other sites, rules {}–{} and routes \
         (`proto {}`), programs pinned below {}",
        marks::uplink_priority(UplinkIndex::new(0).unwrap_or_else(|| unreachable!("there is an index 0"))),
        marks::LAST_PRIORITY,
        marks::PROTOCOL,
        pins.display()
    );
    Check::ok(name, finding)
}
