//! Policies: which packets, and how their path is chosen.

mod builtin;
mod compile;
mod compiled;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use builtin::default_policies;
pub use compile::{ClassSpec, Compilation, CompileError, address_bytes, compile, prefix_key};
pub use compiled::{CompiledRules, contains};

/// A policy: what it matches, and what its class prefers. Policies apply in ascending `priority`; equal priorities in
/// the order of their names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Unique name: 1..=32 of `a-z 0-9 -`.
    pub name: String,
    /// Lower applies first, 0..=65535. The built-in ones have 100, 200, 300 and 65535.
    pub priority: u16,
    /// Alternatives; a packet matches the policy when it matches one of them. Empty: every packet matches.
    #[serde(default, rename = "match", skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<Match>,
    /// Name of the class it assigns; by default the policy's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// What makes a path good for this class.
    #[serde(default)]
    pub preference: Preference,
    /// Bounds that a path should keep.
    #[serde(default, skip_serializing_if = "Sla::is_empty")]
    pub sla: Sla,
    /// One path for all flows, all good ones by weight, or two for each packet.
    #[serde(default)]
    pub mode: Mode,
    /// What a flow does when a better path than its own appears.
    #[serde(default)]
    pub sticky: Sticky,
    /// DSCP to write into the packets, 0..=63; left alone by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp: Option<u8>,
    /// DSCP of the encrypted packets, 0..=63, where `tunnel.outer_dscp` is on; 0 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer_dscp: Option<u8>,
}

impl Policy {
    /// Name of the class that the policy assigns.
    pub fn class_name(&self) -> &str {
        self.class.as_deref().unwrap_or(&self.name)
    }
}

/// One alternative of a policy's match. Empty lists match everything; all lists that are not empty must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// IP protocols: `tcp`, `udp`, `icmp`, `icmpv6`, or a number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<Protocol>,
    /// Source or destination port: what a server's flows match in both directions. Excludes the next two.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRange>,
    /// Source ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ports: Vec<PortRange>,
    /// Destination ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_ports: Vec<PortRange>,
    /// DSCP values or names, such as `ef`, `af41`, `cs1` or `46`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dscp: Vec<Dscp>,
    /// Source prefixes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub sources: Vec<IpNet>,
    /// Destination prefixes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub destinations: Vec<IpNet>,
    /// Names of ingress zones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
}

/// What makes a path good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preference {
    /// Low latency, jitter and loss.
    Latency,
    /// High capacity, low loss.
    Throughput,
    /// Cheap uplinks.
    Cost,
    /// A bit of everything.
    #[default]
    Balanced,
}

/// How a class spreads over its paths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// All flows on the best path; the others are for failover.
    #[default]
    Best,
    /// Flows spread over all good paths by weight.
    Balance,
    /// As `best`, and a copy of each packet by a second path, as disjoint from the first as there is one: a path that
    /// breaks costs no packet. The other end lets the first copy of each pass.
    Duplicate,
}

/// What a flow does when a better path than its own appears.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Sticky {
    /// It moves, once the better path has been better for the hold time.
    #[default]
    UntilBetter,
    /// It stays as long as its own path is usable and within the SLA.
    UntilEnd,
}

/// Optional bounds; a path that keeps them all ranks before one that doesn't.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sla {
    /// Longest smoothed RTT, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// Largest jitter, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter_ms: Option<f64>,
    /// Largest loss, percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_pct: Option<f64>,
    /// Least capacity, Mbit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_mbps: Option<f64>,
    /// Least mean opinion score, 1.0..=4.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mos: Option<f64>,
}

impl Sla {
    /// No bound at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// For people: `latency 150 ms, loss 1 %`; nothing without bounds.
impl fmt::Display for Sla {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bounds = [
            ("latency", self.latency_ms, " ms"),
            ("jitter", self.jitter_ms, " ms"),
            ("loss", self.loss_pct, " %"),
            ("bandwidth", self.bandwidth_mbps, " Mbit/s"),
            ("MOS", self.mos, ""),
        ];
        let known = bounds.iter().filter_map(|(name, bound, unit)| Some(format!("{name} {}{unit}", (*bound)?)));
        f.write_str(&known.collect::<Vec<_>>().join(", "))
    }
}

/// A part of a policy that can't be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a port or range of ports.
    #[error("{0:?} is not a port or range of ports: write a number in 1..=65535 or first-last")]
    Ports(String),
    /// Not a DSCP.
    #[error("{0:?} is not a DSCP: write a number in 0..=63 or a name such as ef, af41 or cs1")]
    Dscp(String),
    /// Not a protocol.
    #[error("{0:?} is not an IP protocol: write tcp, udp, icmp, icmpv6 or a number in 0..=255")]
    Protocol(String),
}

/// A range of ports, 1..=65535, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRange(pub RangeInclusive<u16>);

impl FromStr for PortRange {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError::Ports(text.into());
        let port = |text: &str| text.trim().parse::<u16>().map_err(|_| error());
        let range = match text.split_once('-') {
            Some((first, last)) => port(first)?..=port(last)?,
            None => port(text)?..=port(text)?,
        };
        if range.is_empty() || *range.start() == 0 { Err(error()) } else { Ok(Self(range)) }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.start() == self.0.end() {
            write!(f, "{}", self.0.start())
        } else {
            write!(f, "{}-{}", self.0.start(), self.0.end())
        }
    }
}

/// A DSCP, 0..=63.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dscp(pub u8);

impl Dscp {
    /// Names of the standard code points (RFC 2474, 2597, 3246, 8622).
    const NAMES: [(&'static str, u8); 24] = [
        ("ef", 46),
        ("va", 44),
        ("le", 1),
        ("df", 0),
        ("cs0", 0),
        ("cs1", 8),
        ("cs2", 16),
        ("cs3", 24),
        ("cs4", 32),
        ("cs5", 40),
        ("cs6", 48),
        ("cs7", 56),
        ("af11", 10),
        ("af12", 12),
        ("af13", 14),
        ("af21", 18),
        ("af22", 20),
        ("af23", 22),
        ("af31", 26),
        ("af32", 28),
        ("af33", 30),
        ("af41", 34),
        ("af42", 36),
        ("af43", 38),
    ];
}

impl FromStr for Dscp {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let name = text.to_ascii_lowercase();
        if let Some((_, value)) = Self::NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(Self(*value));
        }
        match name.parse() {
            Ok(value) if value < 64 => Ok(Self(value)),
            _ => Err(ParseError::Dscp(text.into())),
        }
    }
}

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(_, value)| *value == self.0) {
            Some((name, _)) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

/// An IP protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol(pub u8);

impl Protocol {
    const NAMES: [(&'static str, u8); 9] = [
        ("icmp", 1),
        ("tcp", 6),
        ("udp", 17),
        ("dccp", 33),
        ("gre", 47),
        ("esp", 50),
        ("icmpv6", 58),
        ("sctp", 132),
        ("udplite", 136),
    ];
}

impl FromStr for Protocol {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let name = text.to_ascii_lowercase();
        if let Some((_, value)) = Self::NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(Self(*value));
        }
        name.parse().map(Self).map_err(|_| ParseError::Protocol(text.into()))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(_, value)| *value == self.0) {
            Some((name, _)) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

/// Reads a number or a text, writes the text.
macro_rules! serde_as_text {
    ($($type:ty: $text:literal,)*) => { $(
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(Deserialize)]
                #[serde(untagged)]
                enum Raw { Number(u32), Text(String) }
                let text = match Raw::deserialize(deserializer)? {
                    Raw::Number(number) => number.to_string(),
                    Raw::Text(text) => text,
                };
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl utoipa::PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                use utoipa::openapi::schema::{Object, OneOf, Type};
                let text = Object::builder().schema_type(Type::String).description(Some($text));
                let number = Object::builder().schema_type(Type::Integer).minimum(Some(0));
                OneOf::builder().item(text).item(number).into()
            }
        }

        impl utoipa::ToSchema for $type {}
    )* };
}

serde_as_text! {
    PortRange: "A port, or a range of them such as `9000-9099`; answers have a text",
    Dscp: "A value, 0 to 63, or a name such as `ef`, `af41`, `cs1`; answers have a text",
    Protocol: "`tcp`, `udp`, `icmp`, `icmpv6`, or a number, 0 to 255; answers have a text",
}
