//! The words of the project as types: sites, uplinks, paths. The rest of the crate takes them from here.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// 16 bytes that name a thing, written as 32 hexadecimal digits.
macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let mut bytes = [0; 16];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseIdError { what: $what, text: text.into() })?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                use utoipa::openapi::schema::{Object, Type};
                let text = concat!("A ", $what, ": 32 hexadecimal digits");
                let object = Object::builder().schema_type(Type::String).pattern(Some("^[0-9a-f]{32}$"));
                object.description(Some(text)).into()
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}

/// An identifier that isn't 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: expected 32 hexadecimal digits, as `sdwan site show` prints them")]
pub struct ParseIdError {
    what: &'static str,
    text: String,
}

identifier!(
    /// A mesh: the first 16 bytes of SHA-256 over the authority's public key.
    MeshId,
    "mesh id"
);
identifier!(
    /// A site: the first 16 bytes of SHA-256 over its identity's public key.
    SiteId,
    "site id"
);

/// Index of an uplink within its site, 0..=7; stable per uplink name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct UplinkIndex(u8);

impl UplinkIndex {
    /// Uplinks of one site.
    pub const COUNT: u8 = sdwan_common::abi::MAX_UPLINKS as u8;

    /// `None` when the index is not below [`Self::COUNT`].
    pub const fn new(index: u8) -> Option<Self> {
        if index < Self::COUNT { Some(Self(index)) } else { None }
    }

    /// The number, 0..=7.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for UplinkIndex {
    type Error = String;
    fn try_from(index: u8) -> Result<Self, String> {
        Self::new(index).ok_or_else(|| format!("uplink index {index} is not in 0..=7"))
    }
}

impl From<UplinkIndex> for u8 {
    fn from(index: UplinkIndex) -> u8 {
        index.0
    }
}

impl utoipa::PartialSchema for UplinkIndex {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::schema::{Object, Type};
        let most = Self::COUNT - 1;
        let object = Object::builder().schema_type(Type::Integer).minimum(Some(0)).maximum(Some(most));
        object.description(Some("Index of an uplink within its site")).into()
    }
}

impl utoipa::ToSchema for UplinkIndex {}

impl fmt::Display for UplinkIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A pair of uplinks, hence one WireGuard interface of this site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TunnelKey {
    /// Uplink of this site.
    pub local: UplinkIndex,
    /// Uplink of the remote sites.
    pub remote: UplinkIndex,
}

impl TunnelKey {
    /// Name of the interface: `sdw<a>-<b>`.
    pub fn interface(self) -> String {
        format!("sdw{}-{}", self.local, self.remote)
    }

    /// Number in 0..64: `8 a + b`.
    pub const fn code(self) -> u8 {
        self.local.0 * UplinkIndex::COUNT + self.remote.0
    }

    /// UDP port that this site listens on for this tunnel: `base + 8 a + b`.
    pub const fn listen_port(self, base: u16) -> u16 {
        base.saturating_add(self.code() as u16)
    }

    /// UDP port that a remote site with this base port listens on for the other end: `base + 8 b + a`.
    pub const fn remote_port(self, base: u16) -> u16 {
        base.saturating_add(self.remote.0 as u16 * UplinkIndex::COUNT as u16 + self.local.0 as u16)
    }
}

impl fmt::Display for TunnelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.local, self.remote)
    }
}

/// A path: one way to reach one remote site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PathKey {
    /// The remote site.
    pub site: SiteId,
    /// The uplink pair.
    pub tunnel: TunnelKey,
}

/// One WAN attachment as its site announces it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteUplink {
    /// Index at its site.
    pub index: UplinkIndex,
    /// Name at its site, such as `fibre`.
    pub name: String,
    /// Underlay addresses, IPv4 and IPv6, best first. Empty: the site is behind NAT and dials out itself.
    pub addresses: Vec<IpAddr>,
    /// MTU of the uplink interface, bytes.
    pub mtu: u16,
    /// Declared downstream rate, kbit/s: what others can send to it.
    pub rate_down_kbps: Option<u32>,
}

/// A remote site as its verified announcement describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteSite {
    /// Identity.
    pub id: SiteId,
    /// Name in its certificate.
    pub name: String,
    /// Current WireGuard public key (X25519).
    pub wireguard_key: [u8; 32],
    /// The WireGuard public key that will replace it, announced beforehand.
    pub next_wireguard_key: Option<[u8; 32]>,
    /// Base of its tunnel ports.
    pub base_port: u16,
    /// Its overlay address.
    pub overlay: IpAddr,
    /// LAN prefixes behind it.
    pub prefixes: Vec<IpNet>,
    /// Its uplinks.
    pub uplinks: Vec<RemoteUplink>,
}

impl RemoteSite {
    /// Underlay endpoint of the other end of a tunnel: an address of the remote uplink in the family of the local one.
    pub fn endpoint(&self, tunnel: TunnelKey, local: &[IpAddr]) -> Option<SocketAddr> {
        let uplink = self.uplinks.iter().find(|uplink| uplink.index == tunnel.remote)?;
        let reachable = |address: &&IpAddr| local.iter().any(|own| own.is_ipv4() == address.is_ipv4());
        let address = uplink.addresses.iter().find(reachable)?;
        Some(SocketAddr::new(*address, tunnel.remote_port(self.base_port)))
    }
}

/// State of an uplink of this site, as the network monitor sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalUplink {
    /// Index at this site.
    pub index: UplinkIndex,
    /// Name in the configuration.
    pub name: String,
    /// Interface name.
    pub interface: String,
    /// Interface index, 0 while the interface doesn't exist.
    pub ifindex: u32,
    /// Administratively up and with carrier.
    pub carrier: bool,
    /// Global addresses on the interface, in the kernel's order.
    pub addresses: Vec<IpAddr>,
    /// Gateways, at most one per family.
    pub gateways: Vec<IpAddr>,
    /// MTU of the interface, bytes.
    pub mtu: u16,
    /// Address to announce instead of the interface's own (static NAT), if configured.
    pub public_addresses: Vec<IpAddr>,
    /// Relative cost, 0 is free; for the `cost` preference.
    pub cost: u32,
    /// Declared upstream rate, bit/s.
    pub rate_up: Option<u64>,
    /// Declared downstream rate, bit/s.
    pub rate_down: Option<u64>,
}

/// Bytes that WireGuard and the outer headers add to an inner packet: 8 UDP + 16 header + 16 tag, plus IP.
pub const fn wireguard_overhead(outer: IpAddr) -> u16 {
    overhead(outer.is_ipv6())
}

/// The same by family.
pub const fn overhead(ipv6: bool) -> u16 {
    if ipv6 { 80 } else { 60 }
}
