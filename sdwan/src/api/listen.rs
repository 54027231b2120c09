//! Sockets and their clients: at most [`CONNECTIONS`] at a time, each bounded in size and time, so that no client can hold
//! up the daemon, or the others.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::{CONNECTION, HeaderValue};
use axum::http::{Request as HttpRequest, Response, StatusCode};
use axum::response::IntoResponse as _;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

use super::access::Peer;
use super::refusals::{Reason, Refusals};
use super::server::{BODY_LIMIT, Failure};

/// Connections of a socket at a time.
pub const CONNECTIONS: usize = 32;
/// … and further ones, which wait for one of those to end …
const WAITING: usize = 32;
/// … this long, and are told to come again.
const PATIENCE: Duration = Duration::from_secs(1);
/// Connections of one address at a time; an IPv6 address stands for its /64.
pub const CONNECTIONS_PER_SOURCE: usize = 16;
/// A client must have set up TLS by then.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A client must have sent its headers by then.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection takes no further request after this …
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(55);
/// … and is cut off this much later.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// What requests and answers go over.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connection that still has to say who it is; an error says why it is refused.
pub(super) type Opening = Pin<Box<dyn Future<Output = Result<(Box<dyn Io>, Peer), (Reason, String)>> + Send>>;

/// A socket that clients connect to.
pub(super) trait Accept {
    /// Waits for the next one. Says where it is from, if not from this machine.
    fn next(&self) -> impl Future<Output = std::io::Result<(Option<IpAddr>, Opening)>> + Send;
}

impl Accept for UnixListener {
    async fn next(&self) -> std::io::Result<(Option<IpAddr>, Opening)> {
        let (stream, _) = self.accept().await?;
        let opening = async move {
            let credentials = stream.peer_cred().map_err(|error| (Reason::NotLoggedIn, error.to_string()))?;
            let peer = Peer::Local { uid: credentials.uid(), pid: credentials.pid() };
            Ok((Box::new(stream) as Box<dyn Io>, peer))
        };
        Ok((None, Box::pin(opening)))
    }
}

impl Accept for TcpListener {
    async fn next(&self) -> std::io::Result<(Option<IpAddr>, Opening)> {
        let (stream, address) = self.accept().await?;
        let peer = Peer::Scraper { address: address.to_string() };
        Ok((Some(address.ip()), Box::pin(async move { Ok((Box::new(stream) as Box<dyn Io>, peer)) })))
    }
}

/// Between two attempts to have an address.
const RETRY: Duration = Duration::from_secs(5);

/// Listens on a TCP address, as soon as this machine has it: that may be later, and is no reason for a gateway not to start.
/// `what` can't be done meanwhile, and `key` of the configuration names the address, for the log.
pub(super) async fn listen(address: SocketAddr, what: &str, key: &str) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) if !told => warn!(
                target: "sdwan::api",
                "cannot {what} on {address}, and will try again: {error}; `listen` in {key} names it"
            ),
            Err(_) => {}
        }
        told = true;
        tokio::time::sleep(RETRY).await;
    }
}

/// Serves a socket's clients until dropped.
pub(super) async fn serve(listener: &impl Accept, router: Router, refusals: Arc<Refusals>) {
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    let waiting = Arc::new(Semaphore::new(WAITING));
    let sources = Sources::default();
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (source, opening) = match listener.next().await {
            Ok(next) => next,
            Err(error) => {
                // Out of file descriptors, most likely: give others time to close theirs.
                warn!(target: "sdwan::api", "cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let from = || source.map_or_else(|| "this machine".to_owned(), |source| source.to_string());
        let share = sources.enter(source);
        let seat = share.is_some().then(|| seats.clone().try_acquire_owned().ok()).flatten().map(Seat::Taken);
        let seat = seat.or_else(|| {
            let place = waiting.clone().try_acquire_owned().ok()?;
            Some(if share.is_some() { Seat::Wanted(seats.clone(), place) } else { Seat::Refused(place) })
        });
        let Some(seat) = seat else {
            refusals.count(Reason::TooManyConnections, format!("one from {}", from()));
            continue;
        };
        let (router, refusals, from) = (router.clone(), refusals.clone(), from());
        connections.spawn(async move {
            connection(opening, router, seat, &refusals, &from).await;
            drop(share);
        });
    }
}

/// A place among the connections that are served, or among those that are told to come again.
enum Seat {
    Taken(OwnedSemaphorePermit),
    Wanted(Arc<Semaphore>, OwnedSemaphorePermit),
    Refused(OwnedSemaphorePermit),
}

impl Seat {
    /// The permit to hold while the connection lasts, and whether it is served.
    async fn take(self) -> (OwnedSemaphorePermit, bool) {
        match self {
            Self::Taken(seat) => (seat, true),
            Self::Wanted(seats, place) => match tokio::time::timeout(PATIENCE, seats.acquire_owned()).await {
                Ok(Ok(seat)) => (seat, true),
                _ => (place, false),
            },
            Self::Refused(place) => (place, false),
        }
    }
}

async fn connection(opening: Opening, router: Router, seat: Seat, refusals: &Arc<Refusals>, from: &str) {
    let (stream, peer) = match tokio::time::timeout(HANDSHAKE_TIMEOUT, opening).await {
        Ok(Ok(opened)) => opened,
        Ok(Err((reason, detail))) => return refusals.count(reason, format!("{from}: {detail}")),
        Err(_) => return refusals.count(Reason::SlowClient, format!("{from}: no TLS in time")),
    };
    let (seat, served) = seat.take().await;
    if !served {
        refusals.count(Reason::TooManyConnections, format!("one from {from}"));
    }
    let asked = Arc::new(AtomicBool::new(false));
    let service = Seated { router: TowerToHyperService::new(router), peer, asked: asked.clone(), full: !served };
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(BODY_LIMIT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let outcome = match tokio::time::timeout(CONNECTION_TIMEOUT, connection.as_mut()).await {
        Ok(outcome) => Some(outcome),
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(LAST_ANSWER, connection).await.ok()
        }
    };
    match outcome {
        Some(Ok(())) => {}
        // Between two requests a client may be idle.
        Some(Err(error)) if error.is_timeout() && !asked.load(Ordering::Relaxed) => {
            refusals.count(Reason::SlowClient, format!("{from}: no request in time"));
        }
        Some(Err(error)) => tracing::debug!(target: "sdwan::api", "a client's connection ended: {error}"),
        None => refusals.count(Reason::SlowClient, format!("{from}: it did not take its answer in time")),
    }
    drop(seat);
}

/// Tells the router who asks.
struct Seated {
    router: TowerToHyperService<Router>,
    peer: Peer,
    asked: Arc<AtomicBool>,
    /// There was no seat: all that it gets is the advice to come again.
    full: bool,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, std::convert::Infallible>> + Send>>;

impl Service<HttpRequest<Incoming>> for Seated {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Answer;

    fn call(&self, mut request: HttpRequest<Incoming>) -> Answer {
        self.asked.store(true, Ordering::Relaxed);
        if self.full {
            let text = format!(
                "too many connections: there are {CONNECTIONS} at a time, {CONNECTIONS_PER_SOURCE} from one address; try again"
            );
            let mut response = Failure::new(StatusCode::SERVICE_UNAVAILABLE, text).into_response();
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            return Box::pin(async move { Ok(response) });
        }
        request.extensions_mut().insert(self.peer.clone());
        Box::pin(self.router.call(request))
    }
}

/// Connections by where they are from, so that no address takes all of them.
#[derive(Clone, Debug, Default)]
struct Sources(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Sources {
    /// `None` when it has its share. There are at most as many entries as connections.
    fn enter(&self, source: Option<IpAddr>) -> Option<Share> {
        let Some(source) = source.map(network) else { return Some(Share { sources: self.clone(), source: None }) };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_insert(0);
        if *count >= CONNECTIONS_PER_SOURCE {
            return None;
        }
        *count += 1;
        Some(Share { sources: self.clone(), source: Some(source) })
    }
}

/// A connection among those of its source.
struct Share {
    sources: Sources,
    source: Option<IpAddr>,
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(source) = self.source else { return };
        let mut counts = self.sources.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&source);
            }
        }
    }
}

/// The /64 of an IPv6 address, since its host can take any address in it; an IPv4 address as it is.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & (u128::MAX << 64)).into(),
        four => four,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_share_and_no_more() {
        let sources = Sources::default();
        let (one, other): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "2001:db8:0:1::1".parse().unwrap());
        let neighbour: IpAddr = "2001:db8::2".parse().unwrap();
        let mut shares: Vec<Share> =
            (0..CONNECTIONS_PER_SOURCE).map(|_| sources.enter(Some(one)).expect("there is room")).collect();
        assert!(sources.enter(Some(one)).is_none());
        assert!(sources.enter(Some(neighbour)).is_none(), "its /64 counts");
        assert!(sources.enter(Some(other)).is_some() && sources.enter(None).is_some());
        shares.pop();
        assert!(sources.enter(Some(one)).is_some());
        drop(shares);
        assert!(sources.0.lock().unwrap().is_empty(), "nothing stays behind");
        assert_eq!(network("::ffff:192.0.2.1".parse().unwrap()), network("192.0.2.1".parse().unwrap()));
    }
}
