//! What the parts of the daemon are set to, from the configuration.

use super::start::StartError;
use crate::config::{Config, TunnelBackend};
use crate::dataplane::{self, Capacities};
use crate::discovery::{DiscoveryConfig, Timers};
use crate::engine::types::{LocalUplink, UplinkIndex};
use crate::net::snapshot::uplinks_from_default_routes;
use crate::net::{NetSnapshot, UplinkSpec};
use crate::store::Store;
use crate::tunnel::BackendChoice;

/// The configured uplinks, or those of the machine's default routes. Their indices are not settled yet.
pub(super) fn uplink_specs(config: &Config, snapshot: &NetSnapshot) -> Result<Vec<UplinkSpec>, StartError> {
    Ok(match config.uplinks.is_empty() {
        true => uplinks_from_default_routes(snapshot)?,
        false => {
            let first = UplinkIndex::new(0).unwrap_or_else(|| unreachable!("a site has at least one uplink index"));
            let spec = |uplink: &crate::config::UplinkConfig| UplinkSpec {
                index: uplink.index.unwrap_or(first),
                name: uplink.name.clone(),
                interface: uplink.interface.clone(),
                gateways: uplink.gateways.clone(),
                public_addresses: uplink.public_addresses.clone(),
                cost: uplink.cost,
                rate_up: uplink.rate_up.map(|rate| rate.0),
                rate_down: uplink.rate_down.map(|rate| rate.0),
            };
            config.uplinks.iter().map(spec).collect()
        }
    })
}

/// The uplinks as a start would find them; where neither configuration nor database has settled an index, by position.
pub fn planned_uplinks(config: &Config, snapshot: &NetSnapshot) -> Result<Vec<LocalUplink>, StartError> {
    let mut uplinks = snapshot.local_uplinks(&uplink_specs(config, snapshot)?);
    for (position, uplink) in (0..).zip(&mut uplinks) {
        let configured = config.uplinks.iter().find(|known| known.name == uplink.name).and_then(|known| known.index);
        uplink.index = configured.or_else(|| UplinkIndex::new(position)).unwrap_or(uplink.index);
    }
    Ok(uplinks)
}

/// The uplinks, each with an index that its name keeps.
pub(super) fn with_indices(
    mut specs: Vec<UplinkSpec>,
    config: &Config,
    store: &Store,
) -> Result<Vec<UplinkSpec>, StartError> {
    let configured =
        |name: &str| config.uplinks.iter().find(|uplink| uplink.name == name).and_then(|uplink| uplink.index);
    let wanted: Vec<(String, Option<UplinkIndex>)> =
        specs.iter().map(|spec| (spec.name.clone(), configured(&spec.name))).collect();
    let indices = store.uplink_indices(&wanted)?;
    for spec in &mut specs {
        if let Some(index) = indices.get(&spec.name) {
            spec.index = *index;
        }
    }
    Ok(specs)
}

/// Sizes of the maps and where they are pinned.
pub(super) fn dataplane_settings(config: &Config) -> dataplane::Settings {
    dataplane::Settings {
        directory: config.dataplane.bpffs.clone(),
        capacities: Capacities {
            flows: config.dataplane.flows,
            sites: config.dataplane.sites,
            classes: config.dataplane.classes,
            paths: config.dataplane.paths,
            prefixes: config.dataplane.prefixes,
        },
        tcp_rtt_per_second: config.dataplane.tcp_rtt_per_second,
    }
}

/// Which WireGuard.
pub(super) fn backend_choice(backend: TunnelBackend) -> BackendChoice {
    match backend {
        TunnelBackend::Auto => BackendChoice::Auto,
        TunnelBackend::Kernel => BackendChoice::Kernel,
        TunnelBackend::Userspace => BackendChoice::Userspace,
    }
}

/// Group, port and timers of discovery.
pub(super) fn discovery_config(config: &Config) -> DiscoveryConfig {
    let mut discovery = DiscoveryConfig {
        port: config.discovery.port,
        timers: Timers {
            announce: config.discovery.interval,
            silent: config.discovery.inactive_after,
            ..Timers::default()
        },
        ..DiscoveryConfig::default()
    };
    match config.discovery.multicast_group {
        std::net::IpAddr::V4(group) => discovery.group_v4 = group,
        std::net::IpAddr::V6(group) => discovery.group_v6 = group,
    }
    discovery
}
