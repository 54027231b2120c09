//! Why a datagram is not believed.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::engine::types::SiteId;
use crate::trust::wire::DecodeError;

/// Reasons, in the order in which they are checked.
macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a datagram was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Refusal { $($(#[$doc])* $name,)* }

        impl Refusal {
            /// Every reason.
            pub const ALL: [Self; [$($text),*].len()] = [$(Self::$name),*];

            /// Name in events and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

refusals! {
    /// Larger than 1,200 bytes.
    Oversized = "oversized",
    /// The bytes end inside a field.
    Truncated = "truncated",
    /// Not a message of ours, or a field with a value that no encoder writes.
    Malformed = "malformed",
    /// A version that this release doesn't know.
    Version = "version",
    /// Another mesh.
    WrongMesh = "wrong-mesh",
    /// A sequence number that is not newer than the last one accepted.
    Replayed = "replayed",
    /// The source, or all sources together, ask for more verifications than are allowed.
    RateLimited = "rate-limited",
    /// The authority didn't sign the certificate, or the revocations.
    BadCertificateSignature = "bad-certificate-signature",
    /// The certificate is not valid yet.
    NotYetValid = "not-yet-valid",
    /// The certificate is not valid any more.
    Expired = "expired",
    /// The certificate or the site is revoked.
    Revoked = "revoked",
    /// The site didn't sign the announcement.
    BadSignature = "bad-signature",
    /// A prefix that the certificate doesn't allow, or one inside the overlay prefix.
    PrefixOutsideCertificate = "prefix-outside-certificate",
    /// First contact, and the sender's time is more than a day off: an old recording, or a wrong clock.
    ClockSkew = "clock-skew",
    /// Another active site with an older certificate has the same overlay address.
    OverlayCollision = "overlay-collision",
    /// Another active site announced the same WireGuard key first.
    KeyInUse = "key-in-use",
    /// More sites than this gateway keeps.
    TooManySites = "too-many-sites",
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Refusal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl From<&DecodeError> for Refusal {
    fn from(error: &DecodeError) -> Self {
        match error {
            DecodeError::Truncated(_) => Self::Truncated,
            DecodeError::Version(_) => Self::Version,
            DecodeError::Trailing(_) | DecodeError::Invalid { .. } => Self::Malformed,
        }
    }
}

/// A refusal and whom it concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: Refusal,
    /// The site that the datagram claims to come from, if it was read that far. Not proven.
    pub claimed: Option<SiteId>,
}

impl From<Refusal> for Refused {
    fn from(reason: Refusal) -> Self {
        Self { reason, claimed: None }
    }
}

impl From<DecodeError> for Refused {
    fn from(error: DecodeError) -> Self {
        Refusal::from(&error).into()
    }
}
