//! `/metrics` on TCP, for a Prometheus that can't read a Unix socket. Nothing else is served there, for there is no login.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use futures::future::join_all;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::request::Request;
use super::server::{Context, Failure, metrics_page, serve};
use crate::store::Store;

/// Between two attempts to have an address: it may come up later, and metrics are no reason for a gateway not to start.
const RETRY: Duration = Duration::from_secs(5);

/// Serves on these addresses until dropped.
pub async fn run(addresses: Vec<SocketAddr>, requests: mpsc::Sender<Request>, store: Store) {
    let router = Router::new()
        .route("/metrics", get(metrics_page))
        .fallback(|| async { Failure::not_found("there is only /metrics here") })
        .with_state(Context::new(requests, store));
    // In one task, so that all sockets are closed when it ends.
    join_all(addresses.into_iter().map(|address| one(address, router.clone()))).await;
}

async fn one(address: SocketAddr, router: Router) {
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
    serve(&listener, router).await;
}
