//! Probes and acknowledgements as bytes; `docs/PROTOCOL.md` has the format.

use super::keys::{CODE_LENGTH, PeerKeys};
use crate::engine::mtu::HEADER_LENGTH;
use crate::engine::types::{SiteId, TunnelKey, UplinkIndex};

/// First bytes of every message, and the format's version.
const MAGIC: [u8; 5] = *b"SDMU\x01";
const SIGNED: usize = HEADER_LENGTH - CODE_LENGTH;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Asks whether a packet of its size gets through.
    Probe,
    /// Says that a probe did.
    Acknowledgement,
}

/// The header of a message: all of a probe but its padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Who sent it.
    pub from: SiteId,
    /// Whom it is for.
    pub to: SiteId,
    /// Uplinks of the probe: `local` is that of the site that sent the probe, in its acknowledgement too.
    pub uplinks: TunnelKey,
    /// Strictly newer than that of any probe before; an acknowledgement repeats it.
    pub sequence: u64,
    /// Size of the probe's IP packet, bytes.
    pub size: u16,
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message of path MTU probing: {0}")]
pub struct Malformed(&'static str);

impl Message {
    /// The bytes of the header, authenticated by the first key shared with the receiver, or by that of this number.
    pub fn encode(&self, keys: &PeerKeys, number: Option<usize>) -> Option<[u8; HEADER_LENGTH]> {
        let mut bytes = [0; HEADER_LENGTH];
        bytes[..5].copy_from_slice(&MAGIC);
        bytes[5] = match self.kind {
            Kind::Probe => 1,
            Kind::Acknowledgement => 2,
        };
        bytes[6] = self.uplinks.code();
        bytes[8..24].copy_from_slice(&self.from.0);
        bytes[24..40].copy_from_slice(&self.to.0);
        bytes[40..48].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[48..50].copy_from_slice(&self.size.to_be_bytes());
        let code = match number {
            Some(number) => keys.sign_with(number, &bytes[..SIGNED]),
            None => keys.sign(&bytes[..SIGNED]),
        }?;
        bytes[SIGNED..].copy_from_slice(&code);
        Some(bytes)
    }

    /// Reads a header; who sent it isn't known before [`authentic`] said so.
    pub fn decode(bytes: &[u8; HEADER_LENGTH]) -> Result<Self, Malformed> {
        if bytes[..5] != MAGIC {
            return Err(Malformed("another protocol or version"));
        }
        let kind = match bytes[5] {
            1 => Kind::Probe,
            2 => Kind::Acknowledgement,
            _ => return Err(Malformed("another kind")),
        };
        if bytes[7] != 0 || bytes[50..52] != [0, 0] {
            return Err(Malformed("bytes that must be zero are not"));
        }
        let index = |number: u8| UplinkIndex::new(number).ok_or(Malformed("no such uplinks"));
        let uplinks =
            TunnelKey { local: index(bytes[6] / UplinkIndex::COUNT)?, remote: index(bytes[6] % UplinkIndex::COUNT)? };
        Ok(Self {
            kind,
            from: SiteId(array(bytes, 8)),
            to: SiteId(array(bytes, 24)),
            uplinks,
            sequence: u64::from_be_bytes(array(bytes, 40)),
            size: u16::from_be_bytes(array(bytes, 48)),
        })
    }
}

/// Which of the keys authenticated a header; `None`: it is forged.
pub fn authentic(bytes: &[u8; HEADER_LENGTH], keys: &PeerKeys) -> Option<usize> {
    keys.verify(&bytes[..SIGNED], &array(bytes, SIGNED))
}

fn array<const N: usize>(bytes: &[u8; HEADER_LENGTH], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}
