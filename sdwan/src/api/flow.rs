//! A flow as people name one: `10.1.0.5:40000 10.2.0.9:5060 udp`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use sdwan_common::abi::FlowKey;
use sdwan_common::classify::protocol_has_ports;
use serde::{Deserialize, Serialize};

use crate::engine::policy::{Dscp, Protocol, address_bytes};

/// A flow to be explained: the 5-tuple, and what else a packet is classified by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowSpec {
    /// Source.
    pub source: Endpoint,
    /// Destination, of the same IP version.
    pub destination: Endpoint,
    /// IP protocol.
    pub protocol: Protocol,
    /// DSCP of its packets.
    #[serde(default = "default_dscp")]
    pub dscp: Dscp,
    /// Ingress zone; by default the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// An address and, where the protocol has them, a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address.
    pub address: IpAddr,
    /// Port; 0 for none.
    pub port: u16,
}

/// A flow that can't be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// Not an address with or without a port.
    #[error("{0:?} is not an address: write ADDRESS, ADDRESS:PORT or [IPV6]:PORT")]
    Endpoint(String),
    /// IPv4 to IPv6 or the other way.
    #[error("{0} and {1} are of different IP versions: no packet has both")]
    Versions(IpAddr, IpAddr),
    /// A port is missing.
    #[error("{protocol} packets have ports: write {address}:PORT", address = bracketed(.address))]
    NoPort {
        /// The protocol.
        protocol: Protocol,
        /// The address without a port.
        address: IpAddr,
    },
    /// A port too many.
    #[error("{protocol} packets have no ports: write {address} alone")]
    Port {
        /// The protocol.
        protocol: Protocol,
        /// The address with a port.
        address: IpAddr,
    },
}

/// ICMP and ICMPv6: the source port is the identifier of an echo.
const ECHO: [u8; 2] = [1, 58];

impl FlowSpec {
    /// A flow whose parts fit each other.
    pub fn new(source: Endpoint, destination: Endpoint, protocol: Protocol) -> Result<Self, FlowError> {
        let flow = Self { source, destination, protocol, dscp: default_dscp(), zone: None };
        flow.check()?;
        Ok(flow)
    }

    /// Do the parts fit each other?
    pub fn check(&self) -> Result<(), FlowError> {
        let (source, destination, protocol) = (self.source, self.destination, self.protocol);
        if source.address.is_ipv4() != destination.address.is_ipv4() {
            return Err(FlowError::Versions(source.address, destination.address));
        }
        for (endpoint, echo) in [(source, ECHO.contains(&protocol.0)), (destination, false)] {
            let address = endpoint.address;
            if protocol_has_ports(protocol.0) {
                if endpoint.port == 0 {
                    return Err(FlowError::NoPort { protocol, address });
                }
            } else if endpoint.port != 0 && !echo {
                return Err(FlowError::Port { protocol, address });
            }
        }
        Ok(())
    }

    /// Its key in the flow table.
    pub fn key(&self) -> FlowKey {
        FlowKey {
            source: address_bytes(self.source.address),
            destination: address_bytes(self.destination.address),
            source_port: self.source.port,
            destination_port: self.destination.port,
            protocol: self.protocol.0,
            padding: [0; 3],
        }
    }
}

impl fmt::Display for FlowSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {} {}", self.source, self.destination, self.protocol)?;
        if self.dscp.0 != 0 {
            write!(f, " dscp {}", self.dscp)?;
        }
        match &self.zone {
            Some(zone) => write!(f, " zone {zone}"),
            None => Ok(()),
        }
    }
}

impl Endpoint {
    /// From the bytes in the flow table.
    pub fn from_key(address: &[u8; 16], port: u16) -> Self {
        Self { address: Ipv6Addr::from(*address).to_canonical(), port }
    }
}

impl FromStr for Endpoint {
    type Err = FlowError;
    fn from_str(text: &str) -> Result<Self, FlowError> {
        let error = || FlowError::Endpoint(text.into());
        if let Ok(address) = text.parse::<std::net::SocketAddr>() {
            return if address.port() > 0 {
                Ok(Self { address: address.ip(), port: address.port() })
            } else {
                Err(error())
            };
        }
        let address = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        address.parse().map(|address| Self { address, port: 0 }).map_err(|_| error())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            0 => self.address.fmt(f),
            port => write!(f, "{}:{port}", bracketed(&self.address)),
        }
    }
}

impl Serialize for Endpoint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl utoipa::PartialSchema for Endpoint {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::schema::{Object, Type};
        let object = Object::builder().schema_type(Type::String);
        object.description(Some("An address, or an address and a port: `10.1.0.5:5060`, `[2001:db8::5]:5060`")).into()
    }
}

impl utoipa::ToSchema for Endpoint {}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn default_dscp() -> Dscp {
    Dscp(0)
}

fn bracketed(address: &IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flow(source: &str, destination: &str, protocol: &str) -> Result<FlowSpec, FlowError> {
        FlowSpec::new(source.parse()?, destination.parse()?, protocol.parse().unwrap())
    }

    #[test]
    fn flows_read_as_people_write_them() {
        let voice = flow("10.1.0.5:40000", "10.2.0.9:5060", "udp").unwrap();
        assert_eq!(voice.key().destination_port, 5060);
        assert_eq!(&voice.key().source[10..], [0xff, 0xff, 10, 1, 0, 5]);
        assert_eq!(voice.to_string(), "10.1.0.5:40000 → 10.2.0.9:5060 udp");
        assert!(flow("[2001:db8::1]:40000", "[2001:db8::2]:443", "tcp").is_ok());
        assert!(flow("2001:db8::1", "[2001:db8::2]", "icmpv6").is_ok());
        assert!(flow("10.1.0.5", "10.2.0.9", "47").is_ok());
        assert!(flow("10.1.0.5:77", "10.2.0.9", "icmp").is_ok(), "the identifier of an echo is its source port");
    }

    #[test]
    fn a_flow_that_no_packet_could_have_is_refused_with_what_to_write() {
        let message = |a, b, c| flow(a, b, c).unwrap_err().to_string();
        assert_eq!(message("10.1.0.5", "10.2.0.9:80", "tcp"), "tcp packets have ports: write 10.1.0.5:PORT");
        assert_eq!(message("10.1.0.5", "10.2.0.9:80", "esp"), "esp packets have no ports: write 10.2.0.9 alone");
        assert!(message("10.1.0.5:1", "[2001:db8::1]:2", "udp").contains("different IP versions"));
        assert!(message("10.1.0.5:0", "10.2.0.9:80", "tcp").contains("is not an address"));
        assert!(message("host:80", "10.2.0.9:80", "tcp").contains("is not an address"));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(address: u128, port: u16, four: bool) {
            let address: IpAddr = if four { std::net::Ipv4Addr::from(address as u32).into() } else { Ipv6Addr::from(address).into() };
            let endpoint = Endpoint { address, port };
            prop_assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
        }
    }
}
