//! The shared key of authenticated sessions: HMAC-SHA-256 truncated to 128 bits (RFC 8762 section 4.4, RFC 8972
//! section 4.8).

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hmac::{Hmac, Mac};
use sdwan_common::stamp::authenticated::{COVERED, HASH_LENGTH, LENGTH};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Fewest bytes of a key.
const LEAST: usize = 16;
/// Most bytes of a key: the hash's block.
const MOST: usize = 64;

/// A key. Verification takes the same time whatever is wrong.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

/// A key that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It can't be read.
    #[error("cannot read the STAMP key {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others can read it.
    #[error("the STAMP key {path} has mode {mode:04o}: run `chmod 600 {path}`, and make a new key if others had access",
        path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is no key.
    #[error("{path} holds no STAMP key: write {least} to {most} hexadecimal digits in one line, such as the output of \
        `openssl rand -hex 32`", path = path.display(), least = 2 * LEAST, most = 2 * MOST)]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl Key {
    /// From its bytes, of which there are 16 to 64.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if !(LEAST..=MOST).contains(&bytes.len()) {
            return None;
        }
        Hmac::new_from_slice(bytes).ok().map(Self)
    }

    /// From a file of hexadecimal digits, which its owner alone may read.
    ///
    /// # Errors
    /// When it can't be read, others can read it, or it holds something else.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let read = |source| KeyError::Read { path: path.into(), source };
        let mut file = std::fs::File::open(path).map_err(read)?;
        let mode = file.metadata().map_err(read)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.into(), mode });
        }
        let mut text = Zeroizing::new(String::new());
        let most = 2 * MOST as u64 + 16;
        file.by_ref().take(most).read_to_string(&mut text).map_err(read)?;
        let bytes = hex::decode(text.trim()).map(Zeroizing::new).ok();
        bytes.and_then(|bytes| Self::new(&bytes)).ok_or_else(|| KeyError::Malformed { path: path.into() })
    }

    /// Whether the hash of an authenticated base packet is right; false when the payload is shorter than one.
    pub fn verifies_base(&self, payload: &[u8]) -> bool {
        let Some(base) = payload.get(..LENGTH) else { return false };
        let (covered, hash) = base.split_at(COVERED);
        self.0.clone().chain_update(covered).verify_truncated_left(hash).is_ok()
    }

    /// Writes the hash of an authenticated base packet into its place.
    pub fn sign_base(&self, base: &mut [u8; LENGTH]) {
        let hash = truncated(self.0.clone().chain_update(&base[..COVERED]));
        base[COVERED..].copy_from_slice(&hash);
    }

    /// Whether the hash of an HMAC TLV is right: over the packet's sequence number and all TLVs before it.
    pub fn verifies_tlvs(&self, sequence: u32, before: &[u8], hash: &[u8]) -> bool {
        let mac = self.0.clone().chain_update(sequence.to_be_bytes()).chain_update(before);
        hash.len() == HASH_LENGTH && mac.verify_truncated_left(hash).is_ok()
    }

    /// The hash of an HMAC TLV.
    pub fn sign_tlvs(&self, sequence: u32, before: &[u8]) -> [u8; HASH_LENGTH] {
        truncated(self.0.clone().chain_update(sequence.to_be_bytes()).chain_update(before))
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(secret)")
    }
}

fn truncated(mac: Hmac<Sha256>) -> [u8; HASH_LENGTH] {
    let whole = mac.finalize().into_bytes();
    let mut hash = [0; HASH_LENGTH];
    hash.copy_from_slice(&whole[..HASH_LENGTH]);
    hash
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("key");
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
        (directory, path)
    }

    #[test]
    fn the_hash_is_that_of_rfc_4231_cut_to_16_bytes() {
        // Test case 6 has a key longer than we take; case 1: twenty bytes 0b over "Hi There". The sequence number is
        // the first four bytes of the text.
        let key = Key::new(&[0x0b; 20]).expect("a key");
        let hash = key.sign_tlvs(u32::from_be_bytes(*b"Hi T"), b"here");
        assert_eq!(hex::encode(hash), "b0344c61d8db38535ca8afceaf0bf12b");
    }

    #[test]
    fn a_key_file_is_hexadecimal_and_its_owners_alone() {
        let (_kept, path) = file(&format!("{}\n", "0b".repeat(20)), 0o600);
        let key = Key::load(&path).expect("a key");
        assert!(key.verifies_tlvs(1, b"x", &Key::new(&[0x0b; 20]).expect("a key").sign_tlvs(1, b"x")));
        let (_kept, path) = file(&"0b".repeat(20), 0o640);
        assert!(matches!(Key::load(&path), Err(KeyError::Exposed { mode: 0o640, .. })));
        for text in ["", "secret", &"0b".repeat(15), &"0b".repeat(65), &"0g".repeat(20)] {
            let (_kept, path) = file(text, 0o600);
            assert!(matches!(Key::load(&path), Err(KeyError::Malformed { .. })), "{text:?}");
        }
        assert!(matches!(Key::load(Path::new("/nonexistent/key")), Err(KeyError::Read { .. })));
    }

    proptest! {
        #[test]
        fn a_packet_verifies_unless_a_bit_of_it_or_of_the_key_changes(
            bytes in prop::array::uniform32(any::<u8>()), covered in prop::collection::vec(any::<u8>(), COVERED),
            at in 0..LENGTH * 8, other in prop::array::uniform32(any::<u8>()),
        ) {
            prop_assume!(bytes != other);
            let key = Key::new(&bytes).expect("a key");
            let mut base = [0; LENGTH];
            base[..COVERED].copy_from_slice(&covered);
            key.sign_base(&mut base);
            prop_assert!(key.verifies_base(&base));
            prop_assert!(!key.verifies_base(&base[..LENGTH - 1]));
            prop_assert!(!Key::new(&other).expect("a key").verifies_base(&base));
            base[at / 8] ^= 1 << (at % 8);
            prop_assert!(!key.verifies_base(&base));
        }
    }
}
