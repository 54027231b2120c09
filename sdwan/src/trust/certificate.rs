//! Certificates, which admit a site to a mesh, and the requests they answer.

use ed25519_dalek::VerifyingKey;
use ipnet::IpNet;

use super::keys::{AuthorityKey, IdentityKey};
use super::wire::{self, BadSignature, DecodeError, EncodeError, Reader, SIGNATURE_LENGTH};
use crate::engine::types::{MeshId, SiteId};

/// Domain tag of a certificate's signature.
pub const CERTIFICATE_DOMAIN: &[u8] = b"sdwan certificate v1\0";
/// Domain tag of a request's signature.
pub const REQUEST_DOMAIN: &[u8] = b"sdwan site request v1\0";
/// Largest certificate, bytes: leaves room for the rest of an announcement.
pub const CERTIFICATE_MAX: usize = 512;

const CERTIFICATE_TAG: [u8; 4] = *b"SDWC";
const REQUEST_TAG: [u8; 4] = *b"SDWR";

/// What the authority says of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateContent {
    /// The mesh.
    pub mesh: MeshId,
    /// The site's identity: an Ed25519 public key.
    pub identity: [u8; 32],
    /// Name of the site.
    pub name: String,
    /// Valid from this Unix time in seconds.
    pub not_before: u64,
    /// Not valid from this Unix time in seconds on; larger than `not_before`.
    pub not_after: u64,
    /// Every prefix that the site announces lies in one of these.
    pub prefixes: Vec<IpNet>,
}

/// A certificate as it was decoded or signed: content, exact bytes, signature.
///
/// Decoding says nothing of its authenticity; [`Self::verify`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// What it says.
    pub content: CertificateContent,
    /// Id of the site, from its identity.
    pub site: SiteId,
    bytes: Box<[u8]>,
}

impl Certificate {
    /// Signs a certificate.
    pub fn sign(content: CertificateContent, authority: &AuthorityKey) -> Result<Self, EncodeError> {
        if content.not_after <= content.not_before {
            let why = "a certificate ends after it begins";
            return Err(EncodeError::Invalid { what: "dates".into(), why });
        }
        let mut bytes = Vec::with_capacity(CERTIFICATE_MAX);
        bytes.extend_from_slice(&CERTIFICATE_TAG);
        bytes.push(wire::VERSION);
        bytes.extend_from_slice(&content.mesh.0);
        bytes.extend_from_slice(&content.identity);
        wire::put_name(&mut bytes, &content.name)?;
        bytes.extend_from_slice(&content.not_before.to_be_bytes());
        bytes.extend_from_slice(&content.not_after.to_be_bytes());
        wire::put_prefixes(&mut bytes, &content.prefixes)?;
        let signature = authority.sign(CERTIFICATE_DOMAIN, &bytes);
        bytes.extend_from_slice(&signature);
        if bytes.len() > CERTIFICATE_MAX {
            return Err(EncodeError::TooLarge { what: "the certificate", bytes: bytes.len(), most: CERTIFICATE_MAX });
        }
        // Taken from the bytes, so that the prefixes are in the order that everybody else will see.
        Self::decode(&bytes)
            .map_err(|_| EncodeError::Invalid { what: "the identity".into(), why: "not a usable Ed25519 public key" })
    }

    /// Reads a certificate.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > CERTIFICATE_MAX {
            return Err(DecodeError::Invalid { field: "certificate", why: "larger than 512 bytes" });
        }
        let mut reader = Reader::new(bytes);
        open(&mut reader, CERTIFICATE_TAG, "not a certificate")?;
        let mesh = MeshId(reader.array("mesh id")?);
        let identity = reader.array("identity")?;
        let name = reader.name("site name")?.to_owned();
        let not_before = reader.u64("not-before")?;
        let not_after = reader.u64("not-after")?;
        if not_after <= not_before {
            return Err(DecodeError::Invalid { field: "not-after", why: "not after not-before" });
        }
        let prefixes = reader.prefixes("certificate prefixes")?;
        reader.signature("certificate signature")?;
        let content = CertificateContent { mesh, identity, name, not_before, not_after, prefixes };
        Ok(Self { site: wire::site_id(&identity), content, bytes: bytes.into() })
    }

    /// Checks that this authority signed it.
    pub fn verify(&self, authority: &VerifyingKey) -> Result<(), BadSignature> {
        let (signed, signature) = self.split();
        wire::verify(authority, CERTIFICATE_DOMAIN, signed, &signature)
    }

    /// The whole encoding.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Names this very certificate, for its revocation: 16 bytes of SHA-256 over everything but the signature.
    pub fn fingerprint(&self) -> [u8; 16] {
        wire::digest16(self.split().0)
    }

    /// Whether a prefix lies inside one of the allowed prefixes.
    pub fn allows(&self, prefix: &IpNet) -> bool {
        self.content.prefixes.iter().any(|allowed| allowed.contains(prefix))
    }

    /// The site's identity as a key.
    pub fn identity_key(&self) -> Result<VerifyingKey, BadSignature> {
        VerifyingKey::from_bytes(&self.content.identity).map_err(|_| BadSignature)
    }

    fn split(&self) -> (&[u8], [u8; SIGNATURE_LENGTH]) {
        split_signature(&self.bytes)
    }
}

/// A site asks for a certificate and proves that it holds the identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteRequest {
    /// The mesh it wants to join.
    pub mesh: MeshId,
    /// Its identity: an Ed25519 public key.
    pub identity: [u8; 32],
    /// The name it wants.
    pub name: String,
    /// When it was made, Unix time in seconds.
    pub made_unix: u64,
    bytes: Box<[u8]>,
}

impl SiteRequest {
    /// Makes a request.
    pub fn sign(mesh: MeshId, name: &str, made_unix: u64, identity: &IdentityKey) -> Result<Self, EncodeError> {
        let public = identity.public().to_bytes();
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&REQUEST_TAG);
        bytes.push(wire::VERSION);
        bytes.extend_from_slice(&mesh.0);
        bytes.extend_from_slice(&public);
        wire::put_name(&mut bytes, name)?;
        bytes.extend_from_slice(&made_unix.to_be_bytes());
        let signature = identity.sign(REQUEST_DOMAIN, &bytes);
        bytes.extend_from_slice(&signature);
        Ok(Self { mesh, identity: public, name: name.to_owned(), made_unix, bytes: bytes.into() })
    }

    /// Reads a request and checks that whoever made it holds the identity.
    pub fn open(bytes: &[u8]) -> Result<Self, RequestError> {
        let mut reader = Reader::new(bytes);
        open(&mut reader, REQUEST_TAG, "not a request")?;
        let mesh = MeshId(reader.array("mesh id")?);
        let identity = reader.array("identity")?;
        let name = reader.name("site name")?.to_owned();
        let made_unix = reader.u64("time")?;
        let signed = reader.consumed();
        let signature = reader.clone().signature("request signature")?;
        let key = VerifyingKey::from_bytes(&identity).map_err(|_| BadSignature)?;
        wire::verify(&key, REQUEST_DOMAIN, signed, &signature)?;
        Ok(Self { mesh, identity, name, made_unix, bytes: bytes.into() })
    }

    /// Id of the site.
    pub fn site(&self) -> SiteId {
        wire::site_id(&self.identity)
    }

    /// The whole encoding.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// A request that can't be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not a request.
    #[error("the request can't be read ({0}): transfer it again, or make it anew with `sdwan site init`")]
    Decode(#[from] DecodeError),
    /// Not made by the holder of the identity.
    #[error("the request was changed on its way ({0}): transfer it again from the site")]
    Signature(#[from] BadSignature),
}

/// Splits the signature off signed bytes. Shorter input, which no decoder lets through, gives an empty message.
pub(super) fn split_signature(bytes: &[u8]) -> (&[u8], [u8; SIGNATURE_LENGTH]) {
    match bytes.split_last_chunk::<SIGNATURE_LENGTH>() {
        Some((signed, signature)) => (signed, *signature),
        None => (&[], [0; SIGNATURE_LENGTH]),
    }
}

fn open(reader: &mut Reader<'_>, tag: [u8; 4], why: &'static str) -> Result<(), DecodeError> {
    if reader.array::<4>("tag")? != tag {
        return Err(DecodeError::Invalid { field: "tag", why });
    }
    match reader.u8("version")? {
        wire::VERSION => Ok(()),
        other => Err(DecodeError::Version(other)),
    }
}
