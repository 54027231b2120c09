//! Web traffic: a real HTTP server, and a client that loads pages with their objects as a browser does.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Path;
use axum::response::Html;
use axum::routing::get;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::bed::{Attempt, Namespace, Result};
use crate::histogram::{Histogram, Quantiles};

/// Sizes of the objects on a page, bytes: a style sheet, a script, four images.
const OBJECTS: [usize; 6] = [12_000, 48_000, 8_000, 20_000, 36_000, 90_000];
/// Largest object that the server makes, bytes.
const MOST_BYTES: usize = 64 << 20;

/// A running server: `/` is a page, `/object/N` has N bytes.
#[derive(Debug)]
pub struct HttpServer {
    stop: watch::Sender<bool>,
    local: SocketAddr,
    thread: Option<JoinHandle<Result<()>>>,
}

impl HttpServer {
    /// Starts it on an address of a namespace; port 0 is the kernel's choice.
    pub fn start(namespace: &Namespace, local: SocketAddr) -> Result<Self> {
        let listener = namespace
            .run(|| std::net::TcpListener::bind(local))?
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .attempt(|| format!("listen on {local} in {}", namespace.name()))?;
        let local = listener.local_addr().attempt(|| "read the socket's address".into())?;
        let (stop, mut stopped) = watch::channel(false);
        let runtime = runtime()?;
        let thread = namespace.spawn("http-server", move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                let router = Router::new().route("/", get(page)).route("/object/{bytes}", get(object));
                let until = async move { drop(stopped.wait_for(|stopped| *stopped).await) };
                tokio::select! {
                    // Serving never ends by itself.
                    _ = std::future::IntoFuture::into_future(axum::serve(listener, router)) => {}
                    () = until => {}
                }
            });
        })?;
        Ok(Self { stop, local, thread: Some(thread) })
    }

    /// The address it listens on.
    pub fn local(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            drop(thread.join());
        }
    }
}

/// What a client saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HttpReport {
    /// Requests that were answered completely with 200.
    pub answered: u64,
    /// Requests that failed.
    pub failed: u64,
    /// The last reason for a failure.
    pub last_failure: Option<String>,
    /// Bytes of the answers' bodies.
    pub bytes: u64,
    /// Whole pages with all their objects.
    pub pages: u64,
    /// Time of one request, from its start to its last byte.
    pub request: Quantiles,
    /// Time of a whole page, from the connection on.
    pub page: Quantiles,
    /// Time of the latest page.
    pub latest_page: Duration,
}

#[derive(Debug, Default)]
struct Tally {
    report: HttpReport,
    requests: Histogram,
    pages: Histogram,
}

/// A client that loads pages, one after the other with pauses.
#[derive(Debug)]
pub struct HttpClient {
    stop: watch::Sender<bool>,
    tally: Arc<Mutex<Tally>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl HttpClient {
    /// Starts loading pages of a server from a namespace, each on a new connection, with `pause` between them. A page
    /// that takes longer than `patience` counts as one failure.
    pub fn start(namespace: &Namespace, server: SocketAddr, pause: Duration, patience: Duration) -> Result<Self> {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let (stop, mut stopped) = watch::channel(false);
        let of_thread = tally.clone();
        let runtime = runtime()?;
        let thread = namespace.spawn("http-client", move || {
            runtime.block_on(async move {
                let pages = async {
                    loop {
                        let outcome = tokio::time::timeout(patience, load_page(server, &of_thread)).await;
                        let failure = match outcome {
                            Ok(Ok(())) => None,
                            Ok(Err(error)) => Some(error.to_string()),
                            Err(_) => Some(format!("no page within {patience:?}")),
                        };
                        if let Some(failure) = failure {
                            note(&of_thread, |tally| {
                                tally.report.failed += 1;
                                tally.report.last_failure = Some(failure);
                            });
                        }
                        tokio::time::sleep(pause).await;
                    }
                };
                tokio::select! {
                    () = pages => {}
                    _ = stopped.wait_for(|stopped| *stopped) => {}
                }
            });
        })?;
        Ok(Self { stop, tally, thread: Some(thread) })
    }

    /// What it saw so far.
    pub fn report(&self) -> HttpReport {
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        HttpReport { request: tally.requests.quantiles(), page: tally.pages.quantiles(), ..tally.report.clone() }
    }

    /// Ends it now.
    pub fn stop(mut self) -> HttpReport {
        self.end();
        self.report()
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            drop(thread.join());
        }
    }
}

impl Drop for HttpClient {
    fn drop(&mut self) {
        self.end();
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    // One thread, so that all its sockets are of the namespace of the thread that drives it.
    tokio::runtime::Builder::new_current_thread().enable_all().build().attempt(|| "start a runtime".into())
}

async fn page() -> Html<String> {
    let objects: String = OBJECTS.iter().map(|bytes| format!("<img src=\"/object/{bytes}\">")).collect();
    Html(format!("<!doctype html><title>A page</title>{objects}"))
}

async fn object(Path(bytes): Path<usize>) -> Result<Bytes, Infallible> {
    Ok(vec![b'x'; bytes.min(MOST_BYTES)].into())
}

/// Loads a page and its objects over one connection.
async fn load_page(server: SocketAddr, tally: &Mutex<Tally>) -> anyhow::Result<()> {
    let start = Instant::now();
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Its outcome is that of the requests; it ends with the sender.
    let driver = tokio::spawn(connection);
    let paths = std::iter::once("/".to_string()).chain(OBJECTS.iter().map(|bytes| format!("/object/{bytes}")));
    for path in paths {
        let asked = Instant::now();
        let uri: Uri = path.parse()?;
        let request = Request::get(uri).header("host", server.to_string()).body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        anyhow::ensure!(response.status().is_success(), "{path}: {}", response.status());
        let body = response.into_body().collect().await?.to_bytes();
        note(tally, |tally| {
            tally.report.answered += 1;
            tally.report.bytes += body.len() as u64;
            tally.requests.record(asked.elapsed());
        });
    }
    drop(sender);
    driver.abort();
    note(tally, |tally| {
        let time = start.elapsed();
        tally.report.pages += 1;
        tally.report.latest_page = time;
        tally.pages.record(time);
    });
    Ok(())
}

fn note(tally: &Mutex<Tally>, change: impl FnOnce(&mut Tally)) {
    change(&mut tally.lock().unwrap_or_else(PoisonError::into_inner));
}
