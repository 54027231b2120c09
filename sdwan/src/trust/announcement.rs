//! Announcements and leave messages: what a site says of itself.

use ed25519_dalek::VerifyingKey;
use ipnet::IpNet;

use super::certificate::{Certificate, split_signature};
use super::keys::IdentityKey;
use super::persist::SEQUENCE_MAX;
use super::wire::{self, BadSignature, DATAGRAM_MAX, DecodeError, EncodeError, Header, Kind, Reader, SIGNATURE_LENGTH};
use crate::engine::types::{MeshId, RemoteUplink, SiteId, UplinkIndex};

/// Domain tag of an announcement's signature.
pub const ANNOUNCEMENT_DOMAIN: &[u8] = b"sdwan announcement v1\0";
/// Domain tag of a leave message's signature.
pub const LEAVE_DOMAIN: &[u8] = b"sdwan leave v1\0";
/// Most addresses of one uplink in an announcement.
pub const ADDRESSES_MAX: usize = 8;

const FLAG_NEXT_KEY: u8 = 1;

/// What a site announces, apart from its certificate, sequence number and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAnnouncement {
    /// WireGuard public key in use.
    pub wireguard_key: [u8; 32],
    /// The key that will replace it.
    pub next_wireguard_key: Option<[u8; 32]>,
    /// Base of the tunnel ports, 1..=65472 (`base + 63` is the last one).
    pub base_port: u16,
    /// The uplinks, at most 8.
    pub uplinks: Vec<RemoteUplink>,
    /// LAN prefixes behind the site; each inside one of the certificate's.
    pub prefixes: Vec<IpNet>,
}

/// A decoded message of a site. Its certificate is decoded but not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteMessage {
    /// Mesh id of the datagram's header.
    pub mesh: MeshId,
    /// The certificate it carries.
    pub certificate: Certificate,
    /// Sequence number, 1..=[`SEQUENCE_MAX`]; shared by announcements and leave messages.
    pub sequence: u64,
    /// When it was made by the sender's clock, Unix time in milliseconds.
    pub made_unix_ms: u64,
    /// The announcement, or `None` for a leave message.
    pub content: Option<LocalAnnouncement>,
}

impl SiteMessage {
    /// Reads the rest of an announcement or leave message after its header.
    pub fn decode(header: Header, mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let length = usize::from(reader.u16("certificate length")?);
        let certificate = Certificate::decode(reader.take(length, "certificate")?)?;
        let sequence = reader.u64("sequence number")?;
        if sequence == 0 || sequence > SEQUENCE_MAX {
            return Err(DecodeError::Invalid { field: "sequence number", why: "out of range" });
        }
        let made_unix_ms = reader.u64("time")?;
        let content = match header.kind {
            Kind::Announcement => Some(decode_content(&mut reader)?),
            Kind::Leave => None,
            Kind::Revocations => return Err(DecodeError::Invalid { field: "kind", why: "not a message of a site" }),
        };
        reader.signature("signature")?;
        Ok(Self { mesh: header.mesh, certificate, sequence, made_unix_ms, content })
    }

    /// Checks the signature of the datagram that this message was decoded from.
    pub fn verify(&self, datagram: &[u8], identity: &VerifyingKey) -> Result<(), BadSignature> {
        let (signed, signature) = split_signature(datagram);
        wire::verify(identity, self.domain(), signed, &signature)
    }

    /// The site that speaks.
    pub fn site(&self) -> SiteId {
        self.certificate.site
    }

    fn domain(&self) -> &'static [u8] {
        if self.content.is_some() { ANNOUNCEMENT_DOMAIN } else { LEAVE_DOMAIN }
    }
}

/// Signs an announcement; the result is the datagram.
pub fn sign_announcement(
    certificate: &Certificate,
    sequence: u64,
    made_unix_ms: u64,
    content: &LocalAnnouncement,
    identity: &IdentityKey,
) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = unsigned_announcement(certificate, sequence, made_unix_ms, content)?;
    let signature = identity.sign(ANNOUNCEMENT_DOMAIN, &bytes);
    bytes.extend_from_slice(&signature);
    Ok(bytes)
}

/// Whether a site with this certificate can announce this. Returns the size of the datagram, bytes.
pub fn check(certificate: &Certificate, content: &LocalAnnouncement) -> Result<usize, EncodeError> {
    Ok(unsigned_announcement(certificate, 1, 0, content)?.len() + SIGNATURE_LENGTH)
}

/// Signs a leave message; the result is the datagram.
pub fn sign_leave(certificate: &Certificate, sequence: u64, made_unix_ms: u64, identity: &IdentityKey) -> Vec<u8> {
    let mut bytes = begin(Kind::Leave, certificate, sequence, made_unix_ms);
    let signature = identity.sign(LEAVE_DOMAIN, &bytes);
    bytes.extend_from_slice(&signature);
    bytes
}

fn unsigned_announcement(
    certificate: &Certificate,
    sequence: u64,
    made_unix_ms: u64,
    content: &LocalAnnouncement,
) -> Result<Vec<u8>, EncodeError> {
    if let Some(outside) = content.prefixes.iter().find(|prefix| !certificate.allows(prefix)) {
        let why = "not in the site's certificate: take it out of the configuration, or get a new certificate with it \
                   from `sdwan mesh admit`";
        return Err(EncodeError::Invalid { what: format!("prefix {outside}"), why });
    }
    let mut bytes = begin(Kind::Announcement, certificate, sequence, made_unix_ms);
    encode_content(&mut bytes, content)?;
    let length = bytes.len() + SIGNATURE_LENGTH;
    if length > DATAGRAM_MAX {
        return Err(EncodeError::TooLarge { what: "the announcement", bytes: length, most: DATAGRAM_MAX });
    }
    Ok(bytes)
}

fn begin(kind: Kind, certificate: &Certificate, sequence: u64, made_unix_ms: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(DATAGRAM_MAX);
    Header { kind, mesh: certificate.content.mesh }.encode(&mut bytes);
    bytes.extend_from_slice(&(certificate.bytes().len() as u16).to_be_bytes());
    bytes.extend_from_slice(certificate.bytes());
    bytes.extend_from_slice(&sequence.to_be_bytes());
    bytes.extend_from_slice(&made_unix_ms.to_be_bytes());
    bytes
}

fn encode_content(bytes: &mut Vec<u8>, content: &LocalAnnouncement) -> Result<(), EncodeError> {
    check_keys(content).map_err(|why| EncodeError::Invalid { what: "WireGuard keys".into(), why })?;
    check_base_port(content.base_port)
        .map_err(|why| EncodeError::Invalid { what: format!("base port {}", content.base_port), why })?;
    bytes.push(if content.next_wireguard_key.is_some() { FLAG_NEXT_KEY } else { 0 });
    bytes.extend_from_slice(&content.wireguard_key);
    if let Some(next) = content.next_wireguard_key {
        bytes.extend_from_slice(&next);
    }
    bytes.extend_from_slice(&content.base_port.to_be_bytes());

    let mut uplinks: Vec<&RemoteUplink> = content.uplinks.iter().collect();
    uplinks.sort_by_key(|uplink| uplink.index);
    if uplinks.windows(2).any(|pair| pair[0].index == pair[1].index) {
        return Err(EncodeError::Invalid { what: "uplinks".into(), why: "two uplinks have the same index" });
    }
    bytes.push(uplinks.len() as u8);
    for uplink in uplinks {
        bytes.push(uplink.index.get());
        wire::put_name(bytes, &uplink.name)?;
        bytes.extend_from_slice(&uplink.mtu.to_be_bytes());
        // 0 stands for a rate that isn't declared: nobody declares a line that carries nothing.
        bytes.extend_from_slice(&uplink.rate_down_kbps.unwrap_or(0).to_be_bytes());
        if uplink.addresses.len() > ADDRESSES_MAX {
            let what = format!("uplink {}", uplink.name);
            return Err(EncodeError::Invalid { what, why: "an uplink announces at most 8 addresses" });
        }
        bytes.push(uplink.addresses.len() as u8);
        for address in &uplink.addresses {
            wire::put_address(bytes, *address)?;
        }
    }
    wire::put_prefixes(bytes, &content.prefixes)
}

fn decode_content(reader: &mut Reader<'_>) -> Result<LocalAnnouncement, DecodeError> {
    let flags = reader.u8("flags")?;
    if flags & !FLAG_NEXT_KEY != 0 {
        return Err(DecodeError::Invalid { field: "flags", why: "unknown flag" });
    }
    let wireguard_key = reader.array("WireGuard key")?;
    let next_wireguard_key = if flags & FLAG_NEXT_KEY != 0 { Some(reader.array("next WireGuard key")?) } else { None };
    let base_port = reader.u16("base port")?;
    check_base_port(base_port).map_err(|why| DecodeError::Invalid { field: "base port", why })?;

    let count = reader.u8("number of uplinks")?;
    if count > UplinkIndex::COUNT {
        return Err(DecodeError::Invalid { field: "number of uplinks", why: "more than 8" });
    }
    let mut uplinks: Vec<RemoteUplink> = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let uplink = decode_uplink(reader)?;
        if uplinks.last().is_some_and(|last| last.index >= uplink.index) {
            return Err(DecodeError::Invalid { field: "uplink index", why: "uplinks are not in ascending order" });
        }
        uplinks.push(uplink);
    }
    let prefixes = reader.prefixes("prefixes")?;
    let content = LocalAnnouncement { wireguard_key, next_wireguard_key, base_port, uplinks, prefixes };
    check_keys(&content).map_err(|why| DecodeError::Invalid { field: "WireGuard keys", why })?;
    Ok(content)
}

fn decode_uplink(reader: &mut Reader<'_>) -> Result<RemoteUplink, DecodeError> {
    let index = UplinkIndex::new(reader.u8("uplink index")?)
        .ok_or(DecodeError::Invalid { field: "uplink index", why: "not in 0..=7" })?;
    let name = reader.name("uplink name")?.to_owned();
    let mtu = reader.u16("uplink MTU")?;
    let rate_down_kbps = Some(reader.u32("uplink rate")?).filter(|rate| *rate != 0);
    let count = usize::from(reader.u8("number of addresses")?);
    if count > ADDRESSES_MAX {
        return Err(DecodeError::Invalid { field: "number of addresses", why: "more than 8" });
    }
    let addresses = (0..count).map(|_| reader.address("uplink address")).collect::<Result<_, _>>()?;
    Ok(RemoteUplink { index, name, addresses, mtu, rate_down_kbps })
}

fn check_keys(content: &LocalAnnouncement) -> Result<(), &'static str> {
    if content.wireguard_key == [0; 32] || content.next_wireguard_key == Some([0; 32]) {
        return Err("a WireGuard key is all zero");
    }
    if content.next_wireguard_key == Some(content.wireguard_key) {
        return Err("the next WireGuard key equals the current one");
    }
    Ok(())
}

fn check_base_port(base: u16) -> Result<(), &'static str> {
    let last = u16::from(UplinkIndex::COUNT) * u16::from(UplinkIndex::COUNT) - 1;
    if base == 0 || base.checked_add(last).is_none() {
        return Err("the base port is in 1..=65472, so that 64 ports fit");
    }
    Ok(())
}
