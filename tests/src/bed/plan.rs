//! Addresses and names of a bed, as pure functions of its description.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::error::{BedError, Result};

/// How a provider connects its customers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// One layer-2 segment: multicast passes.
    Bridge,
    /// A subnet for each uplink, and a router between them: no multicast.
    Routed,
}

/// Address families of the underlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// IPv4 and IPv6.
    #[default]
    Both,
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
}

impl Families {
    /// Whether addresses of this family are configured.
    pub fn has(self, address: IpAddr) -> bool {
        match self {
            Self::Both => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// An address with its prefix length, and the gateway beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Own address and prefix length.
    pub address: IpNet,
    /// The router.
    pub gateway: IpAddr,
}

/// What the addresses of an uplink depend on.
#[derive(Clone, Copy, Debug)]
pub struct UplinkPosition {
    /// How its provider connects.
    pub kind: Provider,
    /// Number of the provider, from 0.
    pub provider: usize,
    /// Number of the uplink at this provider, from 0: over all sites, in order.
    pub customer: usize,
    /// How often its address was changed.
    pub generation: usize,
    /// How often its gateway was changed.
    pub gateway_generation: usize,
}

impl UplinkPosition {
    /// Most uplinks at one provider.
    pub const MOST_CUSTOMERS: usize = 60;

    /// IPv4 address and gateway.
    pub fn v4(&self) -> Attachment {
        let (customer, generation) = (self.customer as u8, (self.generation % 4) as u8);
        let second_gateway = (self.gateway_generation % 2) as u8;
        let (own, length, gateway) = match self.kind {
            Provider::Bridge => {
                let [a, b, c] = self.v4_base();
                (Ipv4Addr::new(a, b, c, 1 + customer + 60 * generation), 24, {
                    Ipv4Addr::new(a, b, c, 254 - second_gateway)
                })
            }
            Provider::Routed if customer < 16 => {
                let [a, b, c] = self.v4_base();
                let first = customer * 16;
                (Ipv4Addr::new(a, b, c, first + 1 + generation), 28, {
                    Ipv4Addr::new(a, b, c, first + 14 - second_gateway)
                })
            }
            Provider::Routed => {
                let provider = 64 + self.provider as u8;
                (Ipv4Addr::new(100, provider, customer, 1 + generation), 24, {
                    Ipv4Addr::new(100, provider, customer, 254 - second_gateway)
                })
            }
        };
        let address = Ipv4Net::new(own, length).expect("prefix length is below 32");
        Attachment { address: address.into(), gateway: gateway.into() }
    }

    /// IPv6 address and gateway.
    pub fn v6(&self) -> Attachment {
        let subnet = match self.kind {
            Provider::Bridge => 0,
            Provider::Routed => 1 + self.customer as u16,
        };
        let host = match self.kind {
            Provider::Bridge => 1 + self.customer as u16 + 0x100 * self.generation as u16,
            Provider::Routed => 1 + self.generation as u16,
        };
        let provider = 1 + self.provider as u16;
        let address = |host| Ipv6Addr::new(0x2001, 0xdb8, provider, subnet, 0, 0, 0, host);
        let own = Ipv6Net::new(address(host), 64).expect("prefix length is below 128");
        let gateway = address(0xfffe - (self.gateway_generation % 2) as u16);
        Attachment { address: own.into(), gateway: gateway.into() }
    }

    /// Those of the families in use.
    pub fn attachments(&self, families: Families) -> Vec<Attachment> {
        [self.v4(), self.v6()].into_iter().filter(|one| families.has(one.gateway)).collect()
    }

    fn v4_base(&self) -> [u8; 3] {
        v4_base(self.provider)
    }
}

/// The documentation ranges of RFC 5737 for the first three providers, shared space (RFC 6598) for the others.
fn v4_base(provider: usize) -> [u8; 3] {
    match provider {
        0 => [198, 51, 100],
        1 => [203, 0, 113],
        2 => [192, 0, 2],
        other => [100, 80 + other as u8, 0],
    }
}

/// All addresses of a provider's customers.
pub(crate) fn provider_prefixes(provider: usize) -> [IpNet; 3] {
    let [a, b, c] = v4_base(provider);
    let first = Ipv4Net::new(Ipv4Addr::new(a, b, c, 0), 24).expect("prefix length is below 32");
    let more = Ipv4Net::new(Ipv4Addr::new(100, 64 + provider as u8, 0, 0), 16).expect("prefix length is below 32");
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 1 + provider as u16, 0, 0, 0, 0, 0);
    [first.into(), more.into(), Ipv6Net::new(v6, 48).expect("prefix length is below 128").into()]
}

/// All that is behind site number `site` (from 1): `10.<site>.0.0/16` and `fd00:<site>::/48`.
pub fn lan_prefixes(site: usize) -> [IpNet; 2] {
    let v4 = Ipv4Net::new(Ipv4Addr::new(10, site as u8, 0, 0), 16).expect("prefix length is below 32");
    let v6 = Ipv6Net::new(Ipv6Addr::new(0xfd00, site as u16, 0, 0, 0, 0, 0, 0), 48).expect("below 128");
    [v4.into(), v6.into()]
}

/// Address of a host (from 0) of a site (from 1) on its LAN, and its gateway; IPv4 and IPv6.
pub fn lan_attachments(site: usize, host: usize) -> [Attachment; 2] {
    let v4 = |last| Ipv4Addr::new(10, site as u8, host as u8, last);
    let v6 = |last| Ipv6Addr::new(0xfd00, site as u16, 0, host as u16, 0, 0, 0, last);
    let own_v4 = Ipv4Net::new(v4(2), 24).expect("prefix length is below 32");
    let own_v6 = Ipv6Net::new(v6(2), 64).expect("prefix length is below 128");
    [
        Attachment { address: own_v4.into(), gateway: v4(1).into() },
        Attachment { address: own_v6.into(), gateway: v6(1).into() },
    ]
}

/// Addresses of the two ends of the line between two providers; IPv4 and IPv6.
pub fn peering(first: usize, second: usize) -> [(IpNet, IpNet); 2] {
    let v4 = |last| {
        let address = Ipv4Addr::new(100, 127, first as u8 * 16 + second as u8, last);
        IpNet::V4(Ipv4Net::new(address, 30).expect("prefix length is below 32"))
    };
    let v6 = |last| {
        let address = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, first as u16 * 16 + second as u16, 0, 0, 0, last);
        IpNet::V6(Ipv6Net::new(address, 64).expect("prefix length is below 128"))
    };
    [(v4(1), v4(2)), (v6(1), v6(2))]
}

/// A name that fits an interface (15 bytes) when it is joined to another by a hyphen.
pub(crate) fn check_name(kind: &str, name: &str) -> Result<()> {
    let fits = !name.is_empty() && name.len() <= 10;
    let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if fits && plain {
        return Ok(());
    }
    Err(BedError::Plan(format!("{kind} name {name:?}: take 1 to 10 of a-z, 0-9 and -")))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_uplinks_share_an_address_and_each_gateway_is_in_its_prefix() {
        for kind in [Provider::Bridge, Provider::Routed] {
            let mut seen = HashSet::new();
            for provider in 0..4 {
                for customer in 0..UplinkPosition::MOST_CUSTOMERS {
                    for generation in 0..4 {
                        let position =
                            UplinkPosition { kind, provider, customer, generation, gateway_generation: generation };
                        for one in position.attachments(Families::Both) {
                            assert!(seen.insert(one.address.addr()), "{position:?}: {}", one.address);
                            assert!(one.address.contains(&one.gateway), "{position:?}: {}", one.gateway);
                            assert!(!seen.contains(&one.gateway), "{position:?}: {}", one.gateway);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn hosts_are_inside_the_prefixes_of_their_site() {
        for site in [1, 3, 255] {
            for host in [0, 7] {
                let prefixes = lan_prefixes(site);
                for (one, prefix) in lan_attachments(site, host).iter().zip(prefixes) {
                    assert!(prefix.contains(&one.address) && prefix.contains(&one.gateway));
                }
            }
        }
    }
}
