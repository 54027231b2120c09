//! The authority's revocation list: pages of one datagram each, each with a number that only grows.

use std::collections::BTreeMap;
use std::sync::Arc;

use ed25519_dalek::VerifyingKey;

use super::certificate::{Certificate, split_signature};
use super::keys::AuthorityKey;
use super::wire::{self, BadSignature, DATAGRAM_MAX, DecodeError, Header, Kind, Reader};
use crate::engine::types::{MeshId, SiteId};

/// Domain tag of a page's signature.
pub const REVOCATIONS_DOMAIN: &[u8] = b"sdwan revocations v1\0";
/// Pages of the list.
pub const PAGES_MAX: u8 = 32;
/// Most entries of one page: 62 of 17 bytes fit a datagram.
pub const PAGE_ENTRIES_MAX: usize = 62;

const ENTRY_SITE: u8 = 1;
const ENTRY_CERTIFICATE: u8 = 2;

/// What is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Revoked {
    /// Every certificate of a site, past and future: its identity key is not to be trusted any more.
    Site(SiteId),
    /// One certificate, by its fingerprint: the site may have another.
    Certificate([u8; 16]),
}

/// One page of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationPage {
    /// The mesh.
    pub mesh: MeshId,
    /// Index of the page, below [`PAGES_MAX`].
    pub page: u8,
    /// Replaces a page with the same index and a smaller number. At least 1.
    pub number: u64,
    /// When it was made, Unix time in seconds.
    pub made_unix: u64,
    /// The entries, ascending.
    pub entries: Vec<Revoked>,
    bytes: Arc<[u8]>,
}

impl RevocationPage {
    /// Signs a page. `entries` are sorted; no more than [`PAGE_ENTRIES_MAX`] are taken.
    fn sign(page: u8, number: u64, made_unix: u64, mut entries: Vec<Revoked>, authority: &AuthorityKey) -> Self {
        entries.sort_unstable();
        entries.dedup();
        let mesh = authority.mesh();
        let mut bytes = Vec::with_capacity(DATAGRAM_MAX);
        Header { kind: Kind::Revocations, mesh }.encode(&mut bytes);
        bytes.push(page);
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(&made_unix.to_be_bytes());
        bytes.push(entries.len() as u8);
        for entry in &entries {
            let (kind, id) = match entry {
                Revoked::Site(site) => (ENTRY_SITE, site.0),
                Revoked::Certificate(fingerprint) => (ENTRY_CERTIFICATE, *fingerprint),
            };
            bytes.push(kind);
            bytes.extend_from_slice(&id);
        }
        let signature = authority.sign(REVOCATIONS_DOMAIN, &bytes);
        bytes.extend_from_slice(&signature);
        Self { mesh, page, number, made_unix, entries, bytes: bytes.into() }
    }

    /// Reads the rest of a page after its header. `datagram` is the whole.
    pub fn decode(header: Header, mut reader: Reader<'_>, datagram: &[u8]) -> Result<Self, DecodeError> {
        let page = reader.u8("page")?;
        if page >= PAGES_MAX {
            return Err(DecodeError::Invalid { field: "page", why: "not in 0..=31" });
        }
        let number = reader.u64("number of the page")?;
        if number == 0 || number > super::persist::SEQUENCE_MAX {
            return Err(DecodeError::Invalid { field: "number of the page", why: "out of range" });
        }
        let made_unix = reader.u64("time")?;
        let count = usize::from(reader.u8("number of entries")?);
        if count > PAGE_ENTRIES_MAX {
            return Err(DecodeError::Invalid { field: "number of entries", why: "more than 62" });
        }
        let mut entries: Vec<Revoked> = Vec::with_capacity(count);
        for _ in 0..count {
            let kind = reader.u8("kind of entry")?;
            let id = reader.array("entry")?;
            let entry = match kind {
                ENTRY_SITE => Revoked::Site(SiteId(id)),
                ENTRY_CERTIFICATE => Revoked::Certificate(id),
                _ => return Err(DecodeError::Invalid { field: "kind of entry", why: "unknown" }),
            };
            if entries.last().is_some_and(|last| *last >= entry) {
                return Err(DecodeError::Invalid { field: "entry", why: "entries are not in ascending order" });
            }
            entries.push(entry);
        }
        reader.signature("signature of the page")?;
        Ok(Self { mesh: header.mesh, page, number, made_unix, entries, bytes: datagram.into() })
    }

    /// Reads a whole datagram that must be a page.
    pub fn decode_datagram(datagram: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(datagram);
        let header = Header::decode(&mut reader)?;
        match header.kind {
            Kind::Revocations => Self::decode(header, reader, datagram),
            _ => Err(DecodeError::Invalid { field: "kind", why: "not a page of revocations" }),
        }
    }

    /// Checks that this authority signed it.
    pub fn verify(&self, authority: &VerifyingKey) -> Result<(), BadSignature> {
        let (signed, signature) = split_signature(&self.bytes);
        wire::verify(authority, REVOCATIONS_DOMAIN, signed, &signature)
    }

    /// The datagram.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }
}

/// The list: the newest known page of each index. Holds verified pages only.
#[derive(Clone, Debug, Default)]
pub struct RevocationList {
    pages: BTreeMap<u8, RevocationPage>,
}

/// The list has no room left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the revocation list is full ({} entries): start a new mesh authority and admit the sites that remain", most())]
pub struct ListFull;

const fn most() -> usize {
    PAGES_MAX as usize * PAGE_ENTRIES_MAX
}

impl RevocationList {
    /// Takes a page that was verified. `false`: the one held is as new or newer.
    pub fn insert(&mut self, page: RevocationPage) -> bool {
        if self.pages.get(&page.page).is_some_and(|held| held.number >= page.number) {
            return false;
        }
        self.pages.insert(page.page, page);
        true
    }

    /// The held page of an index.
    pub fn page(&self, index: u8) -> Option<&RevocationPage> {
        self.pages.get(&index)
    }

    /// All pages.
    pub fn pages(&self) -> impl Iterator<Item = &RevocationPage> {
        self.pages.values()
    }

    /// All entries.
    pub fn entries(&self) -> impl Iterator<Item = Revoked> + '_ {
        self.pages.values().flat_map(|page| page.entries.iter().copied())
    }

    /// Whether a certificate, or its site altogether, is revoked.
    pub fn revokes(&self, certificate: &Certificate) -> bool {
        self.contains(Revoked::Site(certificate.site)) || self.contains(Revoked::Certificate(certificate.fingerprint()))
    }

    /// Whether this very entry is in the list.
    pub fn contains(&self, entry: Revoked) -> bool {
        self.pages.values().any(|page| page.entries.binary_search(&entry).is_ok())
    }

    /// Adds an entry and signs the page it goes to. `None`: it was there already.
    pub fn revoke(&mut self, entry: Revoked, now_unix: u64, key: &AuthorityKey) -> Result<Option<u8>, ListFull> {
        if self.contains(entry) {
            return Ok(None);
        }
        let room = |index: &u8| self.pages.get(index).is_none_or(|page| page.entries.len() < PAGE_ENTRIES_MAX);
        let index = (0..PAGES_MAX).find(room).ok_or(ListFull)?;
        let number = self.pages.values().map(|page| page.number).max().unwrap_or(0) + 1;
        let mut entries = self.pages.get(&index).map(|page| page.entries.clone()).unwrap_or_default();
        entries.push(entry);
        self.pages.insert(index, RevocationPage::sign(index, number, now_unix, entries, key));
        Ok(Some(index))
    }

    /// All pages in one byte string, each after its length (2 bytes): the content of the revocations file.
    pub fn to_file(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for page in self.pages.values() {
            out.extend_from_slice(&(page.bytes.len() as u16).to_be_bytes());
            out.extend_from_slice(&page.bytes);
        }
        out
    }

    /// Reads what [`Self::to_file`] wrote and verifies each page.
    pub fn from_file(bytes: &[u8], authority: &VerifyingKey) -> Result<Self, ListError> {
        let mut list = Self::default();
        let mut reader = Reader::new(bytes);
        while reader.consumed().len() < bytes.len() {
            let length = usize::from(reader.u16("length of a page")?);
            let page = RevocationPage::decode_datagram(reader.take(length, "page")?)?;
            page.verify(authority)?;
            list.insert(page);
        }
        Ok(list)
    }
}

/// A revocations file that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// Not a list.
    #[error("the revocations can't be read ({0}): copy the file from the authority again")]
    Decode(#[from] DecodeError),
    /// Not signed by the authority.
    #[error("the revocations are not signed by this mesh's authority ({0}): copy the file from the authority again")]
    Signature(#[from] BadSignature),
}
