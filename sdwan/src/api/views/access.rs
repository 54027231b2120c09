//! Tokens, and who changed what.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::VERSION;
use crate::store::AuditEntry;

/// Body of `POST /v1/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenOrder {
    /// Name, by which it is listed, removed, and told in the log: 1 to 32 of `a-z 0-9 -`.
    pub name: String,
    /// It is valid for so many seconds; by default until it is removed.
    #[serde(default)]
    pub valid_s: Option<u64>,
}

/// Answer to `POST /v1/tokens`: the only time that the token is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenMadeView {
    /// [`VERSION`].
    pub version: u32,
    /// Its name.
    pub name: String,
    /// The token, for `Authorization: Bearer …`. It is kept nowhere.
    pub token: String,
    /// When it ends, Unix time in seconds.
    pub expires_unix_s: Option<i64>,
}

impl TokenMadeView {
    /// A token that was made.
    pub fn new(name: String, token: String, expires_unix_s: Option<i64>) -> Self {
        Self { version: VERSION, name, token, expires_unix_s }
    }
}

/// An element of `GET /v1/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Name.
    pub name: String,
    /// When it was made, Unix time in seconds.
    pub created_unix_s: i64,
    /// When it ends, Unix time in seconds; none: when it is removed.
    pub expires_unix_s: Option<i64>,
}

/// An element of `GET /v1/audit`: a change that somebody asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditView {
    /// Number; later ones are larger.
    pub id: i64,
    /// The change.
    #[serde(flatten)]
    pub entry: AuditEntry,
}
