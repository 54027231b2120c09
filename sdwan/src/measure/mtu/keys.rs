//! What probes of path MTUs are authenticated with: a key for each pair of sites, from their WireGuard keys.
//!
//! The shared secret is X25519 of the two static keys (RFC 7748), the key HKDF-SHA-256 of it (RFC 5869). Nobody but the
//! two sites can compute it, and nothing has to be exchanged for it.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::trust::keys::WireGuardKey;

/// Length of an authentication code on the wire, bytes.
pub const CODE_LENGTH: usize = 16;

/// Salt of the derivation: keys for one purpose are of no use for another.
const DOMAIN: &[u8] = b"sdwan path mtu probe v1";

/// The keys that are shared with one site. The first one authenticates what we send; all are accepted, so that nothing
/// is lost while either end replaces its WireGuard key.
#[derive(Clone, Default)]
pub struct PeerKeys {
    keys: Vec<Zeroizing<[u8; 32]>>,
}

impl PeerKeys {
    /// From our keys and the other site's public ones, those in use first. A public key that is no point of the curve's
    /// large group has no secret to share and gives no key.
    pub fn derive(own: &[WireGuardKey], remote: impl IntoIterator<Item = [u8; 32]> + Clone) -> Self {
        let pairs = own.iter().flat_map(|own| remote.clone().into_iter().map(move |remote| (own, remote)));
        Self { keys: pairs.filter_map(|(own, remote)| derive(own, &remote)).collect() }
    }

    /// Code of a message that we send; `None` when nothing is shared with this site.
    pub fn sign(&self, message: &[u8]) -> Option<[u8; CODE_LENGTH]> {
        self.keys.first().map(|key| code(key, message))
    }

    /// The key that made this code of a message, by its number.
    pub fn verify(&self, message: &[u8], code: &[u8; CODE_LENGTH]) -> Option<usize> {
        // Compared in constant time.
        self.keys.iter().position(|key| keyed(&**key, message).verify_truncated_left(code).is_ok())
    }

    /// Code by the key of this number: an answer is authenticated as the question was.
    pub fn sign_with(&self, number: usize, message: &[u8]) -> Option<[u8; CODE_LENGTH]> {
        self.keys.get(number).map(|key| code(key, message))
    }
}

/// Keys don't belong into logs.
impl std::fmt::Debug for PeerKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PeerKeys({})", self.keys.len())
    }
}

fn derive(own: &WireGuardKey, remote: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
    let shared = StaticSecret::from(*own.secret()).diffie_hellman(&PublicKey::from(*remote));
    if !shared.was_contributory() {
        return None;
    }
    let own = own.public();
    let (first, second) = if own < *remote { (&own, remote) } else { (remote, &own) };
    // HKDF with one block of output: extract, then expand.
    let extracted = Zeroizing::new(<[u8; 32]>::from(keyed(DOMAIN, shared.as_bytes()).finalize().into_bytes()));
    let expanded = keyed(&*extracted, &[&first[..], &second[..], &[1]].concat()).finalize().into_bytes();
    Some(Zeroizing::new(expanded.into()))
}

fn code(key: &[u8; 32], message: &[u8]) -> [u8; CODE_LENGTH] {
    let whole: [u8; 32] = keyed(key, message).finalize().into_bytes().into();
    let mut code = [0; CODE_LENGTH];
    code.copy_from_slice(&whole[..CODE_LENGTH]);
    code
}

fn keyed(key: &[u8], message: &[u8]) -> Hmac<Sha256> {
    let Ok(mut keyed) = <Hmac<Sha256> as Mac>::new_from_slice(key) else {
        unreachable!("HMAC takes keys of any length")
    };
    keyed.update(message);
    keyed
}
