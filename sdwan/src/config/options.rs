//! Command-line options that stand over the configuration file.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;

use super::{LanInterface, Seed};
use crate::engine::types::SiteId;

/// Options of `sdwan run` (and `check`, `config show`) that stand over the configuration file.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Options {
    /// Configuration file; the global option `--config`.
    #[arg(skip)]
    pub config: Option<PathBuf>,
    /// Name of this site [default: the one in its certificate]
    #[arg(long, value_name = "NAME")]
    pub site_name: Option<String>,
    /// Refuse to start unless the identity in the state directory has this id
    #[arg(long, value_name = "ID")]
    pub site_id: Option<SiteId>,
    /// LAN prefix to announce; repeat for more [default: all that the certificate allows]
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Vec<IpNet>,
    /// Directory of the keys and the certificate [default: /var/lib/sdwan]
    #[arg(long, value_name = "DIR", value_parser = from_here)]
    pub state_dir: Option<PathBuf>,
    /// SQLite database [default: sdwan.db in the state directory]
    #[arg(long, value_name = "FILE", value_parser = from_here)]
    pub database: Option<PathBuf>,
    /// Uplink, as [NAME=]INTERFACE; repeat for more [default: the interfaces with a default route]
    #[arg(long, value_name = "[NAME=]IFACE")]
    pub interface: Vec<UplinkOption>,
    /// LAN interface, as [ZONE=]INTERFACE; repeat for more
    #[arg(long, value_name = "[ZONE=]IFACE")]
    pub lan: Vec<LanOption>,
    /// Base UDP port of the tunnels [default: 51820]
    #[arg(long, value_name = "PORT")]
    pub listen_port: Option<u16>,
    /// Multicast group of the announcements [default: 239.255.42.1]
    #[arg(long, value_name = "ADDRESS")]
    pub multicast_group: Option<IpAddr>,
    /// Host to send announcements to, as HOST[:PORT]; repeat for more
    #[arg(long, value_name = "HOST[:PORT]")]
    pub seed: Vec<Seed>,
    /// Unix socket of the local API; the global option `--socket`.
    #[arg(skip)]
    pub socket: Option<PathBuf>,
}

/// `--interface [NAME=]IFACE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkOption {
    /// Name of the uplink; by default the file's for this interface, else the interface's.
    pub name: Option<String>,
    /// Interface name.
    pub interface: String,
}

/// `--lan [ZONE=]IFACE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LanOption {
    /// Zone.
    pub zone: String,
    /// Interface name.
    pub interface: String,
}

/// A seed that can't be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host: write HOST, HOST:PORT, or [IPV6]:PORT")]
pub struct SeedError(String);

impl FromStr for UplinkOption {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once('=') {
            Some((name, interface)) => Self { name: Some(name.into()), interface: interface.into() },
            None => Self { name: None, interface: text.into() },
        })
    }
}

impl FromStr for LanOption {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (zone, interface) = text.split_once('=').unwrap_or((LanInterface::DEFAULT_ZONE, text));
        Ok(Self { zone: zone.into(), interface: interface.into() })
    }
}

impl FromStr for Seed {
    type Err = SeedError;
    fn from_str(text: &str) -> Result<Self, SeedError> {
        let error = || SeedError(text.into());
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self { host: address.to_string(), port: None });
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(error)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| error())?;
                match rest {
                    "" => (host, None),
                    _ => (host, Some(rest.strip_prefix(':').ok_or_else(error)?)),
                }
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = match port.map(str::parse::<u16>) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => return Err(error()),
        };
        let named = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':'));
        if host.is_empty() || host.len() > 253 || !named {
            return Err(error());
        }
        Ok(Self { host: host.into(), port })
    }
}

impl std::fmt::Display for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(port) if self.host.contains(':') => write!(f, "[{}]:{port}", self.host),
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

impl serde::Serialize for Seed {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Seed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A path as it was typed in a shell: relative ones begin at its directory, which the daemon need not stay in.
pub(crate) fn from_here(text: &str) -> std::io::Result<PathBuf> {
    std::path::absolute(text)
}
