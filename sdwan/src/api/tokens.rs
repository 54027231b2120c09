//! Bearer tokens (RFC 6750) for viewers. A token is 256 random bits and only its SHA-256 is kept: nothing that is stored
//! lets anybody in, and no slower hash is needed.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore as _;
use sha2::{Digest, Sha256};

use crate::measure::clock;
use crate::store::{Store, StoreError, TokenRecord};

/// What every token begins with, so that a search for leaked secrets finds it.
const PREFIX: &str = "sdwan_";
/// Random bytes of a token.
const LENGTH: usize = 32;

/// The tokens that are valid, by hash; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Arc<RwLock<HashMap<[u8; 32], Entry>>>);

#[derive(Clone, Debug)]
struct Entry {
    name: String,
    expires_unix_s: Option<i64>,
}

/// A new token: the text for whoever uses it, and its hash.
pub fn make() -> (String, [u8; 32]) {
    let mut bytes = [0; LENGTH];
    rand::rng().fill_bytes(&mut bytes);
    let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
    let hash = hash(&text);
    (text, hash)
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

impl Tokens {
    /// Those in the database.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn load(store: &Store) -> Result<Self, StoreError> {
        let tokens = Self::default();
        tokens.reload(store)?;
        Ok(tokens)
    }

    /// Takes them from the database again. Blocks.
    ///
    /// # Errors
    /// When it can't be read: those known before stay.
    pub fn reload(&self, store: &Store) -> Result<(), StoreError> {
        let entry =
            |record: TokenRecord| (record.hash, Entry { name: record.name, expires_unix_s: record.expires_unix_s });
        let entries = store.tokens()?.into_iter().map(entry).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = entries;
        Ok(())
    }

    /// Whether a token with this hash is valid now.
    pub fn knows(&self, hash: &[u8; 32]) -> bool {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let now = clock::unix_s();
        entries.get(hash).is_some_and(|entry| entry.expires_unix_s.is_none_or(|end| now < end))
    }

    /// Name of a token that is valid now. It is looked up by its hash, which somebody who guesses can't steer: how long
    /// that takes tells nothing.
    pub fn find(&self, token: &str) -> Option<String> {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get(&hash(token))?;
        let now = clock::unix_s();
        entry.expires_unix_s.is_none_or(|end| now < end).then(|| entry.name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_until_it_ends_and_no_other_is() {
        let ((good, good_hash), (ended, ended_hash)) = (make(), make());
        let tokens = Tokens::default();
        tokens.0.write().unwrap().extend([
            (good_hash, Entry { name: "grafana".into(), expires_unix_s: Some(i64::MAX) }),
            (ended_hash, Entry { name: "old".into(), expires_unix_s: Some(1) }),
        ]);
        assert_eq!(tokens.find(&good).as_deref(), Some("grafana"));
        assert_eq!((tokens.find(&ended), tokens.find(&make().0), tokens.find("")), (None, None, None));
        assert!(good.starts_with(PREFIX) && good.len() == PREFIX.len() + 43, "{good}");
    }
}
