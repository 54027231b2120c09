//! The configuration: defaults, under the TOML file, under the command line's options.
//!
//! [`load`] reads everything, validates it as a whole, and either returns a [`Config`] that is right or a
//! [`ConfigError`] that shows every problem with its file, line, column and key. `docs/sdwan.toml` documents every key
//! and its default; a test holds it equal to [`Config::default`].

mod api;
mod dashboard;
mod early;
mod metrics;
mod options;
mod policies;
mod problem;
mod profile;
mod read;
mod reader;
pub mod stamp;
#[cfg(test)]
mod tests;
pub mod units;
mod validate;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use sdwan_common::abi::capacity;
use serde::Serialize;

use crate::dataplane::early::DropRule;
use crate::engine::policy::Policy;
use crate::engine::settings::Settings;
use crate::engine::types::{SiteId, UplinkIndex};

pub use api::{ApiConfig, ApiUser};
pub use dashboard::DashboardConfig;
pub use early::{GuardConfig, XdpConfig};
pub use metrics::MetricsConfig;
pub(crate) use options::from_here;
pub use options::{LanOption, Options, UplinkOption};
pub use policies::{
    Inadmissible, PolicyProblem, admit_policies, compile_with, effective_policies, is_name, rule_count, taken,
    validate_policies, validate_policy,
};
pub use problem::{ConfigError, Origin, Problem, Problems};
pub use profile::ProbeProfile;
pub use read::uplink_name;
pub use stamp::StampConfig;
use units::{Rate, Size, duration};

/// The file that is read when `--config` doesn't name one.
pub const DEFAULT_FILE: &str = "/etc/sdwan/sdwan.toml";
/// Every key with its default and its meaning.
pub const DOCUMENTED_DEFAULTS: &str = include_str!("../../../docs/sdwan.toml");

/// A complete and valid configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// Whether the four default policies apply. A policy of the operator's with the name of one replaces it.
    pub builtin_policies: bool,
    /// `[site]`.
    pub site: SiteConfig,
    /// `[[uplink]]`; empty: one uplink per interface that carries a default route.
    #[serde(rename = "uplink", skip_serializing_if = "Vec::is_empty")]
    pub uplinks: Vec<UplinkConfig>,
    /// `[lan]`.
    pub lan: LanConfig,
    /// `[tunnel]`.
    pub tunnel: TunnelConfig,
    /// `[discovery]`.
    pub discovery: DiscoveryConfig,
    /// `[probe]`.
    pub probe: ProbeConfig,
    /// `[mtu]`.
    pub mtu: MtuConfig,
    /// `[capacity]`.
    pub capacity: CapacityConfig,
    /// `[dataplane]`.
    pub dataplane: DataplaneConfig,
    /// `[xdp]`.
    pub xdp: XdpConfig,
    /// `[guard]`.
    pub guard: GuardConfig,
    /// `[engine]`.
    pub engine: EngineConfig,
    /// `[log]`.
    pub log: LogConfig,
    /// `[store]`.
    pub store: StoreConfig,
    /// `[stamp]`.
    pub stamp: StampConfig,
    /// `[metrics]`.
    pub metrics: MetricsConfig,
    /// `[api]`.
    pub api: ApiConfig,
    /// `[dashboard]`.
    pub dashboard: DashboardConfig,
    /// `[[drop]]`.
    #[serde(rename = "drop", skip_serializing_if = "Vec::is_empty")]
    pub drops: Vec<DropRule>,
    /// `[[policy]]`: the file's own; see [`effective_policies`] for all that apply.
    #[serde(rename = "policy", skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Policy>,
}

/// `[site]`: who this gateway is and where it keeps its things.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SiteConfig {
    /// Name of the site; by default the one in its certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The identity in the state directory must have this id, or the daemon doesn't start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<SiteId>,
    /// LAN prefixes to announce; empty: those that the certificate allows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<IpNet>,
    /// Directory of the keys, the certificate and the lock.
    pub state_dir: PathBuf,
    /// SQLite database.
    pub database: PathBuf,
    /// Unix socket of the local API.
    pub socket: PathBuf,
    /// File that one daemon at a time holds locked.
    pub lock: PathBuf,
}

/// `[[uplink]]`: one WAN attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UplinkConfig {
    /// Name, such as `fibre`.
    pub name: String,
    /// Interface name.
    pub interface: String,
    /// Index, 0..=7. `None`: the store gives the name one that it keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<UplinkIndex>,
    /// Gateways, at most one per family; empty: those of the interface's default routes.
    #[serde(rename = "gateway", skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// Addresses to announce instead of the interface's own (static NAT), at most one per family.
    #[serde(rename = "public_address", skip_serializing_if = "Vec::is_empty")]
    pub public_addresses: Vec<IpAddr>,
    /// Relative cost, 0 is free; for the `cost` preference.
    pub cost: u32,
    /// Declared upstream rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_up: Option<Rate>,
    /// Declared downstream rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_down: Option<Rate>,
    /// Bytes cost money: no capacity tests, slow probes.
    pub metered: bool,
}

/// `[lan]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LanConfig {
    /// LAN ingresses; empty: every interface with an address inside the site's prefixes that is no uplink.
    pub interfaces: Vec<LanInterface>,
}

/// One LAN ingress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LanInterface {
    /// Interface name.
    pub name: String,
    /// Outer VLAN id, 1..=4094; `None`: untagged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Zone that policies match on.
    pub zone: String,
}

impl LanInterface {
    /// Zone of an interface for which none is given.
    pub const DEFAULT_ZONE: &str = "lan";
}

/// `[tunnel]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TunnelConfig {
    /// Base UDP port; the tunnels listen on it and the 63 above it.
    pub listen_port: u16,
    /// Which WireGuard carries the tunnels.
    pub backend: TunnelBackend,
    /// MTU of the tunnel interfaces, bytes; `None`: the uplink's less the overhead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Encrypted packets get the `outer_dscp` of their class. Needs the kernel's WireGuard.
    pub outer_dscp: bool,
}

/// Which WireGuard carries the tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelBackend {
    /// The kernel's where there is one, else the one that the binary carries.
    Auto,
    /// The kernel's.
    Kernel,
    /// The one that the binary carries.
    Userspace,
}

/// `[discovery]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiscoveryConfig {
    /// Group that announcements are sent to and received from.
    pub multicast_group: IpAddr,
    /// UDP port of announcements, multicast and unicast.
    pub port: u16,
    /// Interfaces that take part in multicast; `None`: all uplinks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast_interfaces: Option<Vec<String>>,
    /// Hosts that announcements are also sent to.
    pub seeds: Vec<Seed>,
    /// Time between announcements when nothing changes.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// A site whose announcements stop for this long is inactive.
    #[serde(with = "duration")]
    pub inactive_after: Duration,
}

/// A host that announcements are sent to: an address or a name, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// Address or DNS name.
    pub host: String,
    /// UDP port; `None`: `discovery.port`.
    pub port: Option<u16>,
}

/// `[probe]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProbeConfig {
    /// What `interval` and `missed` are where they aren't set.
    pub profile: ProbeProfile,
    /// Time between probes on the paths to a site with live traffic, while the budget lasts.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// Time between probes on the paths to other sites, while the budget lasts.
    #[serde(with = "duration")]
    pub idle_interval: Duration,
    /// Probes without an answer after which a path is down.
    pub missed: u32,
    /// Most probes per second over all paths; the pace slows when they are too many.
    pub budget_pps: u32,
}

/// `[mtu]`: the search for the MTU of each path. [`crate::engine::mtu::Settings`] is the home of the defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MtuConfig {
    /// Off: paths have the MTU of their interfaces; the probes of others are answered all the same.
    pub enabled: bool,
    /// How often the size in use is confirmed.
    #[serde(with = "duration")]
    pub confirm: Duration,
    /// How often a larger size is tried.
    #[serde(with = "duration")]
    pub raise: Duration,
    /// Most probes per second over all paths.
    pub budget_pps: u32,
}

/// `[capacity]`: how paths' capacities are measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CapacityConfig {
    /// Paths are measured unasked, and peers may measure.
    pub enabled: bool,
    /// Time between measurements of a path.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// Percent of the bytes that a path could carry in that time that a measurement may use, 0.1..=10.
    pub share_pct: f64,
    /// By how much a measurement may delay other packets.
    #[serde(with = "duration")]
    pub most_delay: Duration,
    /// Metered uplinks are measured as well.
    pub metered: bool,
}

/// `[dataplane]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DataplaneConfig {
    /// How much of the forwarding passes by the stack and its firewall.
    pub fast_path: FastPath,
    /// Entries of the flow table.
    pub flows: u32,
    /// Most sites.
    pub sites: u32,
    /// Most classes.
    pub classes: u32,
    /// Most paths.
    pub paths: u32,
    /// Most prefixes, all sites together.
    pub prefixes: u32,
    /// Directory of the pinned maps and links, on a BPF file system.
    pub bpffs: PathBuf,
    /// One new flow in this many is told to the daemon; a power of two, 0 for none.
    pub flow_sampling: u32,
    /// Most events that the programs tell the daemon, per CPU and second.
    pub events_per_second: u32,
    /// Most measurements of TCP's round-trip time per path and second; 0 for none.
    pub tcp_rtt_per_second: u32,
}

impl DataplaneConfig {
    /// Mask for [`sdwan_common::abi::Config::flow_event_mask`]; `None` when no new flow is to be told.
    pub fn flow_event_mask(&self) -> Option<u32> {
        self.flow_sampling.checked_sub(1)
    }
}

/// How much of the forwarding passes by the stack and its firewall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FastPath {
    /// LAN → tunnel and tunnel → LAN.
    Both,
    /// LAN → tunnel only.
    ToTunnel,
    /// Packets are only marked; the stack forwards them.
    Off,
}

impl FastPath {
    /// Value in the data path's configuration record.
    pub const fn code(self) -> u8 {
        match self {
            Self::Both => sdwan_common::abi::fast_path::BOTH,
            Self::ToTunnel => sdwan_common::abi::fast_path::TO_TUNNEL,
            Self::Off => sdwan_common::abi::fast_path::OFF,
        }
    }
}

/// `[engine]`: how quickly decisions follow measurements. [`Settings`] says more, and is the home of the defaults.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EngineConfig {
    /// Span of the sliding loss window.
    #[serde(with = "duration")]
    pub loss_window: Duration,
    /// Answers in a row after which a path that never was up comes up.
    pub first_answers: u32,
    /// How long a path that was down must answer before flows return to it.
    #[serde(with = "duration")]
    pub hold_down: Duration,
    /// Longest hold of a path that flaps.
    #[serde(with = "duration")]
    pub hold_down_max: Duration,
    /// Time in which the penalty of a path that flaps halves.
    #[serde(with = "duration")]
    pub damping_half_life: Duration,
    /// Points by which another path's score must be better before a class moves, 0..=100.
    pub switch_margin: f64,
    /// How long it must have been better.
    #[serde(with = "duration")]
    pub switch_hold: Duration,
    /// How long a path must break its class's SLA, or be degraded, before the class leaves it.
    #[serde(with = "duration")]
    pub violation_hold: Duration,
    /// How often the paths of a site are rated when nothing urgent happens.
    #[serde(with = "duration")]
    pub rate_interval: Duration,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,sdwan::tunnel=debug`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// `[store]`: how long history is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoreConfig {
    /// Path metrics as they were recorded.
    #[serde(with = "duration")]
    pub raw_metrics: Duration,
    /// Path metrics by the minute.
    #[serde(with = "duration")]
    pub minute_metrics: Duration,
    /// Path metrics by the hour.
    #[serde(with = "duration")]
    pub hour_metrics: Duration,
    /// Events.
    #[serde(with = "duration")]
    pub events: Duration,
    /// Samples of flows.
    #[serde(with = "duration")]
    pub flow_samples: Duration,
    /// Who changed what.
    #[serde(with = "duration")]
    pub audit: Duration,
    /// Largest size of the database; beyond it the oldest history goes first.
    pub max_size: Size,
}

impl Default for Config {
    fn default() -> Self {
        let settings = Settings::default();
        let mtu = crate::engine::mtu::Settings::default();
        Self {
            builtin_policies: true,
            site: SiteConfig::in_directory(Path::new("/var/lib/sdwan")),
            uplinks: Vec::new(),
            lan: LanConfig::default(),
            tunnel: TunnelConfig { listen_port: 51820, backend: TunnelBackend::Auto, mtu: None, outer_dscp: false },
            discovery: DiscoveryConfig {
                multicast_group: IpAddr::from([239, 255, 42, 1]),
                port: crate::discovery::PORT,
                multicast_interfaces: None,
                seeds: Vec::new(),
                interval: Duration::from_secs(30),
                inactive_after: Duration::from_secs(120),
            },
            probe: ProbeConfig {
                profile: ProbeProfile::Default,
                interval: settings.probe_interval,
                idle_interval: settings.idle_interval,
                missed: settings.missed,
                budget_pps: settings.probe_budget,
            },
            mtu: MtuConfig { enabled: true, confirm: mtu.confirm, raise: mtu.raise, budget_pps: mtu.budget },
            capacity: CapacityConfig {
                enabled: true,
                interval: Duration::from_secs(60),
                share_pct: 1.0,
                most_delay: Duration::from_millis(30),
                metered: false,
            },
            dataplane: DataplaneConfig {
                fast_path: FastPath::Both,
                flows: capacity::FLOWS,
                sites: capacity::SITES,
                classes: capacity::CLASSES,
                paths: capacity::PATHS,
                prefixes: capacity::PREFIXES,
                bpffs: PathBuf::from("/sys/fs/bpf/sdwan"),
                flow_sampling: 64,
                events_per_second: 1_000,
                tcp_rtt_per_second: 10,
            },
            engine: EngineConfig {
                loss_window: settings.loss_window,
                first_answers: settings.first_answers,
                hold_down: settings.hold_down,
                hold_down_max: settings.hold_down_max,
                damping_half_life: settings.damping_half_life,
                switch_margin: settings.switch_margin,
                switch_hold: settings.switch_hold,
                violation_hold: settings.violation_hold,
                rate_interval: settings.rate_interval,
            },
            log: LogConfig { level: "info".into(), format: LogFormat::Text },
            store: StoreConfig {
                raw_metrics: Duration::from_secs(6 * 3_600),
                minute_metrics: Duration::from_secs(14 * 86_400),
                hour_metrics: Duration::from_secs(400 * 86_400),
                events: Duration::from_secs(90 * 86_400),
                flow_samples: Duration::from_secs(2 * 86_400),
                audit: Duration::from_secs(400 * 86_400),
                max_size: Size(1 << 30),
            },
            xdp: XdpConfig::default(),
            guard: GuardConfig::default(),
            stamp: StampConfig::default(),
            metrics: MetricsConfig::default(),
            api: ApiConfig::default(),
            dashboard: DashboardConfig::default(),
            drops: Vec::new(),
            policies: Vec::new(),
        }
    }
}

impl SiteConfig {
    /// What follows from the state directory when nothing else is set.
    fn in_directory(state_dir: &Path) -> Self {
        Self {
            name: None,
            id: None,
            prefixes: Vec::new(),
            state_dir: state_dir.into(),
            database: state_dir.join("sdwan.db"),
            socket: PathBuf::from("/run/sdwan/sdwan.sock"),
            lock: state_dir.join("lock"),
        }
    }
}

impl Config {
    /// Whether bytes on the uplink of this name cost money.
    pub fn is_metered(&self, uplink: &str) -> bool {
        self.uplinks.iter().any(|configured| configured.name == uplink && configured.metered)
    }

    /// What the engine is tuned with.
    pub fn engine_settings(&self) -> Settings {
        Settings {
            probe_interval: self.probe.interval,
            idle_interval: self.probe.idle_interval,
            active_hold: Settings::default().active_hold,
            missed: self.probe.missed,
            probe_budget: self.probe.budget_pps,
            dead_interval: Settings::default().dead_interval,
            loss_window: self.engine.loss_window,
            first_answers: self.engine.first_answers,
            hold_down: self.engine.hold_down,
            hold_down_max: self.engine.hold_down_max,
            damping_half_life: self.engine.damping_half_life,
            switch_margin: self.engine.switch_margin,
            switch_hold: self.engine.switch_hold,
            violation_hold: self.engine.violation_hold,
            rate_interval: self.engine.rate_interval,
        }
    }

    /// Pace of the searches for path MTUs.
    pub fn mtu_settings(&self) -> crate::engine::mtu::Settings {
        crate::engine::mtu::Settings { confirm: self.mtu.confirm, raise: self.mtu.raise, budget: self.mtu.budget_pps }
    }

    /// Names of the zones by number, in the order of `lan.interfaces`; only `lan` when no interface is listed.
    pub fn zones(&self) -> Vec<String> {
        let mut zones: Vec<String> = Vec::new();
        for interface in &self.lan.interfaces {
            if !zones.contains(&interface.zone) {
                zones.push(interface.zone.clone());
            }
        }
        if zones.is_empty() {
            zones.push(LanInterface::DEFAULT_ZONE.into());
        }
        zones
    }

    /// The configuration as TOML, with every value that applies: what `sdwan config show` prints.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every value of a configuration can be written as TOML")
    }
}

/// Reads the file that `options` name (or [`DEFAULT_FILE`], where it exists), puts the options over it and validates
/// everything together.
pub fn load(options: &Options) -> Result<Config, ConfigError> {
    let path = options.config.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    match std::fs::read_to_string(&path) {
        Ok(text) => parse(Some(&path), &text, options),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && options.config.is_none() => {
            parse(None, "", options)
        }
        Err(error) => Err(ConfigError::Read {
            path,
            remedy: match error.kind() {
                std::io::ErrorKind::NotFound => {
                    "Check the name, or print one to start from with `sdwan config defaults`"
                }
                std::io::ErrorKind::PermissionDenied => "Run as root, or make it readable",
                std::io::ErrorKind::InvalidData => "Save it as UTF-8",
                _ => "Check the file",
            },
            reason: error.to_string(),
        }),
    }
}

/// The same for a text; `path` is what errors call it.
pub fn parse(path: Option<&Path>, text: &str, options: &Options) -> Result<Config, ConfigError> {
    let (config, mut notes) = read::read(text, options);
    validate::validate(&config, &mut notes);
    finish(path, text, notes).map(|()| config)
}

/// Reads a text that holds `[[policy]]` tables and nothing else.
pub fn parse_policies(path: &Path, text: &str) -> Result<Vec<Policy>, ConfigError> {
    let (policies, notes) = read::read_policies(text);
    finish(Some(path), text, notes).map(|()| policies)
}

fn finish(path: Option<&Path>, text: &str, mut notes: reader::Notes) -> Result<(), ConfigError> {
    if notes.problems.is_empty() {
        return Ok(());
    }
    notes.problems.sort_by_key(|problem| match &problem.origin {
        Origin::Option(_) => (0, 0),
        Origin::File(span) => (1, span.start),
        Origin::Default => (2, 0),
    });
    notes.problems.dedup();
    Err(ConfigError::Invalid(Problems { path: path.map(Into::into), text: text.into(), problems: notes.problems }))
}
