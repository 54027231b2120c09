//! Keys, certificates, signed announcements: who belongs to the mesh, and what may be believed.
//!
//! `docs/PROTOCOL.md` has the formats, `docs/SECURITY.md` the threat model. Nothing here owns a clock or a socket;
//! [`files`] and [`state`] alone touch the disk.

pub mod announcement;
pub mod certificate;
pub mod clock;
pub mod files;
pub mod keys;
pub mod mesh;
pub mod persist;
pub mod revocation;
pub mod rotation;
pub mod state;
pub mod verifier;
pub mod wire;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;

pub use announcement::LocalAnnouncement;
pub use certificate::{Certificate, CertificateContent, SiteRequest};
pub use keys::{AuthorityKey, IdentityKey, WireGuardKey};
pub use mesh::Mesh;
pub use revocation::{RevocationList, RevocationPage, Revoked};
pub use state::{SiteFiles, SiteState};
pub use verifier::{Now, Refusal, Verdict, Verified, Verifier};
