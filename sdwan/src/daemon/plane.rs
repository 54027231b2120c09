//! The thread that owns the data path's maps and links.
//!
//! Orders come in one queue, in their order: a path that goes down after a full state was computed must not come up
//! again when that state is applied.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use sdwan_common::abi::TraceFilter;
use tokio::sync::{oneshot, watch};
use tracing::{error, info, warn};

use crate::dataplane::desired::{Change, Desired};
use crate::dataplane::early::EarlyDesired;
use crate::dataplane::{Attachment, Dataplane, Error, XdpState};
use crate::engine::Time;
use crate::engine::estimate::{SPANS, Span, SpanQuality};
use crate::engine::types::PathKey;
use crate::measure::clock;

/// Orders that may wait; more means that the kernel is stuck, and the next full state covers what was refused.
const QUEUE: usize = 4_096;

/// What led to changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An answer that the kernel received at this time.
    Answer(Time),
    /// A time that came: silence was borne for long enough, or a hold ended.
    Due(Time),
}

/// Something for the data path to do.
#[derive(Debug)]
pub enum Order {
    /// Make everything so.
    Apply(Arc<Desired>, Arc<EarlyDesired>, Arc<BTreeSet<Attachment>>),
    /// Guard the uplinks before there is a tunnel; the asker waits for it.
    Guard(Arc<EarlyDesired>, Arc<BTreeSet<Attachment>>, oneshot::Sender<()>),
    /// Make these changes.
    Change(Vec<Change>, Cause),
    /// The daemon probes.
    Heartbeat(Time),
    /// Have the programs tell of a flow's packets, or of none.
    Trace(Option<Box<TraceFilter>>),
    /// End the thread, leaving everything as it is.
    Stop,
}

/// How the data path does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlaneStatus {
    /// The number of each path in the maps.
    pub numbers: Vec<(PathKey, u32)>,
    /// `tcx` or `clsact`.
    pub mode: &'static str,
    /// Interfaces with a program.
    pub attached: Vec<String>,
    /// How XDP does on each interface that shall have it.
    pub xdp: BTreeMap<String, XdpState>,
    /// What went wrong in the last run, one sentence each.
    pub errors: Vec<String>,
    /// Whether a full state was applied.
    pub applied: bool,
}

/// How long it took from what led to a change until that was in the maps, in the last minute: answers, and times.
#[derive(Debug)]
struct Delays(Mutex<[Span; 2]>);

impl Default for Delays {
    fn default() -> Self {
        Self(Mutex::new([SPANS[0]; 2].map(Span::new)))
    }
}

impl Delays {
    fn add(&self, cause: Cause) {
        let now = clock::now();
        let (kind, since) = match cause {
            Cause::Answer(since) => (0, since),
            Cause::Due(since) => (1, since),
        };
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spans[kind].answered(now.since(since), None, None, now);
    }

    fn lately(&self) -> [Option<SpanQuality>; 2] {
        let spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spans.each_ref().map(|span| span.quality(clock::now()))
    }
}

/// The other end of the thread.
pub struct Plane {
    orders: SyncSender<Order>,
    status: watch::Receiver<PlaneStatus>,
    delays: Arc<Delays>,
    thread: Option<JoinHandle<()>>,
}

impl Plane {
    /// Starts the thread around an open data path.
    pub fn start(dataplane: Dataplane) -> std::io::Result<Self> {
        let (orders, queue) = sync_channel(QUEUE);
        let (sender, status) = watch::channel(PlaneStatus { mode: dataplane.mode().name(), ..PlaneStatus::default() });
        let delays = Arc::new(Delays::default());
        let told = delays.clone();
        let work = move || run(dataplane, queue, sender, &told);
        let thread = std::thread::Builder::new().name("dataplane".into()).spawn(work)?;
        Ok(Self { orders, status, delays, thread: Some(thread) })
    }

    /// Gives an order without waiting. `false`: the queue is full, and a full state is due later.
    #[must_use]
    pub fn order(&self, order: Order) -> bool {
        match self.orders.try_send(order) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// How long single changes took lately, by an answer and by a time that came.
    pub fn delays(&self) -> [Option<SpanQuality>; 2] {
        self.delays.lately()
    }

    /// How it does, after each full state.
    pub fn status(&self) -> watch::Receiver<PlaneStatus> {
        self.status.clone()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // A send that fails means that the thread has ended already.
        let _ = self.orders.send(Order::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the data plane's thread panicked");
        }
    }
}

fn run(mut dataplane: Dataplane, queue: Receiver<Order>, status: watch::Sender<PlaneStatus>, delays: &Delays) {
    while let Ok(order) = queue.recv() {
        let outcome = match order {
            Order::Apply(desired, early, attachments) => {
                apply(&mut dataplane, &desired, &early, &attachments, &status);
                Ok(())
            }
            Order::Change(changes, cause) => dataplane.change(&changes).inspect(|()| delays.add(cause)),
            Order::Guard(early, attachments, done) => {
                dataplane.attach(&attachments).into_iter().for_each(|error| warn!("{error}"));
                // There is no session yet that it could have missed.
                let _ = dataplane.take_new_uplink();
                let outcome = dataplane.apply_early(&early, clock::now());
                // The asker may have ended meanwhile.
                let _ = done.send(());
                outcome
            }
            Order::Trace(filter) => dataplane.trace(filter.as_deref()),
            Order::Heartbeat(now) => dataplane.heartbeat(now, clock::wall_clock()),
            Order::Stop => return,
        };
        if let Err(error) = outcome {
            warn!("{error}");
        }
    }
}

fn apply(
    dataplane: &mut Dataplane,
    desired: &Desired,
    early: &EarlyDesired,
    attachments: &BTreeSet<Attachment>,
    status: &watch::Sender<PlaneStatus>,
) {
    let mut errors = Vec::new();
    // The maps before the programs: a program that is attached must find what it needs.
    if let Err(error) = dataplane.apply(desired) {
        errors.push(error);
    }
    if let Err(error) = dataplane.apply_early(early, clock::now()) {
        errors.push(error);
    }
    errors.extend(dataplane.attach(attachments));
    // A handshake may have left by that uplink a moment before.
    if dataplane.take_new_uplink()
        && let Err(error) = dataplane.relearn(clock::now())
    {
        errors.push(error);
    }
    let errors: Vec<String> = errors.iter().map(describe).collect();
    let former = status.borrow().clone();
    for error in errors.iter().filter(|error| !former.errors.contains(error)) {
        warn!("{error}");
    }
    let mut attached: Vec<String> = Vec::new();
    for Attachment { interface, .. } in attachments.iter().filter(|attachment| attachment.direction.always()) {
        if !attached.contains(interface) {
            attached.push(interface.clone());
        }
    }
    if attached != former.attached {
        info!(interfaces = attached.join(","), mode = former.mode, "programs attached");
    }
    status.send_replace(PlaneStatus {
        numbers: dataplane.path_numbers(),
        mode: dataplane.mode().name(),
        attached,
        xdp: dataplane.xdp().clone(),
        errors,
        applied: true,
    });
}

/// The error with its causes.
fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
