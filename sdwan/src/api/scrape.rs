//! `/metrics` on TCP, for a Prometheus that can't read a Unix socket. Nothing else is served there, for there is no login.

use std::net::SocketAddr;

use futures::future::join_all;
use tracing::info;

use super::handlers::metrics_router;
use super::listen::{listen, serve};
use super::server::Api;

/// Serves on these addresses until dropped.
pub async fn run(addresses: Vec<SocketAddr>, api: Api) {
    // In one task, so that all sockets are closed when it ends.
    join_all(addresses.into_iter().map(|address| one(address, api.clone()))).await;
}

async fn one(address: SocketAddr, api: Api) {
    let listener = listen(address, "listen for Prometheus", "[metrics]").await;
    info!(target: "sdwan::api", "Prometheus can scrape http://{address}/metrics");
    let refusals = api.refusals.clone();
    serve(&listener, metrics_router(api), refusals).await;
}
