//! The ring buffers as streams: `events`, and `traces`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Map, MapData, RingBuf};
use sdwan_common::abi::{Event, TraceRecord, event_kind};
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

/// Reads a ring buffer until it is dropped.
pub struct EventStream {
    lost: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl EventStream {
    /// Starts reading `events` into `into`. What finds it full is counted and lost.
    pub fn start(layout: &Layout, into: mpsc::Sender<PlaneEvent>) -> Result<Self, Error> {
        Self::of(layout, "events", decode, into)
    }

    /// The same with `traces`.
    pub fn traces(layout: &Layout, into: mpsc::Sender<TraceRecord>) -> Result<Self, Error> {
        Self::of(layout, "traces", decode_trace, into)
    }

    fn of<T: Send + 'static>(
        layout: &Layout,
        name: &'static str,
        decode: fn(&[u8]) -> Option<T>,
        into: mpsc::Sender<T>,
    ) -> Result<Self, Error> {
        let ring = RingBuf::try_from(Map::RingBuf(open(layout, name)?)).map_err(fail("open", name))?;
        // SAFETY: the ring buffer owns its descriptor and lives as long as the `AsyncFd` that owns it.
        let ring = unsafe { AsyncFd::register(ring) }.map_err(|error| Error::Map {
            action: "watch",
            map: name,
            source: aya::maps::MapError::IoError(error.into()),
        })?;
        let lost = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(read(ring, decode, into, lost.clone()));
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

async fn read<T>(
    mut ring: AsyncFd<RingBuf<MapData>>,
    decode: fn(&[u8]) -> Option<T>,
    into: mpsc::Sender<T>,
    lost: Arc<AtomicU64>,
) {
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

fn decode_trace(record: &[u8]) -> Option<TraceRecord> {
    if record.len() < size_of::<TraceRecord>() {
        return None;
    }
    // SAFETY: as above, of a `TraceRecord`.
    Some(unsafe { record.as_ptr().cast::<TraceRecord>().read_unaligned() })
}
