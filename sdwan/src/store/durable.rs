//! Changes that must not be lost: they return when they are on the disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::SystemTime;

use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};

use super::{DURABLE_TIMEOUT, Store, StoreError};
use crate::engine::policy::Policy;
use crate::engine::types::UplinkIndex;

impl Store {
    /// Runs a change in a transaction of its own and waits until it is on the disk.
    pub(super) fn durable<T: Send + 'static>(
        &self,
        action: &'static str,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let given_up = Arc::new(AtomicBool::new(false));
        let abandoned = given_up.clone();
        let job = Box::new(move |connection: &mut rusqlite::Connection| {
            if abandoned.load(Ordering::SeqCst) {
                return;
            }
            let outcome = in_full_sync(connection, change);
            let relaxed = connection.execute_batch("PRAGMA synchronous = NORMAL;");
            // The asker may have given up: then the change is there, and nobody counts on it.
            let _ = sender.send(outcome.and_then(|value| relaxed.map(|()| value)));
        });
        if !self.inner.queue.push_job(job) {
            return Err(StoreError::Closed { path: self.path().into() });
        }
        match receiver.recv_timeout(DURABLE_TIMEOUT) {
            Ok(outcome) => outcome.map_err(self.sqlite(action)),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                given_up.store(true, Ordering::SeqCst);
                Err(StoreError::Timeout { path: self.path().into() })
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(StoreError::Closed { path: self.path().into() }),
        }
    }

    /// Stores policies, all or none. One of the same name is replaced if `replace` says so, else it is a conflict. The
    /// caller has validated them.
    pub fn save_policies(&self, policies: &[Policy], replace: bool) -> Result<(), StoreError> {
        let mut definitions = Vec::with_capacity(policies.len());
        for policy in policies {
            let definition = serde_json::to_string(policy).map_err(|error| StoreError::Content {
                what: format!("policy {:?}", policy.name),
                path: self.path().into(),
                reason: error.to_string(),
            })?;
            definitions.push((policy.name.clone(), definition));
        }
        let taken = self.durable("store policies in the database", move |transaction| {
            let mut known = transaction.prepare("SELECT 1 FROM policies WHERE name = ?1")?;
            for (name, _) in &definitions {
                if !replace && known.exists([name])? {
                    return Ok(Some(name.clone()));
                }
            }
            let mut save = transaction
                .prepare("INSERT OR REPLACE INTO policies (name, definition, changed_s) VALUES (?1, ?2, ?3)")?;
            for (name, definition) in &definitions {
                save.execute(params![name, definition, now_s()])?;
            }
            Ok(None)
        })?;
        taken.map_or(Ok(()), |name| Err(StoreError::Conflict(crate::config::taken(&name))))
    }

    /// Removes a stored policy; `false` when there is none of this name.
    pub fn remove_policy(&self, name: &str) -> Result<bool, StoreError> {
        let name = name.to_owned();
        self.durable("remove a policy from the database", move |transaction| {
            transaction.execute("DELETE FROM policies WHERE name = ?1", [name]).map(|rows| rows > 0)
        })
    }

    /// Gives each uplink its index. A wanted index is given as wanted; any other name gets the one that it had before,
    /// else one that no name has, else that of the name unused for longest. The same names get the same indices for
    /// good.
    pub fn uplink_indices(
        &self,
        uplinks: &[(String, Option<UplinkIndex>)],
    ) -> Result<BTreeMap<String, UplinkIndex>, StoreError> {
        if uplinks.len() > usize::from(UplinkIndex::COUNT) {
            return Err(StoreError::Conflict(format!(
                "{} uplinks, and a site has at most {}: list the ones to use as [[uplink]]",
                uplinks.len(),
                UplinkIndex::COUNT
            )));
        }
        let uplinks = uplinks.to_vec();
        self.durable("give uplinks their numbers in the database", move |transaction| {
            let indices = assign(transaction, &uplinks)?;
            for (name, index) in &indices {
                transaction.execute("DELETE FROM uplinks WHERE name = ?1 OR idx = ?2", params![name, index.get()])?;
                transaction.execute("INSERT INTO uplinks VALUES (?1, ?2, ?3)", params![name, index.get(), now_s()])?;
            }
            Ok(indices)
        })
    }
}

fn in_full_sync<T>(
    connection: &mut rusqlite::Connection,
    change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.execute_batch("PRAGMA synchronous = FULL;")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let value = change(&transaction)?;
    transaction.commit()?;
    Ok(value)
}

fn assign(
    transaction: &Transaction<'_>,
    uplinks: &[(String, Option<UplinkIndex>)],
) -> rusqlite::Result<BTreeMap<String, UplinkIndex>> {
    let mut given: BTreeMap<String, UplinkIndex> =
        uplinks.iter().filter_map(|(name, index)| index.map(|index| (name.clone(), index))).collect();
    let taken = |given: &BTreeMap<String, UplinkIndex>, index| given.values().any(|other| *other == index);
    let mut unnumbered = Vec::new();
    for (name, _) in uplinks.iter().filter(|(_, wanted)| wanted.is_none()) {
        let known: Option<u8> =
            transaction.query_row("SELECT idx FROM uplinks WHERE name = ?1", [name], |row| row.get(0)).optional()?;
        match known.and_then(UplinkIndex::new).filter(|index| !taken(&given, *index)) {
            Some(index) => {
                given.insert(name.clone(), index);
            }
            None => unnumbered.push(name),
        }
    }
    // Indices by how long ago they were used; never used ones first.
    let used: Vec<u8> = transaction
        .prepare("SELECT idx FROM uplinks ORDER BY last_used_s, idx")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let never = (0..UplinkIndex::COUNT).filter(|index| !used.contains(index));
    let order: Vec<UplinkIndex> = never.chain(used.iter().copied()).filter_map(UplinkIndex::new).collect();
    for name in unnumbered {
        if let Some(index) = order.iter().copied().find(|index| !taken(&given, *index)) {
            given.insert(name.clone(), index);
        }
    }
    Ok(given)
}

/// Unix time in seconds.
pub(super) fn now_s() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64)
}
