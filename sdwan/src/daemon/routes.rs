//! The task that keeps rules, routes and kernel settings what they should be.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::desired::Identity;
use crate::engine::types::{LocalUplink, TunnelKey};
use crate::net::routing::{RemoteRoutes, RoutingReconciler, RoutingRequest, desired_routing};
use crate::net::sysctl::{Sysctl, needed_settings};
use crate::net::{NetSnapshot, Network};

/// Rules and routes are looked at this often even when nothing is heard: somebody else may have removed them.
const LOOK: Duration = Duration::from_secs(10);
/// A look takes at most one part of so many of the time: the kernel lists all routes for it, thousands in a large mesh.
const SHARE: u32 = 20;
/// The same of looks that nothing was heard for.
const CALM_SHARE: u32 = 300;
/// Pause before what failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// What the routes follow from, as far as the core decides it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteInput {
    /// The uplinks.
    pub uplinks: Vec<LocalUplink>,
    /// Interface index of each tunnel.
    pub tunnels: BTreeMap<TunnelKey, u32>,
    /// The remote sites.
    pub remotes: Vec<RemoteRoutes>,
}

/// Runs until dropped; rules and routes stay.
pub struct RouteTask {
    task: JoinHandle<()>,
}

impl RouteTask {
    /// Starts to work as soon as there is an input.
    pub fn start(
        network: Network,
        identity: Identity,
        state_dir: &Path,
        input: watch::Receiver<Option<Arc<RouteInput>>>,
        snapshots: watch::Receiver<Arc<NetSnapshot>>,
    ) -> Self {
        let sysctl = Sysctl::new(state_dir);
        let reconciler = RoutingReconciler::new(network.clone());
        let task = Task { network, reconciler, identity, sysctl, known: Vec::new() };
        Self { task: tokio::spawn(task.run(input, snapshots)) }
    }
}

impl RouteTask {
    /// Waits for its end, which comes when the sender of its input is gone: nothing is half done then.
    pub async fn ended(&mut self) {
        if let Err(failure) = (&mut self.task).await {
            warn!("the task of the routes failed: {failure}");
        }
    }
}

impl Drop for RouteTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task {
    network: Network,
    reconciler: RoutingReconciler,
    identity: Identity,
    sysctl: Sysctl,
    /// Troubles already told.
    known: Vec<String>,
}

impl Task {
    async fn run(
        mut self,
        mut input: watch::Receiver<Option<Arc<RouteInput>>>,
        mut snapshots: watch::Receiver<Arc<NetSnapshot>>,
    ) {
        loop {
            let current = input.borrow_and_update().clone();
            let snapshot = snapshots.borrow_and_update().clone();
            let mut pause = LOOK;
            let began = Instant::now();
            if let Some(current) = current {
                let troubles = self.reconcile(&current, &snapshot).await;
                pause = if troubles.is_empty() { LOOK.max(began.elapsed() * CALM_SHARE) } else { RETRY };
                for trouble in troubles.iter().filter(|trouble| !self.known.contains(trouble)) {
                    warn!("{trouble}");
                }
                self.known = troubles;
            }
            sleep((began.elapsed() * (SHARE - 1)).min(LOOK)).await;
            tokio::select! {
                outcome = input.changed() => if outcome.is_err() { return },
                outcome = snapshots.changed() => if outcome.is_err() { return },
                () = sleep(pause) => {}
            }
        }
    }

    async fn reconcile(&self, input: &RouteInput, snapshot: &NetSnapshot) -> Vec<String> {
        let uplinks = input.uplinks.iter().filter(|uplink| uplink.ifindex != 0);
        let uplinks = uplinks.map(|uplink| uplink.interface.as_str());
        let tunnels: Vec<String> = input.tunnels.keys().map(|tunnel| tunnel.interface()).collect();
        let mut troubles = Vec::new();
        match self.sysctl.apply(&needed_settings(uplinks, tunnels.iter().map(String::as_str))) {
            Ok(applied) => {
                for change in applied.changed {
                    info!("set {} from {} to {}", change.path, change.from, change.to);
                }
            }
            Err(error) => troubles.push(error.to_string()),
        }
        // Without an IPv4 address on the interface, the kernel's loose reverse path filter would drop IPv4 from it.
        let interfaces = input.tunnels.values().copied();
        if let Err(error) = self.network.set_tunnel_addresses(interfaces, Some(self.identity.overlay)).await {
            troubles.push(error.to_string());
        }
        let request = RoutingRequest {
            snapshot,
            uplinks: &input.uplinks,
            overlay: Some(self.identity.overlay),
            prefixes: &self.identity.prefixes,
            tunnels: &input.tunnels,
            remotes: &input.remotes,
        };
        match self.reconciler.reconcile(&desired_routing(&request)).await {
            Ok(report) => troubles.extend(report.errors.iter().map(ToString::to_string)),
            Err(error) => troubles.push(error.to_string()),
        }
        troubles
    }
}
