//! Document and options → values. What is wrong is noted and the default put in its place, so that reading goes on.

use toml::de::{DeTable, DeValue};

use super::options::Options;
use super::problem::{Origin, Problem};
use super::reader::{Notes, Section, deserialize};
use super::units::Span;
use super::*;

/// Reads a document and puts the options over it.
pub(super) fn read(text: &str, options: &Options) -> (Config, Notes) {
    let mut notes = Notes::default();
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        note_syntax_errors(&mut notes, errors);
        return (Config::default(), notes);
    }
    let mut config = Config::default();
    let notes_ref = &mut notes;
    let mut root = Section::root(document);
    set(&mut config.builtin_policies, root.take(notes_ref, "builtin_policies", "true or false"));
    site(&mut config.site, root.section(notes_ref, "site"), options, notes_ref);
    config.uplinks = root.sections(notes_ref, "uplink").into_iter().filter_map(|s| uplink(s, notes_ref)).collect();
    lan(&mut config.lan, root.section(notes_ref, "lan"), notes_ref);
    tunnel(&mut config.tunnel, root.section(notes_ref, "tunnel"), notes_ref);
    discovery(&mut config.discovery, root.section(notes_ref, "discovery"), notes_ref);
    probe(&mut config.probe, root.section(notes_ref, "probe"), notes_ref);
    mtu(&mut config.mtu, root.section(notes_ref, "mtu"), notes_ref);
    capacity(&mut config.capacity, root.section(notes_ref, "capacity"), notes_ref);
    dataplane(&mut config.dataplane, root.section(notes_ref, "dataplane"), notes_ref);
    early::read_xdp(&mut config.xdp, root.section(notes_ref, "xdp"), notes_ref);
    early::read_guard(&mut config.guard, root.section(notes_ref, "guard"), notes_ref);
    config.drops = root.list(notes_ref, "drop", "a table");
    engine(&mut config.engine, root.section(notes_ref, "engine"), notes_ref);
    log(&mut config.log, root.section(notes_ref, "log"), notes_ref);
    store(&mut config.store, root.section(notes_ref, "store"), notes_ref);
    stamp::read(&mut config.stamp, root.section(notes_ref, "stamp"), notes_ref);
    metrics::read(&mut config.metrics, root.section(notes_ref, "metrics"), notes_ref);
    api::read(&mut config.api, root.section(notes_ref, "api"), notes_ref);
    dashboard::read(&mut config.dashboard, root.section(notes_ref, "dashboard"), notes_ref);
    config.policies = root.list(notes_ref, "policy", "a table");
    root.finish(notes_ref);
    apply(&mut config, options, notes_ref);
    (config, notes)
}

/// Reads a document that holds `[[policy]]` tables and nothing else.
pub(super) fn read_policies(text: &str) -> (Vec<Policy>, Notes) {
    let mut notes = Notes::default();
    let (document, errors) = DeTable::parse_recoverable(text);
    note_syntax_errors(&mut notes, errors);
    let mut policies = Vec::new();
    if notes.problems.is_empty() {
        let mut root = Section::root(document);
        policies = root.list(&mut notes, "policy", "a table");
        root.finish(&mut notes);
        validate::each_policy(&policies, &mut notes);
    }
    (policies, notes)
}

fn note_syntax_errors(notes: &mut Notes, errors: Vec<toml::de::Error>) {
    notes.problems.extend(errors.into_iter().map(|error| Problem {
        key: String::new(),
        origin: error.span().map_or(Origin::Default, Origin::File),
        message: format!("not TOML: {}", error.message()),
        remedy: None,
    }));
}

pub(super) fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn span(place: &mut Duration, section: &mut Section<'_>, notes: &mut Notes, key: &'static str) {
    set(place, section.take::<Span>(notes, key, "a duration such as \"50ms\"").map(|span| span.0));
}

fn number(place: &mut u32, section: &mut Section<'_>, notes: &mut Notes, key: &'static str) {
    set(place, section.take(notes, key, "a whole number"));
}

fn site(site: &mut SiteConfig, mut section: Section<'_>, options: &Options, notes: &mut Notes) {
    // The state directory comes first: other defaults follow from it.
    let state_dir = section.take(notes, "state_dir", "a path");
    if let Some(directory) = options.state_dir.clone().or(state_dir) {
        *site = SiteConfig::in_directory(&directory);
    }
    site.name = section.take(notes, "name", "a name in quotes");
    site.id = section.take(notes, "id", "32 hexadecimal digits in quotes");
    site.prefixes = section.list(notes, "prefixes", "a prefix such as \"10.1.0.0/24\"");
    set(&mut site.database, section.take(notes, "database", "a path"));
    set(&mut site.socket, section.take(notes, "socket", "a path"));
    set(&mut site.lock, section.take(notes, "lock", "a path"));
    section.finish(notes);
}

fn uplink(mut section: Section<'_>, notes: &mut Notes) -> Option<UplinkConfig> {
    let name: Option<String> = section.take(notes, "name", "a name in quotes");
    let interface: Option<String> = section.take(notes, "interface", "an interface name in quotes");
    let addresses = "an address in quotes, or a list of them";
    let uplink = UplinkConfig {
        name: name.clone().unwrap_or_default(),
        interface: interface.clone().unwrap_or_default(),
        index: section.take(notes, "index", "a number in 0..=7"),
        gateways: section.one_or_more(notes, "gateway", addresses),
        public_addresses: section.one_or_more(notes, "public_address", addresses),
        cost: section.take(notes, "cost", "a whole number").unwrap_or(0),
        rate_up: section.take(notes, "rate_up", "a rate such as \"100mbit\""),
        rate_down: section.take(notes, "rate_down", "a rate such as \"100mbit\""),
        metered: section.take(notes, "metered", "true or false").unwrap_or(false),
    };
    for (key, missing, example) in
        [("name", name.is_none(), "name = \"fibre\""), ("interface", interface.is_none(), "interface = \"eth0\"")]
    {
        let key = section.key(key);
        if missing && !notes.origins.contains_key(&key) {
            notes.problem(&key, "this uplink has none", format!("add {example}"));
        }
    }
    section.finish(notes);
    (name.is_some() && interface.is_some()).then_some(uplink)
}

fn lan(lan: &mut LanConfig, mut section: Section<'_>, notes: &mut Notes) {
    for (path, element) in section.elements(notes, "interfaces") {
        let expected = "an interface name in quotes, or { name = \"eth1\", vlan = 10, zone = \"lan\" }";
        let interface = match Section::from_element(path.clone(), element) {
            Ok(mut section) => {
                let name: Option<String> = section.take(notes, "name", "an interface name in quotes");
                let vlan = section.take(notes, "vlan", "a VLAN id in 1..=4094");
                let zone = section.take(notes, "zone", "a name in quotes");
                section.finish(notes);
                if name.is_none() && !notes.origins.contains_key(&format!("{path}.name")) {
                    notes.problem(&path, "this LAN interface has no name", "add name = \"eth1\"");
                }
                name.map(|name| (name, vlan, zone))
            }
            Err(element) if matches!(element.get_ref(), DeValue::String(_)) => {
                deserialize(notes, &path, element, expected).map(|name| (name, None, None))
            }
            Err(element) => {
                let message = format!("expected {expected}, found {}", element.get_ref().type_str());
                notes.problem(&path, message, "");
                None
            }
        };
        lan.interfaces.extend(interface.map(|(name, vlan, zone)| LanInterface {
            name,
            vlan,
            zone: zone.unwrap_or_else(|| LanInterface::DEFAULT_ZONE.into()),
        }));
    }
    section.finish(notes);
}

fn tunnel(tunnel: &mut TunnelConfig, mut section: Section<'_>, notes: &mut Notes) {
    set(&mut tunnel.listen_port, section.take(notes, "listen_port", "a port in 1..=65472"));
    set(&mut tunnel.backend, section.take(notes, "backend", "\"auto\", \"kernel\" or \"userspace\""));
    tunnel.mtu = section.take(notes, "mtu", "a number of bytes");
    set(&mut tunnel.outer_dscp, section.take(notes, "outer_dscp", "true or false"));
    section.finish(notes);
}

fn discovery(discovery: &mut DiscoveryConfig, mut section: Section<'_>, notes: &mut Notes) {
    set(&mut discovery.multicast_group, section.take(notes, "multicast_group", "a multicast address in quotes"));
    set(&mut discovery.port, section.take(notes, "port", "a port in 1..=65535"));
    discovery.multicast_interfaces = section.take(notes, "multicast_interfaces", "a list of interface names");
    discovery.seeds = section.list(notes, "seeds", "a host such as \"hq.example.net\"");
    span(&mut discovery.interval, &mut section, notes, "interval");
    span(&mut discovery.inactive_after, &mut section, notes, "inactive_after");
    section.finish(notes);
}

fn probe(probe: &mut ProbeConfig, mut section: Section<'_>, notes: &mut Notes) {
    if let Some(profile) = section.take::<ProbeProfile>(notes, "profile", "\"default\" or \"fast\"") {
        *probe = ProbeConfig { profile, interval: profile.interval(), missed: profile.missed(), ..*probe };
    }
    span(&mut probe.interval, &mut section, notes, "interval");
    span(&mut probe.idle_interval, &mut section, notes, "idle_interval");
    number(&mut probe.missed, &mut section, notes, "missed");
    number(&mut probe.budget_pps, &mut section, notes, "budget_pps");
    section.finish(notes);
}

fn mtu(mtu: &mut MtuConfig, mut section: Section<'_>, notes: &mut Notes) {
    set(&mut mtu.enabled, section.take(notes, "enabled", "true or false"));
    span(&mut mtu.confirm, &mut section, notes, "confirm");
    span(&mut mtu.raise, &mut section, notes, "raise");
    number(&mut mtu.budget_pps, &mut section, notes, "budget_pps");
    section.finish(notes);
}

fn capacity(capacity: &mut CapacityConfig, mut section: Section<'_>, notes: &mut Notes) {
    set(&mut capacity.enabled, section.take(notes, "enabled", "true or false"));
    span(&mut capacity.interval, &mut section, notes, "interval");
    set(&mut capacity.share_pct, section.take(notes, "share_pct", "a number in 0.1..=10"));
    span(&mut capacity.most_delay, &mut section, notes, "most_delay");
    set(&mut capacity.metered, section.take(notes, "metered", "true or false"));
    section.finish(notes);
}

fn dataplane(dataplane: &mut DataplaneConfig, mut section: Section<'_>, notes: &mut Notes) {
    set(&mut dataplane.fast_path, section.take(notes, "fast_path", "\"both\", \"to-tunnel\" or \"off\""));
    number(&mut dataplane.flows, &mut section, notes, "flows");
    number(&mut dataplane.sites, &mut section, notes, "sites");
    number(&mut dataplane.classes, &mut section, notes, "classes");
    number(&mut dataplane.paths, &mut section, notes, "paths");
    number(&mut dataplane.prefixes, &mut section, notes, "prefixes");
    set(&mut dataplane.bpffs, section.take(notes, "bpffs", "a path"));
    number(&mut dataplane.flow_sampling, &mut section, notes, "flow_sampling");
    number(&mut dataplane.events_per_second, &mut section, notes, "events_per_second");
    number(&mut dataplane.tcp_rtt_per_second, &mut section, notes, "tcp_rtt_per_second");
    section.finish(notes);
}

fn engine(engine: &mut EngineConfig, mut section: Section<'_>, notes: &mut Notes) {
    span(&mut engine.loss_window, &mut section, notes, "loss_window");
    number(&mut engine.first_answers, &mut section, notes, "first_answers");
    span(&mut engine.hold_down, &mut section, notes, "hold_down");
    span(&mut engine.hold_down_max, &mut section, notes, "hold_down_max");
    span(&mut engine.damping_half_life, &mut section, notes, "damping_half_life");
    set(&mut engine.switch_margin, section.take(notes, "switch_margin", "a number in 0..=100"));
    span(&mut engine.switch_hold, &mut section, notes, "switch_hold");
    span(&mut engine.violation_hold, &mut section, notes, "violation_hold");
    span(&mut engine.rate_interval, &mut section, notes, "rate_interval");
    section.finish(notes);
}

fn log(log: &mut LogConfig, mut section: Section<'_>, notes: &mut Notes) {
    set(&mut log.level, section.take(notes, "level", "a level in quotes"));
    set(&mut log.format, section.take(notes, "format", "\"text\" or \"json\""));
    section.finish(notes);
}

fn store(store: &mut StoreConfig, mut section: Section<'_>, notes: &mut Notes) {
    span(&mut store.raw_metrics, &mut section, notes, "raw_metrics");
    span(&mut store.minute_metrics, &mut section, notes, "minute_metrics");
    span(&mut store.hour_metrics, &mut section, notes, "hour_metrics");
    span(&mut store.events, &mut section, notes, "events");
    span(&mut store.flow_samples, &mut section, notes, "flow_samples");
    span(&mut store.audit, &mut section, notes, "audit");
    set(&mut store.max_size, section.take(notes, "max_size", "a size such as \"512mib\""));
    section.finish(notes);
}

/// Puts the options over the file, and remembers which values are theirs.
fn apply(config: &mut Config, options: &Options, notes: &mut Notes) {
    let mut note = |key: &str, option: &'static str| {
        notes.origins.retain(|known, _| !known.starts_with(key));
        notes.origins.insert(key.into(), Origin::Option(option));
    };
    macro_rules! over {
        ($($value:expr => $place:expr, $key:literal, $option:literal;)*) => { $(
            if let Some(value) = $value.clone() {
                $place = value.into();
                note($key, $option);
            }
        )* };
    }
    over! {
        options.site_name.clone().map(Some) => config.site.name, "site.name", "--site-name";
        options.site_id.map(Some) => config.site.id, "site.id", "--site-id";
        options.database => config.site.database, "site.database", "--database";
        options.socket => config.site.socket, "site.socket", "--socket";
        options.listen_port => config.tunnel.listen_port, "tunnel.listen_port", "--listen-port";
        options.multicast_group => config.discovery.multicast_group, "discovery.multicast_group", "--multicast-group";
    }
    if options.state_dir.is_some() {
        note("site.state_dir", "--state-dir");
    }
    if !options.prefix.is_empty() {
        config.site.prefixes = options.prefix.clone();
        note("site.prefixes", "--prefix");
    }
    if !options.interface.is_empty() {
        config.uplinks = options.interface.iter().map(|option| by_option(&config.uplinks, option)).collect();
        note("uplink", "--interface");
    }
    if !options.lan.is_empty() {
        config.lan.interfaces = options
            .lan
            .iter()
            .map(|lan| LanInterface { name: lan.interface.clone(), vlan: None, zone: lan.zone.clone() })
            .collect();
        note("lan.interfaces", "--lan");
    }
    if !options.seed.is_empty() {
        config.discovery.seeds = options.seed.clone();
        note("discovery.seeds", "--seed");
    }
}

/// The file's uplink of this interface, under the option's name if it gives one; else a new one.
fn by_option(configured: &[UplinkConfig], option: &UplinkOption) -> UplinkConfig {
    match configured.iter().find(|uplink| uplink.interface == option.interface) {
        Some(uplink) => {
            UplinkConfig { name: option.name.clone().unwrap_or_else(|| uplink.name.clone()), ..uplink.clone() }
        }
        None => UplinkConfig {
            name: option.name.clone().unwrap_or_else(|| uplink_name(&option.interface)),
            interface: option.interface.clone(),
            index: None,
            gateways: Vec::new(),
            public_addresses: Vec::new(),
            cost: 0,
            rate_up: None,
            rate_down: None,
            metered: false,
        },
    }
}

/// An interface name as the name of an uplink: `eth0.10` → `eth0-10`.
pub fn uplink_name(interface: &str) -> String {
    interface.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}
