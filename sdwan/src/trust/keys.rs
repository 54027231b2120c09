//! Key pairs. Secrets are wiped from memory when dropped and never printed.

use std::fmt;

use ed25519_dalek::{SigningKey, VerifyingKey};
use rand_core::{OsRng, RngCore};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::wire::{self, SIGNATURE_LENGTH};
use crate::engine::types::{MeshId, SiteId};

/// 32 secret bytes, wiped when dropped.
pub type Secret = Zeroizing<[u8; 32]>;

/// The mesh authority's key pair (Ed25519): signs certificates, revocations and the description of the mesh.
pub struct AuthorityKey(SigningKey);

/// A site's identity (Ed25519): signs its request and its announcements.
pub struct IdentityKey(SigningKey);

/// A site's WireGuard key pair (X25519).
#[derive(Clone)]
pub struct WireGuardKey(StaticSecret);

impl AuthorityKey {
    /// Makes a new key from the system's random numbers.
    pub fn generate() -> Self {
        Self(SigningKey::generate(&mut OsRng))
    }

    /// From the 32 secret bytes (the seed of RFC 8032).
    pub fn from_secret(secret: &Secret) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// The 32 secret bytes.
    pub fn secret(&self) -> Secret {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public key.
    pub fn public(&self) -> VerifyingKey {
        self.0.verifying_key()
    }

    /// Id of the mesh: it follows from the public key.
    pub fn mesh(&self) -> MeshId {
        wire::mesh_id(self.public().as_bytes())
    }

    pub(super) fn sign(&self, domain: &[u8], message: &[u8]) -> [u8; SIGNATURE_LENGTH] {
        wire::sign(&self.0, domain, message)
    }
}

impl IdentityKey {
    /// Makes a new key from the system's random numbers.
    pub fn generate() -> Self {
        Self(SigningKey::generate(&mut OsRng))
    }

    /// From the 32 secret bytes (the seed of RFC 8032).
    pub fn from_secret(secret: &Secret) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// The 32 secret bytes.
    pub fn secret(&self) -> Secret {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public key.
    pub fn public(&self) -> VerifyingKey {
        self.0.verifying_key()
    }

    /// Id of the site: it follows from the public key.
    pub fn site(&self) -> SiteId {
        wire::site_id(self.public().as_bytes())
    }

    pub(super) fn sign(&self, domain: &[u8], message: &[u8]) -> [u8; SIGNATURE_LENGTH] {
        wire::sign(&self.0, domain, message)
    }
}

impl WireGuardKey {
    /// Makes a new key from the system's random numbers.
    pub fn generate() -> Self {
        let mut secret = Secret::default();
        OsRng.fill_bytes(secret.as_mut());
        // WireGuard tools print keys clamped (RFC 7748 section 5), so keep them that way.
        secret[0] &= 248;
        secret[31] = secret[31] & 127 | 64;
        Self::from_secret(&secret)
    }

    /// From the 32 secret bytes, as `wg genkey` makes them.
    pub fn from_secret(secret: &Secret) -> Self {
        Self(StaticSecret::from(**secret))
    }

    /// The 32 secret bytes: what `wireguard_control::Key` holds.
    pub fn secret(&self) -> Secret {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public key, as announced.
    pub fn public(&self) -> [u8; 32] {
        PublicKey::from(&self.0).to_bytes()
    }
}

/// Shows which key it is, never the secret.
macro_rules! debug_without_secret {
    ($($name:ident: $public:expr),*) => { $(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let public: fn(&Self) -> String = $public;
                write!(f, concat!(stringify!($name), "({})"), public(self))
            }
        }
    )* };
}

debug_without_secret!(
    AuthorityKey: |key| hex::encode(key.public().as_bytes()),
    IdentityKey: |key| hex::encode(key.public().as_bytes()),
    WireGuardKey: |key| hex::encode(key.public())
);
