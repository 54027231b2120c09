//! The task that keeps the tunnels what they should be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::{BackendKind, DesiredTunnels, TunnelReconciler, TunnelReport, tunnel_of_interface};
use crate::engine::types::TunnelKey;
use crate::net::NetSnapshot;
use crate::net::snapshot::Link;

/// The tunnels are looked at this often even when nothing is heard: for the peers' figures, and for a change that
/// nobody announced.
const LOOK: Duration = Duration::from_secs(2);
/// Such a look takes at most one part in so many of the time: all peers are listed for it.
const SHARE: u32 = 200;
/// Pause before a tunnel that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Keeps the tunnels what they should be, until dropped. The tunnels stay.
pub struct TunnelTask {
    kind: BackendKind,
    reports: watch::Receiver<Arc<TunnelReport>>,
    task: JoinHandle<()>,
}

impl TunnelTask {
    /// Starts to work as soon as `desired` is known: until then the tunnels of a former daemon stay as they are.
    pub fn start(
        reconciler: TunnelReconciler,
        desired: watch::Receiver<Option<Arc<DesiredTunnels>>>,
        snapshots: watch::Receiver<Arc<NetSnapshot>>,
    ) -> Self {
        let kind = reconciler.kind();
        let (sender, reports) = watch::channel(Arc::default());
        let task = tokio::spawn(run(reconciler, desired, snapshots, sender));
        Self { kind, reports, task }
    }

    /// Which WireGuard carries the tunnels.
    pub fn kind(&self) -> BackendKind {
        self.kind
    }

    /// State of the tunnels after each run.
    pub fn reports(&self) -> watch::Receiver<Arc<TunnelReport>> {
        self.reports.clone()
    }
}

impl TunnelTask {
    /// Waits for its end, which comes when the sender of the desired tunnels is gone: nothing is half done then.
    pub async fn ended(&mut self) {
        if let Err(failure) = (&mut self.task).await {
            error!(%failure, "the task of the tunnels failed");
        }
    }
}

impl Drop for TunnelTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    mut reconciler: TunnelReconciler,
    mut desired: watch::Receiver<Option<Arc<DesiredTunnels>>>,
    mut snapshots: watch::Receiver<Arc<NetSnapshot>>,
    reports: watch::Sender<Arc<TunnelReport>>,
) {
    loop {
        let current = desired.borrow_and_update().clone();
        let links = tunnel_links(&snapshots.borrow_and_update());
        let mut pause = LOOK;
        let began = Instant::now();
        if let Some(current) = current {
            let work = spawn_blocking(move || {
                let report = reconciler.reconcile(&current);
                (reconciler, report)
            });
            let report;
            (reconciler, report) = match work.await {
                Ok(done) => done,
                Err(failure) => {
                    error!(%failure, "the tunnels are no longer looked after");
                    return;
                }
            };
            let failed = report.tunnels.values().any(|status| status.error.is_some());
            pause = if failed { RETRY } else { LOOK.max(began.elapsed() * SHARE) };
            tell(&reports.borrow(), &report);
            reports.send_replace(Arc::new(report));
        }
        let changed = async {
            loop {
                tokio::select! {
                    outcome = desired.changed() => return outcome,
                    outcome = snapshots.changed() => {
                        if outcome.is_err() || tunnel_links(&snapshots.borrow()) != links {
                            return outcome;
                        }
                    }
                }
            }
        };
        tokio::select! {
            outcome = changed => if outcome.is_err() { return },
            () = sleep(pause) => {}
        }
    }
}

/// The tunnels' interfaces, of which every change is looked at at once.
fn tunnel_links(snapshot: &NetSnapshot) -> BTreeMap<TunnelKey, Link> {
    let tunnels = snapshot.links.values().filter_map(|link| Some((tunnel_of_interface(&link.name)?, link.clone())));
    tunnels.collect()
}

/// Logs what is new.
fn tell(former: &TunnelReport, report: &TunnelReport) {
    for (tunnel, status) in &report.tunnels {
        let known = former.tunnels.get(tunnel);
        match (&status.error, known.and_then(|known| known.error.as_ref())) {
            (Some(new), old) if Some(new) != old => warn!(tunnel = %tunnel.interface(), "{new}"),
            (None, _) if known.is_none_or(|known| known.ifindex != status.ifindex || known.error.is_some()) => {
                info!(tunnel = %tunnel.interface(), backend = %status.backend, "tunnel is up");
            }
            _ => {}
        }
    }
    for error in report.errors.iter().filter(|error| !former.errors.contains(error)) {
        warn!("{error}");
    }
}
