//! The thread that talks to the store, so that a slow disk stalls nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::core::{RESERVATION, StoreRequest};
use crate::confine::precedence;
use crate::engine::types::SiteId;
use crate::trust::persist::{SequenceStore, StoreError, StoredAnnouncement, StoredRevocations};

/// Batches waiting for the thread.
const QUEUE: usize = 16;
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// What the thread did.
#[derive(Debug)]
pub(super) enum StoreReply {
    /// Numbers `first..first + count` are this site's.
    Reserved { first: u64, count: u64 },
    /// No numbers could be reserved.
    NotReserved(String),
    /// Something could not be recorded; it is tried again.
    Failed(String),
}

/// What was stored before.
pub(super) struct Loaded {
    pub announcements: Vec<StoredAnnouncement>,
    pub revocations: Vec<StoredRevocations>,
    pub first_number: u64,
}

enum Command {
    Batch(Vec<StoreRequest>),
    Flush(oneshot::Sender<()>),
}

/// The way to the thread.
pub(super) struct Storage {
    commands: mpsc::Sender<Command>,
    pub replies: mpsc::Receiver<StoreReply>,
}

impl Storage {
    /// Starts the thread, which loads what is stored and reserves the first numbers.
    pub async fn start(store: Box<dyn SequenceStore>) -> Result<(Self, Loaded), StoreError> {
        let (commands, receiver) = mpsc::channel(QUEUE);
        let (reply, replies) = mpsc::channel(QUEUE);
        let (loaded, load) = oneshot::channel();
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| StoreError { action: "open", source };
        std::thread::Builder::new()
            .name("discovery-store".into())
            .spawn(move || {
                precedence::give_up();
                run(store, receiver, reply, loaded);
            })
            .map_err(|error| failed(error.into()))?;
        let loaded = load.await.map_err(|_| failed("its thread ended".into()))??;
        Ok((Self { commands, replies }, loaded))
    }

    /// Whether the thread would take another batch now.
    pub fn is_ready(&self) -> bool {
        self.commands.capacity() > 0
    }

    /// Hands a batch over. Only after [`Self::is_ready`]; there is no other sender.
    pub fn send(&self, batch: Vec<StoreRequest>) {
        if self.commands.try_send(Command::Batch(batch)).is_err() {
            tracing::error!("the discovery store's thread ended");
        }
    }

    /// Waits until everything handed over before is on disk, at most this long.
    pub async fn flush(&self, at_most: Duration) -> bool {
        let (done, wait) = oneshot::channel();
        let flush = async {
            self.commands.send(Command::Flush(done)).await.ok()?;
            wait.await.ok()
        };
        matches!(tokio::time::timeout(at_most, flush).await, Ok(Some(())))
    }
}

/// What failed and is tried again; newer requests replace older ones.
#[derive(Default)]
struct Pending {
    records: BTreeMap<SiteId, StoredAnnouncement>,
    forget: BTreeMap<SiteId, ()>,
    revocations: BTreeMap<u8, StoredRevocations>,
}

impl Pending {
    fn add(&mut self, request: StoreRequest) -> Option<u64> {
        match request {
            StoreRequest::Record(records) => {
                for record in records {
                    self.forget.remove(&record.site);
                    self.records.insert(record.site, record);
                }
            }
            StoreRequest::Revocations(page) => {
                self.revocations.insert(page.page, page);
            }
            StoreRequest::Forget(site) => {
                self.forget.insert(site, ());
            }
            StoreRequest::Reserve { at_least } => return Some(at_least),
        }
        None
    }

    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.forget.is_empty() && self.revocations.is_empty()
    }

    fn write(&mut self, store: &mut dyn SequenceStore) -> Result<(), StoreError> {
        if !self.records.is_empty() {
            let records: Vec<_> = self.records.values().cloned().collect();
            store.record(&records)?;
            self.records.clear();
        }
        while let Some((site, ())) = self.forget.first_key_value() {
            store.forget(*site)?;
            self.forget.pop_first();
        }
        while let Some((_, page)) = self.revocations.first_key_value() {
            store.record_revocations(page)?;
            self.revocations.pop_first();
        }
        Ok(())
    }
}

fn run(
    mut store: Box<dyn SequenceStore>,
    mut commands: mpsc::Receiver<Command>,
    reply: mpsc::Sender<StoreReply>,
    loaded: oneshot::Sender<Result<Loaded, StoreError>>,
) {
    let load = load(store.as_mut());
    let failed = load.is_err();
    if loaded.send(load).is_err() || failed {
        return;
    }
    let mut pending = Pending::default();
    // A disk may be full for days: the same trouble is told once.
    let mut told = None;
    while let Some(command) = commands.blocking_recv() {
        match command {
            Command::Batch(requests) => {
                for at_least in requests.into_iter().filter_map(|request| pending.add(request)).collect::<Vec<_>>() {
                    let answer = match store.reserve_own(RESERVATION, at_least) {
                        Ok(first) => StoreReply::Reserved { first, count: RESERVATION },
                        Err(error) => StoreReply::NotReserved(error.to_string()),
                    };
                    if reply.blocking_send(answer).is_err() {
                        return;
                    }
                }
            }
            Command::Flush(done) => {
                if !pending.is_empty() {
                    std::thread::sleep(RETRY / 10);
                }
                let result = pending.write(store.as_mut());
                if let Err(error) = result {
                    tracing::error!(%error, "what discovery learned last is not stored");
                }
                // Nobody waits any more when the time was up.
                let _ = done.send(());
                continue;
            }
        }
        match pending.write(store.as_mut()) {
            Ok(()) => told = None,
            Err(error) => {
                let text = Some(error.to_string());
                if told != text && reply.blocking_send(StoreReply::Failed(error.to_string())).is_err() {
                    return;
                }
                told = text;
                std::thread::sleep(RETRY);
            }
        }
    }
}

fn load(store: &mut dyn SequenceStore) -> Result<Loaded, StoreError> {
    Ok(Loaded {
        announcements: store.load()?,
        revocations: store.load_revocations()?,
        first_number: store.reserve_own(RESERVATION, 1)?,
    })
}
