//! Tokens of the API, and the audit log: who changed what.

use rusqlite::{Transaction, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::durable::now_s;
use super::{Reader, Store, StoreError};

/// A token as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// Name.
    pub name: String,
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    /// When it was made, Unix time in seconds.
    pub created_unix_s: i64,
    /// When it ends, Unix time in seconds; none: never.
    pub expires_unix_s: Option<i64>,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuditOutcome {
    /// It was made.
    Done,
    /// It was not made, for what was asked can't be.
    Refused,
    /// It should have been made, and wasn't, or not whole.
    Failed,
}

impl AuditOutcome {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// A change that somebody asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// When, Unix time in nanoseconds.
    pub time_unix_ns: i64,
    /// Who: `uid 0`, `certificate alice (…)`, `token grafana`.
    pub who: String,
    /// By which way: `unix`, `tls`, `signal`, or `offline` while the daemon wasn't running.
    pub via: String,
    /// Where from: a process, or an address and a port.
    pub source: String,
    /// Role that it was asked with.
    pub role: String,
    /// What: `policies-add`, `reload`, …
    pub action: String,
    /// Of what, such as the names of policies.
    pub target: String,
    /// How it was before, as far as that is known.
    pub before: Value,
    /// How it is now, or was to be.
    pub after: Value,
    /// What became of it.
    pub outcome: AuditOutcome,
    /// The same in a sentence.
    pub message: String,
}

/// Which changes to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Only changes at or after this, Unix time in nanoseconds.
    pub since_unix_ns: Option<i64>,
    /// Most changes: the latest ones.
    pub limit: usize,
}

/// Inserts a change.
pub(super) fn insert_audit(transaction: &Transaction<'_>, entry: &AuditEntry) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO audit (time_ns, who, via, source, role, action, target, before, after, outcome, message)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            entry.time_unix_ns,
            entry.who,
            entry.via,
            entry.source,
            entry.role,
            entry.action,
            entry.target,
            entry.before.to_string(),
            entry.after.to_string(),
            entry.outcome.name(),
            entry.message,
        ])
        .map(drop)
}

impl Reader {
    /// The tokens, by name; those that have ended as well.
    pub fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        self.rows("SELECT name, hash, created_s, expires_s FROM api_tokens ORDER BY name", [], |row| {
            Ok(TokenRecord {
                name: row.get(0)?,
                hash: row.get(1)?,
                created_unix_s: row.get(2)?,
                expires_unix_s: row.get(3)?,
            })
        })
    }

    /// Changes in the order in which they were asked for, with their numbers.
    pub fn audit(&self, query: &AuditQuery) -> Result<Vec<(i64, AuditEntry)>, StoreError> {
        let sql =
            "SELECT id, time_ns, who, via, source, role, action, target, before, after, outcome, message FROM audit
                   WHERE time_ns >= ?1 ORDER BY id DESC LIMIT ?2";
        let parameters =
            params![query.since_unix_ns.unwrap_or(i64::MIN), i64::try_from(query.limit).unwrap_or(i64::MAX)];
        let json = |text: String| serde_json::from_str(&text).unwrap_or(Value::String(text));
        let mut entries = self.rows(sql, parameters, |row| {
            let outcome: String = row.get(10)?;
            let entry = AuditEntry {
                time_unix_ns: row.get(1)?,
                who: row.get(2)?,
                via: row.get(3)?,
                source: row.get(4)?,
                role: row.get(5)?,
                action: row.get(6)?,
                target: row.get(7)?,
                before: json(row.get(8)?),
                after: json(row.get(9)?),
                outcome: match outcome.as_str() {
                    "done" => AuditOutcome::Done,
                    "refused" => AuditOutcome::Refused,
                    _ => AuditOutcome::Failed,
                },
                message: row.get(11)?,
            };
            Ok((row.get(0)?, entry))
        })?;
        entries.reverse();
        Ok(entries)
    }
}

impl Store {
    /// See [`Reader::tokens`].
    pub fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        self.read(Reader::tokens)
    }

    /// See [`Reader::audit`]. What was recorded a moment ago may not be in it yet: [`Store::flush`].
    pub fn audit(&self, query: &AuditQuery) -> Result<Vec<(i64, AuditEntry)>, StoreError> {
        self.read(|reader| reader.audit(query))
    }

    /// Stores a token; one of the same name is a conflict.
    pub fn save_token(&self, name: &str, hash: [u8; 32], expires_unix_s: Option<i64>) -> Result<(), StoreError> {
        let taken = name.to_owned();
        let name = name.to_owned();
        let saved = self.durable("store a token in the database", move |transaction| {
            let sql = "INSERT OR IGNORE INTO api_tokens (name, hash, created_s, expires_s) VALUES (?1, ?2, ?3, ?4)";
            transaction.execute(sql, params![name, hash, now_s(), expires_unix_s]).map(|rows| rows > 0)
        })?;
        match saved {
            true => Ok(()),
            false => Err(StoreError::Conflict(format!(
                "there is a token {taken:?} already: choose another name, or remove that one first"
            ))),
        }
    }

    /// Removes a token; `false` when there is none of this name.
    pub fn remove_token(&self, name: &str) -> Result<bool, StoreError> {
        let name = name.to_owned();
        self.durable("remove a token from the database", move |transaction| {
            transaction.execute("DELETE FROM api_tokens WHERE name = ?1", [name]).map(|rows| rows > 0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Record;

    fn entry(time_unix_ns: i64) -> AuditEntry {
        AuditEntry {
            time_unix_ns,
            who: "uid 0".into(),
            via: "unix".into(),
            source: "process 1".into(),
            role: "admin".into(),
            action: "policies-add".into(),
            target: "erp".into(),
            before: Value::Null,
            after: serde_json::json!([{ "name": "erp" }]),
            outcome: AuditOutcome::Refused,
            message: "why".into(),
        }
    }

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/sdwan.db");
        let store = Store::open(&path, &crate::config::Config::default().store).unwrap();
        (directory, store)
    }

    #[test]
    fn changes_are_read_back_as_they_were_recorded_the_latest_last() {
        let (_directory, store) = store();
        // Far in the future: housekeeping removes nothing.
        let times = [4_000_000_000_000_000_000, 4_000_000_001_000_000_000, 4_000_000_002_000_000_000];
        for time in times {
            store.record(Record::Audit(Box::new(entry(time))));
        }
        store.flush().unwrap();
        let found = store.audit(&AuditQuery { since_unix_ns: Some(times[1]), limit: 10 }).unwrap();
        assert_eq!(found, [(2, entry(times[1])), (3, entry(times[2]))]);
        let latest = store.audit(&AuditQuery { since_unix_ns: None, limit: 1 }).unwrap();
        assert_eq!(latest, [(3, entry(times[2]))]);
    }

    #[test]
    fn a_token_has_a_name_of_its_own_and_is_there_until_it_is_removed() {
        let (_directory, store) = store();
        store.save_token("grafana", [1; 32], Some(7)).unwrap();
        let error = store.save_token("grafana", [2; 32], None).unwrap_err();
        assert!(matches!(&error, StoreError::Conflict(text) if text.contains("\"grafana\" already")), "{error}");
        let tokens = store.tokens().unwrap();
        assert_eq!((tokens.len(), tokens[0].hash, tokens[0].expires_unix_s), (1, [1; 32], Some(7)));
        assert!(store.remove_token("grafana").unwrap() && !store.remove_token("grafana").unwrap());
        assert!(store.tokens().unwrap().is_empty());
    }
}
