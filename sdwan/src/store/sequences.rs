//! Sequence numbers and revocations: what trust keeps over a restart.

use std::sync::Arc;

use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError};
use crate::engine::types::SiteId;
use crate::trust::persist::{self, SEQUENCE_MAX, SequenceStore, StoredAnnouncement, StoredRevocations};

/// The store as trust sees it. Every change is on the disk when its call returns.
#[derive(Clone, Debug)]
pub struct Sequences(Store);

impl Store {
    /// The store as trust sees it.
    pub fn sequences(&self) -> Sequences {
        Sequences(self.clone())
    }
}

fn failed(action: &'static str) -> impl FnOnce(StoreError) -> persist::StoreError {
    move |error| persist::StoreError { action, source: error.into() }
}

/// A number out of the database; they are never negative there.
fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// A number for the database, which has signed ones.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl SequenceStore for Sequences {
    fn load(&mut self) -> Result<Vec<StoredAnnouncement>, persist::StoreError> {
        let sql = "SELECT site, sequence, accepted_s, bytes FROM announcements";
        let announcement = |row: &rusqlite::Row<'_>| {
            Ok(StoredAnnouncement {
                site: SiteId(row.get(0)?),
                sequence: unsigned(row.get(1)?),
                accepted_unix: unsigned(row.get(2)?),
                bytes: Arc::from(row.get::<_, Vec<u8>>(3)?),
            })
        };
        self.0.read(|reader| reader.rows(sql, [], announcement)).map_err(failed("load announcements from"))
    }

    fn record(&mut self, accepted: &[StoredAnnouncement]) -> Result<(), persist::StoreError> {
        let accepted = accepted.to_vec();
        let change = move |transaction: &rusqlite::Transaction<'_>| {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO announcements (site, sequence, accepted_s, bytes) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (site) DO UPDATE SET sequence = ?2, accepted_s = ?3, bytes = ?4 WHERE sequence <= ?2",
            )?;
            for entry in &accepted {
                let (sequence, time) = (signed(entry.sequence), signed(entry.accepted_unix));
                insert.execute(params![entry.site.0, sequence, time, &entry.bytes[..]])?;
            }
            Ok(())
        };
        self.0.durable("record announcements in the database", change).map_err(failed("record announcements in"))
    }

    fn forget(&mut self, site: SiteId) -> Result<(), persist::StoreError> {
        let change = move |transaction: &rusqlite::Transaction<'_>| {
            transaction.execute("UPDATE announcements SET bytes = x'' WHERE site = ?1", [site.0]).map(drop)
        };
        self.0.durable("forget an announcement in the database", change).map_err(failed("forget an announcement in"))
    }

    fn reserve_own(&mut self, count: u64, at_least: u64) -> Result<u64, persist::StoreError> {
        let change = move |transaction: &rusqlite::Transaction<'_>| {
            let next: Option<i64> = transaction
                .query_row("SELECT next FROM own_sequence WHERE one = 1", [], |row| row.get(0))
                .optional()?;
            let first = next.map_or(1, unsigned).max(at_least).max(1);
            let Some(end) = first.checked_add(count).filter(|end| *end <= SEQUENCE_MAX) else { return Ok(None) };
            transaction.execute("INSERT OR REPLACE INTO own_sequence (one, next) VALUES (1, ?1)", [signed(end)])?;
            Ok(Some(first))
        };
        let action = "reserve sequence numbers in";
        self.0.durable("reserve sequence numbers in the database", change).map_err(failed(action))?.ok_or_else(|| {
            persist::StoreError {
                action,
                source: "the sequence numbers are used up; make a new identity with `sdwan site init`".into(),
            }
        })
    }

    fn load_revocations(&mut self) -> Result<Vec<StoredRevocations>, persist::StoreError> {
        let page = |row: &rusqlite::Row<'_>| {
            Ok(StoredRevocations {
                page: row.get(0)?,
                number: unsigned(row.get(1)?),
                bytes: Arc::from(row.get::<_, Vec<u8>>(2)?),
            })
        };
        let sql = "SELECT page, number, bytes FROM revocations ORDER BY page";
        self.0.read(|reader| reader.rows(sql, [], page)).map_err(failed("load revocations from"))
    }

    fn record_revocations(&mut self, page: &StoredRevocations) -> Result<(), persist::StoreError> {
        let page = page.clone();
        let change = move |transaction: &rusqlite::Transaction<'_>| {
            transaction
                .execute(
                    "INSERT INTO revocations (page, number, bytes) VALUES (?1, ?2, ?3)
                     ON CONFLICT (page) DO UPDATE SET number = ?2, bytes = ?3 WHERE number <= ?2",
                    params![page.page, signed(page.number), &page.bytes[..]],
                )
                .map(drop)
        };
        self.0.durable("record revocations in the database", change).map_err(failed("record revocations in"))
    }
}
