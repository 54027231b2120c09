//! What must hold between and within values that were each read without error.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sdwan_common::abi::TUNNEL_PORTS;

use super::policies::is_name;
use super::reader::Notes;
use super::*;
use crate::engine::policy::Mode;

/// Notes everything that is wrong with a configuration as a whole.
pub(super) fn validate(config: &Config, notes: &mut Notes) {
    site(config, notes);
    uplinks(config, notes);
    lan(config, notes);
    tunnel(config, notes);
    outer_dscp(config, notes);
    discovery(config, notes);
    probe(&config.probe, notes);
    mtu(&config.mtu, notes);
    capacity(&config.capacity, notes);
    dataplane(&config.dataplane, notes);
    engine(&config.engine, notes);
    store(&config.store, notes);
    stamp::validate(&config.stamp, notes);
    metrics::validate(&config.metrics, notes);
    api::validate(config, notes);
    dashboard::validate(config, notes);
    if tracing_subscriber::EnvFilter::try_new(&config.log.level).is_err() {
        let remedy = "write error, warn, info, debug, trace, or directives such as \"info,sdwan::tunnel=debug\"";
        notes.problem("log.level", format!("{:?} is not a level", config.log.level), remedy);
    }
    early::validate(config, notes);
    policies(config, notes);
}

fn site(config: &Config, notes: &mut Notes) {
    let site = &config.site;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let fits = |name: &str| {
        (1..=32).contains(&name.len()) && name.bytes().all(allowed) && name.as_bytes()[0].is_ascii_alphanumeric()
    };
    if let Some(name) = site.name.as_ref().filter(|name| !fits(name)) {
        let remedy = "use 1 to 32 letters, digits and . _ -, as in the certificate";
        notes.problem("site.name", format!("{name:?} can't be the name of a site"), remedy);
    }
    prefixes(&site.prefixes, notes);
    for (key, path) in [
        ("site.state_dir", &site.state_dir),
        ("site.database", &site.database),
        ("site.socket", &site.socket),
        ("site.lock", &site.lock),
        ("dataplane.bpffs", &config.dataplane.bpffs),
    ] {
        if !path.is_absolute() {
            let remedy = "write a path that begins with /: the daemon may run in any directory";
            notes.problem(key, format!("{:?} is not an absolute path", path.display().to_string()), remedy);
        }
    }
    if site.socket.as_os_str().len() > 107 {
        notes.problem("site.socket", "the path of a Unix socket has at most 107 bytes", "choose a shorter path");
    }
}

fn prefixes(prefixes: &[IpNet], notes: &mut Notes) {
    for (index, prefix) in prefixes.iter().enumerate() {
        let key = format!("site.prefixes[{index}]");
        if prefix.addr() != prefix.network() {
            let remedy = format!("write {}", prefix.trunc());
            notes.problem(&key, format!("{prefix} has bits set past its length"), remedy);
        } else if prefix.prefix_len() == 0 || prefix.addr().is_multicast() || prefix.addr().is_loopback() {
            let remedy = "name the networks of this site's LAN, such as \"10.1.0.0/24\"";
            notes.problem(&key, format!("{prefix} can't be a LAN prefix"), remedy);
        }
        if let Some(other) = prefixes[..index].iter().find(|o| o.contains(prefix) || prefix.contains(*o)) {
            notes.problem(&key, format!("{prefix} overlaps {other}"), "name each network once");
        }
    }
}

fn uplinks(config: &Config, notes: &mut Notes) {
    let most = usize::from(UplinkIndex::COUNT);
    if config.uplinks.len() > most {
        let message = format!("{} uplinks, and a site has at most {most}", config.uplinks.len());
        notes.problem(&format!("uplink[{most}]"), message, "remove some");
    }
    for (index, uplink) in config.uplinks.iter().enumerate() {
        let key = |name: &str| format!("uplink[{index}].{name}");
        let before = &config.uplinks[..index];
        if !is_name(&uplink.name) || uplink.name.len() > 15 {
            let remedy = "use 1 to 15 of the characters a-z, 0-9 and -";
            notes.problem(&key("name"), format!("{:?} can't be the name of an uplink", uplink.name), remedy);
        }
        if before.iter().any(|other| other.name == uplink.name) {
            let message = format!("there are two uplinks named {:?}", uplink.name);
            notes.problem(&key("name"), message, "give each a name of its own");
        }
        interface_name(&key("interface"), &uplink.interface, notes);
        if let Some(other) = before.iter().find(|other| other.interface == uplink.interface) {
            let message = format!("{} is already uplink {:?}", uplink.interface, other.name);
            notes.problem(&key("interface"), message, "an interface is one uplink");
        }
        let same_index = |other: &&UplinkConfig| uplink.index.is_some() && other.index == uplink.index;
        if let Some(other) = before.iter().find(same_index) {
            let message =
                format!("index {} is already that of uplink {:?}", uplink.index.map_or(0, |i| i.get()), other.name);
            notes.problem(&key("index"), message, "use another number in 0..=7, or leave it out");
        }
        one_per_family(&key("gateway"), &uplink.gateways, notes);
        one_per_family(&key("public_address"), &uplink.public_addresses, notes);
        for (name, rate) in [("rate_up", uplink.rate_up), ("rate_down", uplink.rate_down)] {
            if rate == Some(Rate(0)) {
                notes.problem(&key(name), "a rate of 0 carries nothing", "leave it out if the rate isn't known");
            }
        }
    }
}

fn one_per_family(key: &str, addresses: &[IpAddr], notes: &mut Notes) {
    for (index, address) in addresses.iter().enumerate() {
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            notes.problem(key, format!("{address} is not a host's address"), "write the address of a host");
        }
        if addresses[..index].iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            let version = if address.is_ipv4() { 4 } else { 6 };
            notes.problem(
                key,
                format!("more than one IPv{version} address"),
                "write at most one IPv4 and one IPv6 address",
            );
        }
    }
}

fn interface_name(key: &str, name: &str, notes: &mut Notes) {
    let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
    if !(1..=15).contains(&name.len()) || !name.bytes().all(allowed) || name == "." || name == ".." {
        notes.problem(key, format!("{name:?} can't be the name of an interface"), "`ip link` lists their names");
    } else if name.starts_with("sdw") && name[3..].split('-').all(|part| part.parse::<u8>().is_ok()) {
        notes.problem(key, format!("{name} is one of our own tunnels"), "name an interface of the machine");
    }
}

fn lan(config: &Config, notes: &mut Notes) {
    let mut zones = BTreeSet::new();
    for (index, interface) in config.lan.interfaces.iter().enumerate() {
        let key = format!("lan.interfaces[{index}]");
        interface_name(&format!("{key}.name"), &interface.name, notes);
        if interface.vlan.is_some_and(|vlan| !(1..=4094).contains(&vlan)) {
            let message = format!("{} is not a VLAN id", interface.vlan.unwrap_or(0));
            notes.problem(&format!("{key}.vlan"), message, "write a number in 1..=4094, or leave it out for untagged");
        }
        if !is_name(&interface.zone) {
            let remedy = "use 1 to 32 of the characters a-z, 0-9 and -";
            notes.problem(&format!("{key}.zone"), format!("{:?} can't be the name of a zone", interface.zone), remedy);
        }
        let same = |other: &LanInterface| (&other.name, other.vlan) == (&interface.name, interface.vlan);
        if config.lan.interfaces[..index].iter().any(same) {
            notes.problem(&key, format!("{} is listed twice", interface.name), "list each interface and VLAN once");
        }
        let uplink = config.uplinks.iter().find(|uplink| uplink.interface == interface.name);
        if let (Some(uplink), None) = (uplink, interface.vlan) {
            let message = format!("{} is also uplink {:?}", interface.name, uplink.name);
            notes.problem(&key, message, "an interface leads to the LAN or to the WAN, not both");
        }
        zones.insert(&interface.zone);
    }
    let most = sdwan_common::abi::MAX_ZONES;
    if zones.len() > most {
        notes.problem("lan.interfaces", format!("{} zones, and there is room for {most}", zones.len()), "merge some");
    }
}

fn tunnel(config: &Config, notes: &mut Notes) {
    let last = u16::MAX - (TUNNEL_PORTS - 1);
    if !(1..=last).contains(&config.tunnel.listen_port) {
        let message = format!("{} can't be the base port", config.tunnel.listen_port);
        let remedy = format!("write a port in 1..={last}: the tunnels take it and the 63 above it");
        notes.problem("tunnel.listen_port", message, remedy);
    }
    if let Some(mtu) = config.tunnel.mtu.filter(|mtu| !(1280..=9_000).contains(mtu)) {
        let remedy = "write a number in 1280..=9000 (IPv6 needs 1280), or leave it out";
        notes.problem("tunnel.mtu", format!("{mtu} can't be the MTU of a tunnel"), remedy);
    }
}

fn outer_dscp(config: &Config, notes: &mut Notes) {
    if config.tunnel.outer_dscp && config.tunnel.backend == TunnelBackend::Userspace {
        let message = "the WireGuard that the binary carries doesn't tell classes apart".to_owned();
        notes.problem("tunnel.outer_dscp", message, "set tunnel.backend to \"kernel\" or \"auto\", or leave this off");
    }
}

fn discovery(config: &Config, notes: &mut Notes) {
    let discovery = &config.discovery;
    if !discovery.multicast_group.is_multicast() {
        let message = format!("{} is not a multicast address", discovery.multicast_group);
        notes.problem("discovery.multicast_group", message, "write one such as \"239.255.42.1\" or \"ff05::42:1\"");
    }
    let base = config.tunnel.listen_port;
    let tunnels = base..=base.saturating_add(TUNNEL_PORTS - 1);
    if discovery.port == 0 || tunnels.contains(&discovery.port) {
        let key = if notes.origins.contains_key("discovery.port") { "discovery.port" } else { "tunnel.listen_port" };
        let message = format!("announcements on port {} would meet the tunnels' ports", discovery.port);
        let remedy = format!("the tunnels take {base}..={}: choose another discovery.port", tunnels.end());
        notes.problem(key, message, remedy);
    }
    if crate::engine::mtu::port(base) == Some(discovery.port) {
        let message = format!("announcements on port {} would meet the probes of path MTUs", discovery.port);
        notes.problem("discovery.port", message, "choose another one: the port after the tunnels' is theirs");
    }
    for (index, name) in discovery.multicast_interfaces.iter().flatten().enumerate() {
        interface_name(&format!("discovery.multicast_interfaces[{index}]"), name, notes);
    }
    between("discovery.interval", discovery.interval, Duration::from_secs(1), Duration::from_secs(3_600), notes);
    if discovery.inactive_after < discovery.interval * 2 {
        let message = "a site would count as inactive after one lost announcement";
        notes.problem("discovery.inactive_after", message, "make it at least twice discovery.interval");
    }
}

fn probe(probe: &ProbeConfig, notes: &mut Notes) {
    between("probe.interval", probe.interval, Duration::from_millis(5), Duration::from_secs(10), notes);
    between("probe.idle_interval", probe.idle_interval, Duration::from_millis(5), Duration::from_secs(60), notes);
    range("probe.missed", probe.missed, 2, 100, notes);
    range("probe.budget_pps", probe.budget_pps, 10, 10_000_000, notes);
}

fn mtu(mtu: &MtuConfig, notes: &mut Notes) {
    let hour = Duration::from_secs(3_600);
    between("mtu.confirm", mtu.confirm, Duration::from_millis(500), hour, notes);
    between("mtu.raise", mtu.raise, Duration::from_secs(1), 24 * hour, notes);
    range("mtu.budget_pps", mtu.budget_pps, 1, 100_000, notes);
}

fn capacity(capacity: &CapacityConfig, notes: &mut Notes) {
    between("capacity.interval", capacity.interval, Duration::from_secs(10), Duration::from_secs(86_400), notes);
    between("capacity.most_delay", capacity.most_delay, Duration::from_millis(5), Duration::from_millis(100), notes);
    if !(0.1..=10.0).contains(&capacity.share_pct) {
        let message = format!("{} is not in 0.1..=10", capacity.share_pct);
        notes.problem("capacity.share_pct", message, "write a percentage such as 1.0");
    }
}

fn dataplane(dataplane: &DataplaneConfig, notes: &mut Notes) {
    range("dataplane.flows", dataplane.flows, 1_024, 1 << 24, notes);
    range("dataplane.sites", dataplane.sites, 2, 65_536, notes);
    range("dataplane.classes", dataplane.classes, 1, 4_096, notes);
    range("dataplane.paths", dataplane.paths, 4, 1 << 20, notes);
    range("dataplane.prefixes", dataplane.prefixes, 16, 1 << 22, notes);
    range("dataplane.events_per_second", dataplane.events_per_second, 1, 1_000_000, notes);
    range("dataplane.tcp_rtt_per_second", dataplane.tcp_rtt_per_second, 0, 1_000, notes);
    let sets = u64::from(dataplane.sites) * u64::from(dataplane.classes);
    if sets > 1 << 22 {
        let message = format!("{sets} path sets (sites × classes) would take {} MiB", (sets * 136) >> 20);
        notes.problem("dataplane.classes", message, "keep sites × classes within 4194304");
    }
    if dataplane.flow_sampling != 0 && !dataplane.flow_sampling.is_power_of_two() {
        let message = format!("{} is not a power of two", dataplane.flow_sampling);
        notes.problem("dataplane.flow_sampling", message, "write 1, 2, 4, 8, …, or 0 for none");
    }
}

fn engine(engine: &EngineConfig, notes: &mut Notes) {
    let hour = Duration::from_secs(3_600);
    if !(0.0..=100.0).contains(&engine.switch_margin) {
        let message = format!("{} is out of range", engine.switch_margin);
        notes.problem("engine.switch_margin", message, "write a number in 0..=100");
    }
    range("engine.first_answers", engine.first_answers, 1, 100, notes);
    between("engine.loss_window", engine.loss_window, Duration::from_secs(1), hour, notes);
    between("engine.hold_down", engine.hold_down, Duration::ZERO, hour, notes);
    between("engine.hold_down_max", engine.hold_down_max, engine.hold_down, 24 * hour, notes);
    between("engine.damping_half_life", engine.damping_half_life, Duration::from_secs(1), 24 * hour, notes);
    between("engine.switch_hold", engine.switch_hold, Duration::ZERO, hour, notes);
    between("engine.violation_hold", engine.violation_hold, Duration::ZERO, hour, notes);
    between("engine.rate_interval", engine.rate_interval, Duration::from_millis(10), Duration::from_secs(60), notes);
}

fn store(store: &StoreConfig, notes: &mut Notes) {
    let day = Duration::from_secs(86_400);
    let hour = Duration::from_secs(3_600);
    between("store.raw_metrics", store.raw_metrics, hour, 30 * day, notes);
    between("store.minute_metrics", store.minute_metrics, 2 * hour, 400 * day, notes);
    between("store.hour_metrics", store.hour_metrics, day, 4_000 * day, notes);
    between("store.events", store.events, hour, 4_000 * day, notes);
    between("store.flow_samples", store.flow_samples, Duration::ZERO, 400 * day, notes);
    between("store.audit", store.audit, hour, 4_000 * day, notes);
    let (least, most) = (Size(16 << 20), Size(1 << 40));
    if !(least..=most).contains(&store.max_size) {
        let message = format!("{} is out of range", store.max_size);
        notes.problem("store.max_size", message, format!("write a size in {least}..={most}"));
    }
}

/// Notes what is wrong with each policy by itself.
pub(super) fn each_policy(policies: &[Policy], notes: &mut Notes) {
    for (index, policy) in policies.iter().enumerate() {
        for problem in validate_policy(policy) {
            notes.problem(&format!("policy[{index}].{}", problem.key), problem.message, problem.remedy);
        }
    }
}

fn policies(config: &Config, notes: &mut Notes) {
    each_policy(&config.policies, notes);
    let zones = config.zones();
    for (index, policy) in config.policies.iter().enumerate() {
        if policy.mode == Mode::Duplicate && config.dataplane.fast_path == FastPath::Off {
            let message = "packets that the stack forwards can't go by two paths";
            let remedy = "set dataplane.fast_path to \"to-tunnel\" or \"both\", or use another mode";
            notes.problem(&format!("policy[{index}].mode"), message, remedy);
        }
        for (alternative, matches) in policy.matches.iter().enumerate() {
            let unknown = matches.zones.iter().find(|zone| !zones.contains(zone));
            if let Some(zone) = unknown {
                let message = format!("no LAN interface is in zone {zone:?}");
                let key = format!("policy[{index}].match[{alternative}].zones");
                notes.problem(&key, message, "give one that zone in [lan] interfaces");
            }
        }
    }
    let twice: BTreeMap<&str, usize> =
        config.policies.iter().enumerate().rev().map(|(index, policy)| (policy.name.as_str(), index)).collect();
    for (index, policy) in config.policies.iter().enumerate() {
        if twice[policy.name.as_str()] != index {
            let message = format!("there are two policies named {:?}", policy.name);
            notes.problem(&format!("policy[{index}].name"), message, "give each a name of its own");
        }
    }
    let all = effective_policies(config.builtin_policies, &config.policies, &[]);
    for (index, problem) in validate_policies(&all, config.dataplane.classes) {
        // A built-in policy can't be at fault: what the file says beside it is.
        let own = index.and_then(|index| {
            let named = config.policies.iter().position(|policy| policy.name == all[index].name);
            named.or_else(|| config.policies.iter().position(|policy| policy.class_name() == all[index].class_name()))
        });
        let key = own.map_or("policy".into(), |own| format!("policy[{own}].{}", problem.key));
        notes.problem(&key, problem.message, problem.remedy);
    }
}

pub(super) fn between(key: &str, value: Duration, least: Duration, most: Duration, notes: &mut Notes) {
    if !(least..=most).contains(&value) {
        let message = format!("{} is out of range", units::Span(value));
        notes.problem(key, message, format!("write a duration in {}..={}", units::Span(least), units::Span(most)));
    }
}

pub(super) fn range(key: &str, value: u32, least: u32, most: u32, notes: &mut Notes) {
    if !(least..=most).contains(&value) {
        notes.problem(key, format!("{value} is out of range"), format!("write a number in {least}..={most}"));
    }
}
