//! Every change that somebody asks for is recorded: who, what, how it was before and after, and what became of it.

use serde_json::Value;
use tracing::info;

use super::access::Caller;
use super::server::{Api, Failure};
use crate::measure::clock;
use crate::store::{AuditEntry, AuditOutcome, Record, Store};

/// A change that was made.
pub(super) struct Made<T> {
    /// What is answered.
    pub answer: T,
    /// How it was.
    pub before: Value,
    /// How it is.
    pub after: Value,
    /// The change in a sentence.
    pub message: String,
}

impl Api {
    /// Makes a change and records it. `wanted` is what it is recorded with if it can't be made.
    ///
    /// It goes to its end even when the client goes away meanwhile: what is done is to be told.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        caller: Caller,
        action: &'static str,
        target: String,
        wanted: Value,
        work: impl Future<Output = Result<Made<T>, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        let store = self.store.clone();
        let task = tokio::spawn(async move {
            let outcome = work.await;
            let (before, after, outcome, message, answer) = match outcome {
                Ok(Made { answer, before, after, message }) => (before, after, AuditOutcome::Done, message, Ok(answer)),
                Err(failure) => {
                    let outcome = if failure.is_refusal() { AuditOutcome::Refused } else { AuditOutcome::Failed };
                    (Value::Null, wanted, outcome, failure.text().to_owned(), Err(failure))
                }
            };
            let entry = AuditEntry {
                time_unix_ns: clock::unix_ns() as i64,
                who: caller.who,
                via: caller.via.to_owned(),
                source: caller.source,
                role: caller.role.to_string(),
                action: action.to_owned(),
                target,
                before,
                after,
                outcome,
                message,
            };
            record(&store, entry);
            answer
        });
        task.await.map_err(Failure::failed)?
    }
}

/// Logs and stores a change. Never waits: while the disk takes nothing, it is kept in memory like all records, and the log
/// has it at once.
pub fn record(store: &Store, entry: AuditEntry) {
    info!(
        target: "sdwan::audit",
        who = entry.who, via = entry.via, source = entry.source, role = entry.role, action = entry.action,
        of = entry.target, outcome = entry.outcome.name(), "{}", entry.message
    );
    store.record(Record::Audit(Box::new(entry)));
}
