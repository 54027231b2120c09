//! `/metrics` on TCP, for a Prometheus that can't read a Unix socket. Nothing else is served there, for there is no login.

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use tokio::net::TcpListener;
use tracing::{info, warn};

use super::handlers::metrics_router;
use super::listen::serve;
use super::server::Api;

/// Between two attempts to have an address: it may come up later, and metrics are no reason for a gateway not to start.
const RETRY: Duration = Duration::from_secs(5);

/// Serves on these addresses until dropped.
pub async fn run(addresses: Vec<SocketAddr>, api: Api) {
    // In one task, so that all sockets are closed when it ends.
    join_all(addresses.into_iter().map(|address| one(address, api.clone()))).await;
}

async fn one(address: SocketAddr, api: Api) {
    let mut told = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if !told => warn!(
                target: "sdwan::api",
                "cannot listen for Prometheus on {address}, and will try again: {error}; `listen` in [metrics] names it"
            ),
            Err(_) => {}
        }
        told = true;
        tokio::time::sleep(RETRY).await;
    };
    info!(target: "sdwan::api", "Prometheus can scrape http://{address}/metrics");
    let refusals = api.refusals.clone();
    serve(&listener, metrics_router(api), refusals).await;
}
