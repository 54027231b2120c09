//! The public description of a mesh (`mesh.toml`), and the overlay addresses that follow from it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::VerifyingKey;
use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::files::{self, FileError};
use super::keys::AuthorityKey;
use super::wire::{self, SIGNATURE_LENGTH};
use crate::engine::types::{MeshId, SiteId};

/// Domain tag of the description's signature.
pub const MESH_DOMAIN: &[u8] = b"sdwan mesh v1\0";

const OVERLAY_DOMAIN: &[u8] = b"sdwan overlay v1\0";
const OVERLAY_PREFIX_DOMAIN: &[u8] = b"sdwan overlay prefix v1\0";
/// Fewest host bits of an overlay prefix.
const HOST_BITS_MIN: u8 = 8;

/// A mesh: everything a site needs to know of it, nothing secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// Id, from the authority's key.
    pub id: MeshId,
    /// Name, for people.
    pub name: String,
    /// The authority's public key.
    pub authority: VerifyingKey,
    /// Every site's overlay address lies in it.
    pub overlay: IpNet,
    signature: [u8; SIGNATURE_LENGTH],
}

/// A description that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not the TOML expected.
    #[error("{path}: {source}")]
    Toml {
        /// The file.
        path: String,
        /// Line and key.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// Key, id and signature don't fit together.
    #[error("{path}: {why}: copy mesh.toml from the mesh authority again, and don't edit it")]
    Inconsistent {
        /// The file.
        path: String,
        /// What doesn't fit.
        why: &'static str,
    },
    /// A name that can't be announced.
    #[error("mesh name {name:?}: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An overlay prefix that can't be used.
    #[error("overlay prefix {prefix}: {why}; take for example 100.64.0.0/10, or leave it out for one of its own")]
    Overlay {
        /// The prefix.
        prefix: IpNet,
        /// What is wrong with it.
        why: &'static str,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    version: u8,
    name: String,
    id: MeshId,
    authority: String,
    overlay_prefix: IpNet,
    signature: String,
}

impl Mesh {
    /// Describes the mesh of an authority. Without `overlay`, a unique local IPv6 /48 (RFC 4193) from the mesh id.
    pub fn new(name: &str, overlay: Option<IpNet>, authority: &AuthorityKey) -> Result<Self, MeshError> {
        wire::check_name(name).map_err(|why| MeshError::Name { name: name.into(), why })?;
        let id = authority.mesh();
        let overlay = overlay.unwrap_or_else(|| default_overlay(id));
        check_overlay(&overlay).map_err(|why| MeshError::Overlay { prefix: overlay, why })?;
        let signature = authority.sign(MESH_DOMAIN, &signed_bytes(id, name, &overlay));
        Ok(Self { id, name: name.into(), authority: authority.public(), overlay, signature })
    }

    /// Reads and checks a `mesh.toml`.
    pub fn read(path: &Path) -> Result<Self, MeshError> {
        Self::from_toml(&files::read_text(path)?, &path.display().to_string())
    }

    /// Reads and checks a description; `path` is for messages.
    pub fn from_toml(text: &str, path: &str) -> Result<Self, MeshError> {
        let raw: Raw =
            toml::from_str(text).map_err(|source| MeshError::Toml { path: path.into(), source: Box::new(source) })?;
        let inconsistent = |why| MeshError::Inconsistent { path: path.into(), why };
        if raw.version != 1 {
            return Err(inconsistent("a version that this release doesn't know"));
        }
        let key = decode::<32>(&raw.authority).ok_or_else(|| inconsistent("the authority's key is not 32 bytes"))?;
        let authority =
            VerifyingKey::from_bytes(&key).map_err(|_| inconsistent("the authority's key is not an Ed25519 key"))?;
        if wire::mesh_id(&key) != raw.id {
            return Err(inconsistent("the id does not belong to the authority's key"));
        }
        wire::check_name(&raw.name).map_err(|why| MeshError::Name { name: raw.name.clone(), why })?;
        check_overlay(&raw.overlay_prefix).map_err(|why| MeshError::Overlay { prefix: raw.overlay_prefix, why })?;
        let signature = decode(&raw.signature).ok_or_else(|| inconsistent("the signature is not 64 bytes"))?;
        wire::verify(&authority, MESH_DOMAIN, &signed_bytes(raw.id, &raw.name, &raw.overlay_prefix), &signature)
            .map_err(|_| inconsistent("the signature does not match"))?;
        Ok(Self { id: raw.id, name: raw.name, authority, overlay: raw.overlay_prefix, signature })
    }

    /// The content of `mesh.toml`.
    pub fn to_toml(&self) -> String {
        format!(
            "# An sdwan mesh: public, signed by its authority. Copy it to every site as it is.\n\
             version = 1\nname = \"{}\"\nid = \"{}\"\nauthority = \"{}\"\noverlay_prefix = \"{}\"\nsignature = \"{}\"\n",
            self.name,
            self.id,
            STANDARD.encode(self.authority.as_bytes()),
            self.overlay,
            STANDARD.encode(self.signature),
        )
    }

    /// The overlay address of a site: the host part is taken from a hash of mesh and site id, so that every site
    /// computes the same without asking anybody.
    pub fn overlay_address(&self, site: SiteId) -> IpAddr {
        let digest = Sha256::new().chain_update(OVERLAY_DOMAIN).chain_update(self.id.0).chain_update(site.0).finalize();
        let hash = u128::from_be_bytes(std::array::from_fn(|index| digest[index]));
        match self.overlay {
            IpNet::V4(prefix) => {
                let mask = u32::from(prefix.hostmask());
                // Neither the network's own address nor its broadcast address.
                let host = (hash % u128::from(mask - 1)) as u32 + 1;
                IpAddr::V4(Ipv4Addr::from(u32::from(prefix.network()) | host))
            }
            IpNet::V6(prefix) => {
                let mask = u128::from(prefix.hostmask());
                // Not the subnet-router anycast address (RFC 4291 section 2.6.1).
                let host = (hash & mask).max(1);
                IpAddr::V6(Ipv6Addr::from(u128::from(prefix.network()) | host))
            }
        }
    }
}

/// The overlay prefix of a mesh that wasn't given one: `fd` and 40 bits of a hash of the mesh id.
pub fn default_overlay(mesh: MeshId) -> IpNet {
    let digest = Sha256::new().chain_update(OVERLAY_PREFIX_DOMAIN).chain_update(mesh.0).finalize();
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&digest[..5]);
    IpNet::V6(Ipv6Net::new_assert(octets.into(), 48))
}

fn signed_bytes(id: MeshId, name: &str, overlay: &IpNet) -> Vec<u8> {
    [&id.0[..], &[name.len() as u8], name.as_bytes(), overlay.to_string().as_bytes()].concat()
}

fn check_overlay(prefix: &IpNet) -> Result<(), &'static str> {
    wire::check_prefix(prefix)?;
    if prefix.max_prefix_len() - prefix.prefix_len() < HOST_BITS_MIN {
        return Err("too small, at least 8 host bits are needed");
    }
    if prefix.prefix_len() < 8 {
        return Err("too large, the prefix length is at least 8");
    }
    Ok(())
}

fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::keys::Secret;

    fn authority() -> AuthorityKey {
        AuthorityKey::from_secret(&Secret::new([1; 32]))
    }

    #[test]
    fn a_description_reads_back_and_an_edited_one_does_not() {
        let mesh = Mesh::new("acme", None, &authority()).unwrap();
        let text = mesh.to_toml();
        assert_eq!(Mesh::from_toml(&text, "mesh.toml").unwrap(), mesh);
        for (from, to) in [("acme", "acne"), ("/48", "/40"), ("version = 1", "version = 2")] {
            let error = Mesh::from_toml(&text.replacen(from, to, 1), "mesh.toml").unwrap_err();
            assert!(error.to_string().contains("mesh.toml") || error.to_string().contains("prefix"), "{error}");
        }
        assert!(matches!(Mesh::from_toml("name = 3", "mesh.toml"), Err(MeshError::Toml { .. })));
    }

    #[test]
    fn the_default_overlay_is_a_unique_local_48() {
        let IpNet::V6(prefix) = default_overlay(authority().mesh()) else { panic!("not IPv6") };
        assert_eq!(prefix.prefix_len(), 48);
        assert_eq!(prefix.network().octets()[0], 0xfd);
    }

    #[test]
    fn overlay_addresses_lie_in_the_prefix_and_are_never_its_ends() {
        for prefix in ["192.168.7.0/24", "100.64.0.0/10", "fd00:1::/48", "fd00:1::/120"] {
            let prefix: IpNet = prefix.parse().unwrap();
            let mesh = Mesh::new("acme", Some(prefix), &authority()).unwrap();
            for number in 0..2_000u16 {
                let mut id = [0; 16];
                id[..2].copy_from_slice(&number.to_be_bytes());
                let address = mesh.overlay_address(SiteId(id));
                assert!(prefix.contains(&address));
                assert_ne!(address, prefix.network());
                assert!(prefix.max_prefix_len() == 128 || address != prefix.broadcast());
            }
        }
    }

    #[test]
    fn overlay_prefixes_that_cannot_work_are_refused() {
        for prefix in ["10.0.0.0/25", "224.0.0.0/8", "fe80::/64", "10.0.0.1/16", "::/0"] {
            assert!(Mesh::new("acme", Some(prefix.parse().unwrap()), &authority()).is_err(), "{prefix}");
        }
    }
}
