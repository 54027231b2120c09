//! The encoding under all signed messages: fixed-order fields, big endian, length-prefixed, one encoding per value.
//!
//! Decoding borrows from the datagram, checks every length before it uses it, and refuses what an encoder would not
//! have written (unsorted lists, host bits in a prefix, bytes left over). `docs/PROTOCOL.md` has the layouts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest, Sha256};

use crate::engine::types::{MeshId, SiteId};

/// First bytes of every datagram.
pub const MAGIC: [u8; 4] = *b"SDWN";
/// Version of the datagrams.
pub const VERSION: u8 = 1;
/// Largest datagram, bytes: fits the IPv6 minimum MTU of 1,280 with its headers.
pub const DATAGRAM_MAX: usize = 1_200;
/// Magic, version, kind, mesh id.
pub const HEADER_LENGTH: usize = 4 + 1 + 1 + 16;
/// Longest name of a site, a mesh or an uplink, bytes.
pub const NAME_MAX: usize = 32;
/// An Ed25519 signature, bytes.
pub const SIGNATURE_LENGTH: usize = 64;

/// What a datagram carries: the byte after the version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A site describes itself.
    Announcement,
    /// A site says goodbye.
    Leave,
    /// A page of the authority's revocation list.
    Revocations,
}

impl Kind {
    /// Its number in the datagram.
    pub const fn code(self) -> u8 {
        match self {
            Self::Announcement => 1,
            Self::Leave => 2,
            Self::Revocations => 3,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Announcement),
            2 => Some(Self::Leave),
            3 => Some(Self::Revocations),
            _ => None,
        }
    }
}

/// Bytes that are not a message of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("cut off in {0}")]
    Truncated(&'static str),
    /// Bytes follow the last field.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// A version that this release doesn't know.
    #[error("version {0} is not known here: update sdwan on this machine")]
    Version(u8),
    /// A field has a value that no encoder writes.
    #[error("{field}: {why}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// A description that doesn't fit its encoding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Larger than a datagram (or a certificate) may be.
    #[error("{what} takes {bytes} bytes, {most} are allowed: use fewer or shorter prefixes, addresses or names")]
    TooLarge {
        /// What was encoded.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// A field that a decoder would refuse.
    #[error("{what}: {why}")]
    Invalid {
        /// The field.
        what: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// A signature that doesn't match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match")]
pub struct BadSignature;

/// Start of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// The mesh it belongs to.
    pub mesh: MeshId,
}

impl Header {
    /// Reads the header of a datagram.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if reader.array::<4>("magic")? != MAGIC {
            return Err(DecodeError::Invalid { field: "magic", why: "not a datagram of sdwan" });
        }
        match reader.u8("version")? {
            VERSION => {}
            other => return Err(DecodeError::Version(other)),
        }
        let kind = Kind::from_code(reader.u8("kind")?)
            .ok_or(DecodeError::Invalid { field: "kind", why: "neither announcement, leave nor revocations" })?;
        Ok(Self { kind, mesh: MeshId(reader.array("mesh id")?) })
    }

    /// Appends the header.
    pub fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        out.push(self.kind.code());
        out.extend_from_slice(&self.mesh.0);
    }
}

/// Takes fields off a byte string.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    whole: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(whole: &'a [u8]) -> Self {
        Self { whole, position: 0 }
    }

    /// Everything before the next field: what a signature at this place covers.
    pub fn consumed(&self) -> &'a [u8] {
        &self.whole[..self.position]
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let rest = &self.whole[self.position..];
        let taken = rest.get(..length).ok_or(DecodeError::Truncated(field))?;
        self.position += length;
        Ok(taken)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        self.take(N, field)?.try_into().map_err(|_| DecodeError::Truncated(field))
    }

    /// One byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array(field).map(u8::from_be_bytes)
    }

    /// Two bytes.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_be_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// A length byte and a name.
    pub fn name(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let length = usize::from(self.u8(field)?);
        let name = std::str::from_utf8(self.take(length, field)?)
            .map_err(|_| DecodeError::Invalid { field, why: "not UTF-8" })?;
        check_name(name).map_err(|why| DecodeError::Invalid { field, why })?;
        Ok(name)
    }

    /// A family byte and an address.
    pub fn address(&mut self, field: &'static str) -> Result<IpAddr, DecodeError> {
        let address = match self.u8(field)? {
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>(field)?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>(field)?)),
            _ => return Err(DecodeError::Invalid { field, why: "address family is neither 4 nor 6" }),
        };
        check_address(address).map_err(|why| DecodeError::Invalid { field, why })?;
        Ok(address)
    }

    /// A count byte and prefixes, strictly ascending.
    pub fn prefixes(&mut self, field: &'static str) -> Result<Vec<IpNet>, DecodeError> {
        let count = usize::from(self.u8(field)?);
        // The count is at most 255, so this is bounded whatever the datagram claims.
        let mut prefixes: Vec<IpNet> = Vec::with_capacity(count.min((self.whole.len() - self.position) / 2));
        for _ in 0..count {
            let prefix = self.prefix(field)?;
            if prefixes.last().is_some_and(|last| prefix_order(last) >= prefix_order(&prefix)) {
                return Err(DecodeError::Invalid { field, why: "prefixes are not in ascending order" });
            }
            prefixes.push(prefix);
        }
        Ok(prefixes)
    }

    fn prefix(&mut self, field: &'static str) -> Result<IpNet, DecodeError> {
        let invalid = |why| DecodeError::Invalid { field, why };
        let family = self.u8(field)?;
        let length = self.u8(field)?;
        let bytes = self.take(usize::from(length).div_ceil(8), field)?;
        let prefix = match family {
            4 if length <= 32 => {
                let mut address = [0; 4];
                address[..bytes.len()].copy_from_slice(bytes);
                Ipv4Net::new(address.into(), length).map(IpNet::V4)
            }
            6 if length <= 128 => {
                let mut address = [0; 16];
                address[..bytes.len()].copy_from_slice(bytes);
                Ipv6Net::new(address.into(), length).map(IpNet::V6)
            }
            4 | 6 => return Err(invalid("prefix length out of range")),
            _ => return Err(invalid("address family is neither 4 nor 6")),
        };
        let prefix = prefix.map_err(|_| invalid("prefix length out of range"))?;
        check_prefix(&prefix).map_err(invalid)?;
        Ok(prefix)
    }

    /// The signature at the end, and that nothing follows it.
    pub fn signature(mut self, field: &'static str) -> Result<[u8; SIGNATURE_LENGTH], DecodeError> {
        let signature = self.array(field)?;
        self.end()?;
        Ok(signature)
    }

    /// Nothing is left.
    pub fn end(self) -> Result<(), DecodeError> {
        match self.whole.len() - self.position {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }
}

/// Appends a length byte and a name.
pub fn put_name(out: &mut Vec<u8>, name: &str) -> Result<(), EncodeError> {
    check_name(name).map_err(|why| EncodeError::Invalid { what: format!("name {name:?}"), why })?;
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
    Ok(())
}

/// Appends a family byte and an address.
pub fn put_address(out: &mut Vec<u8>, address: IpAddr) -> Result<(), EncodeError> {
    check_address(address).map_err(|why| EncodeError::Invalid { what: format!("address {address}"), why })?;
    match address {
        IpAddr::V4(address) => {
            out.push(4);
            out.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            out.push(6);
            out.extend_from_slice(&address.octets());
        }
    }
    Ok(())
}

/// Appends a count byte and the prefixes, sorted and without duplicates.
pub fn put_prefixes(out: &mut Vec<u8>, prefixes: &[IpNet]) -> Result<(), EncodeError> {
    let mut sorted = prefixes.to_vec();
    sorted.sort_by_key(prefix_order);
    sorted.dedup();
    let count = u8::try_from(sorted.len()).map_err(|_| EncodeError::TooLarge {
        what: "a list of prefixes",
        bytes: sorted.len(),
        most: 255,
    })?;
    out.push(count);
    for prefix in &sorted {
        check_prefix(prefix).map_err(|why| EncodeError::Invalid { what: format!("prefix {prefix}"), why })?;
        let (family, octets): (u8, Vec<u8>) = match prefix {
            IpNet::V4(prefix) => (4, prefix.network().octets().to_vec()),
            IpNet::V6(prefix) => (6, prefix.network().octets().to_vec()),
        };
        out.push(family);
        out.push(prefix.prefix_len());
        out.extend_from_slice(&octets[..usize::from(prefix.prefix_len()).div_ceil(8)]);
    }
    Ok(())
}

/// Signs `message` under a domain tag, so that a signature over one kind of message is none over another.
pub fn sign(key: &SigningKey, domain: &[u8], message: &[u8]) -> [u8; SIGNATURE_LENGTH] {
    key.sign(&with_domain(domain, message)).to_bytes()
}

/// Checks a signature made by [`sign`]. Strict: weak keys and non-canonical encodings are refused.
pub fn verify(
    key: &VerifyingKey,
    domain: &[u8],
    message: &[u8],
    signature: &[u8; SIGNATURE_LENGTH],
) -> Result<(), BadSignature> {
    key.verify_strict(&with_domain(domain, message), &Signature::from_bytes(signature)).map_err(|_| BadSignature)
}

/// First 16 bytes of SHA-256.
pub fn digest16(bytes: &[u8]) -> [u8; 16] {
    let digest = Sha256::digest(bytes);
    std::array::from_fn(|index| digest[index])
}

/// The id of a mesh.
pub fn mesh_id(authority: &[u8; 32]) -> MeshId {
    MeshId(digest16(authority))
}

/// The id of a site.
pub fn site_id(identity: &[u8; 32]) -> SiteId {
    SiteId(digest16(identity))
}

/// A name that may appear in a message: 1..=32 of `A-Z a-z 0-9 . _ -`, starting with a letter or digit.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err("a name has 1 to 32 characters");
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !name.bytes().all(allowed) || !name.as_bytes()[0].is_ascii_alphanumeric() {
        return Err("a name consists of letters, digits and . _ - and starts with a letter or digit");
    }
    Ok(())
}

/// A prefix that a site may have behind it.
pub fn check_prefix(prefix: &IpNet) -> Result<(), &'static str> {
    if prefix.addr() != prefix.network() {
        return Err("bits are set past the prefix length");
    }
    let special = match prefix {
        IpNet::V4(prefix) => {
            let address = prefix.network();
            let first = address.octets()[0];
            prefix.prefix_len() >= 4 && (address.is_loopback() || address.is_link_local() || first == 0 || first >= 224)
        }
        IpNet::V6(prefix) => {
            let address = prefix.network();
            let mapped = address.to_ipv4_mapped().is_some() && prefix.prefix_len() >= 96;
            prefix.prefix_len() >= 8
                && (address.is_multicast() || address.is_unicast_link_local() || address.is_loopback() || mapped)
        }
    };
    if special { Err("multicast, loopback, link-local and reserved prefixes can't be behind a site") } else { Ok(()) }
}

fn check_address(address: IpAddr) -> Result<(), &'static str> {
    let special = address.is_unspecified()
        || address.is_multicast()
        || address.is_loopback()
        || match address {
            IpAddr::V4(address) => address.is_broadcast(),
            IpAddr::V6(address) => address.to_ipv4_mapped().is_some() || address.is_unicast_link_local(),
        };
    if special { Err("not an address that another site could reach") } else { Ok(()) }
}

fn prefix_order(prefix: &IpNet) -> (u8, [u8; 16], u8) {
    match prefix {
        IpNet::V4(prefix) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&prefix.network().octets());
            (4, octets, prefix.prefix_len())
        }
        IpNet::V6(prefix) => (6, prefix.network().octets(), prefix.prefix_len()),
    }
}

fn with_domain(domain: &[u8], message: &[u8]) -> Vec<u8> {
    [domain, message].concat()
}
