//! The server: HTTP on a Unix socket, at most [`CONNECTIONS`] at a time, each bounded in size and time, so that no
//! client can hold the daemon up.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path as UrlPath, Query, Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{delete, get, post};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::flow::FlowSpec;
use super::metrics::{self, Snapshot};
use super::request::{FlowFilter, Refusal, Reply, Request};
use super::views::{CapacityOrder, ErrorView, EventView, Listing, VERSION};
use crate::engine::events::EventKind;
use crate::engine::policy::Policy;
use crate::store::{EventQuery, Store};

/// Connections at a time; further ones wait in the socket's backlog.
pub const CONNECTIONS: usize = 32;
/// Largest body of a request, bytes.
pub const BODY_LIMIT: usize = 64 * 1024;
/// … or, where it measures first, by then.
const MEASUREMENT_TIMEOUT: Duration = Duration::from_secs(50);
/// A client must have sent its headers by then.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// … and its body this long after them.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection ends by then, whatever its client does.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// The core task must have answered by then.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Most events in one answer.
const MAX_EVENTS: usize = 10_000;

/// Why the socket can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Something answers on the socket already.
    #[error("another sdwan answers on {path}: stop it with `sdwan down`, or choose another `socket` in [site]", path = path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The socket can't be made.
    #[error("cannot make the socket {path}: {source}. Run as root, and check `socket` in [site]", path = path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The bound socket; removed when dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    listener: UnixListener,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already, or replaced: either is fine.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Where answers come from.
#[derive(Clone)]
pub(super) struct Context {
    requests: mpsc::Sender<Request>,
    store: Store,
}

impl Server {
    /// Whether nobody answers on the socket. Changes nothing.
    pub async fn check_free(path: &Path) -> Result<(), ServeError> {
        match UnixStream::connect(path).await {
            Ok(_) => Err(ServeError::InUse { path: path.into() }),
            Err(_) => Ok(()),
        }
    }

    /// Makes the socket (mode 0660) and its directory (0755). One that nobody answers on is replaced.
    pub async fn bind(path: &Path) -> Result<Self, ServeError> {
        let error = |source| ServeError::Bind { path: path.into(), source };
        if let Some(directory) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(error)?;
        }
        Self::check_free(path).await?;
        // Under another name until its mode is right: nobody gets in between.
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let early = PathBuf::from(name);
        let _ = std::fs::remove_file(&early);
        let listener = UnixListener::bind(&early).map_err(error)?;
        std::fs::set_permissions(&early, Permissions::from_mode(0o660)).map_err(error)?;
        std::fs::rename(&early, path).map_err(error)?;
        Ok(Self { path: path.into(), listener })
    }

    /// Serves until dropped. Questions go to the core task by `requests`; events are read from the store.
    pub async fn run(self, requests: mpsc::Sender<Request>, store: Store) {
        serve(&self.listener, router(Context::new(requests, store))).await;
    }
}

/// A socket that clients connect to.
pub(super) trait Accept {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next one.
    fn next(&self) -> impl Future<Output = std::io::Result<Self::Stream>> + Send;
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> std::io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> std::io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

/// Serves a socket's clients until dropped.
pub(super) async fn serve(listener: &impl Accept, router: Router) {
    let service = TowerToHyperService::new(router);
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let stream = match listener.next().await {
            Ok(stream) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: give others time to close theirs.
                tracing::warn!(target: "sdwan::api", "cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = service.clone();
        connections.spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_buf_size(BODY_LIMIT)
                .serve_connection(TokioIo::new(stream), service);
            match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(target: "sdwan::api", "a client's connection ended: {error}"),
                Err(_) => tracing::debug!(target: "sdwan::api", "a slow client was cut off"),
            }
            drop(permit);
        });
    }
}

fn router(context: Context) -> Router {
    Router::new()
        .route("/metrics", get(metrics_page))
        .route("/v1/status", get(status))
        .route("/v1/sites", get(sites))
        .route("/v1/paths", get(paths))
        .route("/v1/flows", get(flows))
        .route("/v1/policies", get(policies).post(add_policies))
        .route("/v1/policies/test", post(test_policy))
        .route("/v1/policies/{name}", delete(remove_policy))
        .route("/v1/events", get(events))
        .route("/v1/explain", post(explain))
        .route("/v1/measure/mtu", post(measure_mtu))
        .route("/v1/capacity", post(measure_capacity))
        .route("/v1/capacity/{id}", get(capacity_run))
        .route("/v1/down", post(down))
        .route("/v1/reload", post(reload))
        .fallback(|| async { Failure::not_found("there is no such path in version 1 of the API") })
        .method_not_allowed_fallback(|| async {
            Failure(StatusCode::METHOD_NOT_ALLOWED, "this path of the API doesn't take this method".into())
        })
        .with_state(context)
}

/// An answer that isn't what was asked for.
pub(super) struct Failure(StatusCode, String);

impl Failure {
    pub(super) fn not_found(text: &str) -> Self {
        Self(StatusCode::NOT_FOUND, text.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(ErrorView { version: VERSION, error: self.1 })).into_response()
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::NotFound(_) => StatusCode::NOT_FOUND,
            Refusal::Invalid(_) => StatusCode::BAD_REQUEST,
            Refusal::Conflict(_) => StatusCode::CONFLICT,
            Refusal::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, refusal.to_string())
    }
}

type Answer<T> = Result<Json<T>, Failure>;

impl Context {
    pub(super) fn new(requests: mpsc::Sender<Request>, store: Store) -> Self {
        Self { requests, store }
    }

    /// Asks the core task; gives up when its queue is full or its answer takes too long.
    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Failure> {
        self.ask_within(ANSWER_TIMEOUT, request).await
    }

    async fn ask_within<T>(&self, patience: Duration, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Failure> {
        let unavailable = |text: &str| Failure(StatusCode::SERVICE_UNAVAILABLE, text.into());
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(request(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => unavailable("the daemon has too many requests: try again"),
            mpsc::error::TrySendError::Closed(_) => unavailable("the daemon is stopping"),
        })?;
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(outcome)) => Ok(outcome?),
            Ok(Err(_)) => Err(unavailable("the daemon is stopping")),
            Err(_) => Err(unavailable("the daemon did not answer in time: see its log")),
        }
    }
}

/// Reads a body, bounded in size and time. One that says beforehand that it is too large is not read at all.
async fn body(request: HttpRequest) -> Result<Bytes, Failure> {
    let too_large =
        || Failure(StatusCode::PAYLOAD_TOO_LARGE, format!("a request's body has at most {BODY_LIMIT} bytes"));
    let announced = request.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > BODY_LIMIT as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(request.into_body(), BODY_LIMIT)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(too_large()),
        Err(_) => Err(Failure(StatusCode::REQUEST_TIMEOUT, "the request's body did not come in time".into())),
    }
}

async fn json<T: DeserializeOwned>(request: HttpRequest) -> Result<T, Failure> {
    serde_json::from_slice(&body(request).await?)
        .map_err(|error| Failure(StatusCode::BAD_REQUEST, format!("the request's body is wrong: {error}")))
}

fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Failure> {
    query.map(|Query(value)| value).map_err(|rejection| Failure(StatusCode::BAD_REQUEST, rejection.body_text()))
}

fn listing<T: Serialize>(items: Vec<T>) -> Json<Listing<T>> {
    Json(Listing::complete(items))
}

async fn status(State(context): State<Context>) -> Result<Response, Failure> {
    Ok(Json(context.ask(Request::Status).await?).into_response())
}

/// For Prometheus. What is asked in turn is of about the same moment.
pub(super) async fn metrics_page(State(context): State<Context>) -> Result<Response, Failure> {
    let snapshot = Snapshot {
        status: *context.ask(Request::Status).await?,
        sites: context.ask(Request::Sites).await?,
        paths: context.ask(Request::Paths).await?,
        policies: context.ask(Request::Policies).await?,
    };
    let page = metrics::page(snapshot);
    let page = page.map_err(|error| Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response())
}

async fn sites(State(context): State<Context>) -> Result<Response, Failure> {
    Ok(listing(context.ask(Request::Sites).await?).into_response())
}

async fn paths(State(context): State<Context>) -> Result<Response, Failure> {
    Ok(listing(context.ask(Request::Paths).await?).into_response())
}

async fn flows(
    State(context): State<Context>,
    filter: Result<Query<FlowFilter>, QueryRejection>,
) -> Result<Response, Failure> {
    let filter = query(filter)?;
    if !(1..=FlowFilter::MAX_LIMIT).contains(&filter.limit) {
        let message =
            format!("limit {} is out of range: write a number in 1..={}", filter.limit, FlowFilter::MAX_LIMIT);
        return Err(Failure(StatusCode::BAD_REQUEST, message));
    }
    let limit = filter.limit;
    let flows = context.ask(|reply| Request::Flows(filter, reply)).await?;
    Ok(Json(Listing::limited(flows, limit)).into_response())
}

async fn policies(State(context): State<Context>) -> Result<Response, Failure> {
    Ok(listing(context.ask(Request::Policies).await?).into_response())
}

/// Query of `POST /v1/policies`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddQuery {
    #[serde(default)]
    replace: bool,
}

async fn add_policies(
    State(context): State<Context>,
    options: Result<Query<AddQuery>, QueryRejection>,
    request: HttpRequest,
) -> Result<Response, Failure> {
    let replace = query(options)?.replace;
    let policies: Vec<Policy> = json(request).await?;
    let done = context.ask(|reply| Request::AddPolicies { policies, replace, reply }).await?;
    Ok((StatusCode::CREATED, Json(done)).into_response())
}

async fn remove_policy(State(context): State<Context>, UrlPath(name): UrlPath<String>) -> Result<Response, Failure> {
    Ok(Json(context.ask(|reply| Request::RemovePolicy(name, reply)).await?).into_response())
}

async fn flow(request: HttpRequest) -> Result<FlowSpec, Failure> {
    let flow: FlowSpec = json(request).await?;
    flow.check().map_err(|error| Failure(StatusCode::BAD_REQUEST, error.to_string()))?;
    Ok(flow)
}

async fn test_policy(State(context): State<Context>, request: HttpRequest) -> Result<Response, Failure> {
    let flow = flow(request).await?;
    Ok(Json(context.ask(|reply| Request::TestPolicy(flow, reply)).await?).into_response())
}

async fn explain(State(context): State<Context>, request: HttpRequest) -> Result<Response, Failure> {
    let flow = flow(request).await?;
    Ok(Json(context.ask(|reply| Request::Explain(flow, reply)).await?).into_response())
}

/// Body of `POST /v1/measure/mtu`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MeasureMtu {
    /// The path, as people write it.
    pub path: String,
}

async fn measure_mtu(State(context): State<Context>, request: HttpRequest) -> Result<Response, Failure> {
    let MeasureMtu { path } = json(request).await?;
    let view = context.ask_within(MEASUREMENT_TIMEOUT, |reply| Request::MeasureMtu(path, reply)).await?;
    Ok(Json(view).into_response())
}

async fn measure_capacity(State(context): State<Context>, request: HttpRequest) -> Result<Response, Failure> {
    let order: CapacityOrder = json(request).await?;
    let run = context.ask(|reply| Request::MeasureCapacity(order, reply)).await?;
    Ok((StatusCode::ACCEPTED, Json(run)).into_response())
}

async fn capacity_run(State(context): State<Context>, UrlPath(id): UrlPath<u64>) -> Result<Response, Failure> {
    Ok(Json(context.ask(|reply| Request::CapacityRun(id, reply)).await?).into_response())
}

async fn down(State(context): State<Context>) -> Result<Response, Failure> {
    Ok(Json(context.ask(Request::Down).await?).into_response())
}

async fn reload(State(context): State<Context>) -> Result<Response, Failure> {
    Ok(Json(context.ask(Request::Reload).await?).into_response())
}

/// Query of `GET /v1/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventsQuery {
    /// Only events at or after this, Unix time in nanoseconds.
    pub since: Option<i64>,
    /// Only events with a larger number, the first of them.
    pub after: Option<i64>,
    /// Kinds with commas between them; empty: all.
    pub kind: String,
    /// Only events about this site.
    pub site: Option<crate::engine::types::SiteId>,
    /// Most events, 1..=10000.
    pub limit: usize,
}

impl Default for EventsQuery {
    fn default() -> Self {
        Self { since: None, after: None, kind: String::new(), site: None, limit: 100 }
    }
}

impl EventsQuery {
    /// As a question to the store, for one event more than the limit. The error says what is wrong.
    pub fn to_store(&self) -> Result<EventQuery, String> {
        if !(1..=MAX_EVENTS).contains(&self.limit) {
            return Err(format!("limit {} is out of range: write a number in 1..={MAX_EVENTS}", self.limit));
        }
        let kinds = self.kind.split(',').filter(|kind| !kind.is_empty()).map(|kind| kind.trim().parse::<EventKind>());
        Ok(EventQuery {
            since_unix_ns: self.since,
            after_id: self.after,
            kinds: kinds.collect::<Result<_, _>>().map_err(|error| error.to_string())?,
            site: self.site,
            limit: self.limit + 1,
        })
    }

    /// Events as the API lists them, cut to the limit at the right end.
    pub fn listing(&self, events: Vec<crate::store::StoredEvent>) -> Listing<EventView> {
        let mut items: Vec<EventView> = events
            .into_iter()
            .map(|event| EventView { id: event.id, time_unix_ns: event.time_unix_ns, event: event.event })
            .collect();
        if self.after.is_none() && items.len() > self.limit {
            // The latest ones were asked for: the one too many is the oldest.
            items.remove(0);
            return Listing { version: VERSION, items, truncated: true };
        }
        Listing::limited(items, self.limit)
    }
}

async fn events(
    State(context): State<Context>,
    options: Result<Query<EventsQuery>, QueryRejection>,
) -> Answer<Listing<EventView>> {
    let options = query(options)?;
    let question = options.to_store().map_err(|error| Failure(StatusCode::BAD_REQUEST, error))?;
    let store = context.store.clone();
    let events = tokio::task::spawn_blocking(move || store.events(&question))
        .await
        .map_err(|error| Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?
        .map_err(|error| Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(Json(options.listing(events)))
}
