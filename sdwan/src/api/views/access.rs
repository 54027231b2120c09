//! Tokens, and who changed what.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::VERSION;
use crate::api::access::Role;
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

/// `GET /v1/session`: who asks, and what they may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionView {
    /// [`super::VERSION`].
    pub version: u32,
    /// Who, as the audit log names them.
    pub who: String,
    /// What they may do.
    pub role: Role,
    /// They logged in to the dashboard.
    pub logged_in: bool,
    /// The login ends after so long, s.
    pub expires_in_s: Option<u64>,
    /// Where the dashboard is; empty: nowhere.
    pub addresses: Vec<String>,
}

/// `POST /v1/session`: log in.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginOrder {
    /// A code of `sdwan dashboard --login`, or a token.
    pub secret: String,
}

impl std::fmt::Debug for LoginOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoginOrder").finish_non_exhaustive()
    }
}

/// `POST /v1/session/code`: make a code for one login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CodeOrder {
    /// What whoever logs in with it may do.
    pub role: Role,
    /// The login lasts so long, s: 60 to 604,800.
    pub valid_s: u64,
}

/// A code for one login.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CodeView {
    /// [`super::VERSION`].
    pub version: u32,
    /// The code.
    pub code: String,
    /// What whoever logs in with it may do.
    pub role: Role,
    /// The login lasts so long, s.
    pub valid_s: u64,
    /// The code is of use for so long, s.
    pub code_valid_s: u64,
    /// Where the dashboard is; empty: nowhere.
    pub addresses: Vec<String>,
}
