//! The `events` ring buffer as a stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Map, MapData, RingBuf};
use sdwan_common::abi::{Event, event_kind};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Error;
use super::load::{Layout, open};
use super::tables::fail;

/// Something that the programs told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaneEvent {
    /// A flow was decided for the first time (sampled).
    NewFlow(Event),
    /// A flow moved.
    MovedFlow(Event),
    /// A path was found silent.
    PathSilent(Event),
}

/// Reads the ring buffer until it is dropped.
pub struct EventStream {
    lost: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl EventStream {
    /// Starts reading into `into`. What finds it full is counted and lost.
    pub fn start(layout: &Layout, into: mpsc::Sender<PlaneEvent>) -> Result<Self, Error> {
        let ring = RingBuf::try_from(Map::RingBuf(open(layout, "events")?)).map_err(fail("open", "events"))?;
        // SAFETY: the ring buffer owns its descriptor and lives as long as the `AsyncFd` that owns it.
        let ring = unsafe { AsyncFd::register(ring) }.map_err(|error| Error::Map {
            action: "watch",
            map: "events",
            source: aya::maps::MapError::IoError(error.into()),
        })?;
        let lost = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(read(ring, into, lost.clone()));
        Ok(Self { lost, task })
    }

    /// Events lost because the receiver was busy.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(mut ring: AsyncFd<RingBuf<MapData>>, into: mpsc::Sender<PlaneEvent>, lost: Arc<AtomicU64>) {
    loop {
        let Ok(mut ready) = ring.readable_mut().await else { return };
        while let Some(record) = ready.get_inner_mut().next() {
            if let Some(event) = decode(&record)
                && into.try_send(event).is_err()
            {
                lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        ready.clear_ready();
    }
}

fn decode(record: &[u8]) -> Option<PlaneEvent> {
    if record.len() < size_of::<Event>() {
        return None;
    }
    // SAFETY: the record holds at least an `Event`, which is made of integers only; alignment is not assumed.
    let event = unsafe { record.as_ptr().cast::<Event>().read_unaligned() };
    match event.kind {
        event_kind::NEW_FLOW => Some(PlaneEvent::NewFlow(event)),
        event_kind::MOVED_FLOW => Some(PlaneEvent::MovedFlow(event)),
        event_kind::PATH_SILENT => Some(PlaneEvent::PathSilent(event)),
        _ => None,
    }
}
