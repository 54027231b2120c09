//! The server: HTTP on the daemon's Unix socket and, if configured, on TCP under TLS.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::extract::Request as HttpRequest;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use super::handlers;
use super::listen::serve;
use super::refusals::{Reason, Refusals};
use super::request::{Refusal, Reply, Request};
use super::sessions::Sessions;
use super::tls::Tls;
use super::tokens::Tokens;
use super::views::{ErrorView, VERSION};
use crate::store::{Store, StoreError};

pub use super::listen::{CONNECTIONS, CONNECTIONS_PER_SOURCE};
pub use super::queries::{AuditListQuery, DryRunQuery, EventsQuery, HistoryQuery};

/// Largest body of a request, bytes.
pub const BODY_LIMIT: usize = 64 * 1024;
/// The core task must have answered by then …
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// … or, where it measures first, by then.
pub(super) const MEASUREMENT_TIMEOUT: Duration = Duration::from_secs(50);
/// A body must have come this long after its headers.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

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

    /// Serves until dropped.
    pub async fn run(self, api: Api) {
        let refusals = api.refusals.clone();
        serve(&self.listener, handlers::router(api, Default::default(), false), refusals).await;
    }
}

/// What answers, the same for all sockets; clones are the same.
#[derive(Clone)]
pub struct Api {
    requests: mpsc::Sender<Request>,
    pub(super) store: Store,
    pub(super) refusals: Arc<Refusals>,
    pub(super) tokens: Tokens,
    pub(super) sessions: Sessions,
    /// Where the dashboard is.
    pub(super) addresses: Arc<[String]>,
}

impl Api {
    /// Questions go to the core task by `requests`; events, tokens and changes are in the store. Blocks for a moment.
    ///
    /// # Errors
    /// When the tokens can't be read.
    pub fn new(requests: mpsc::Sender<Request>, store: Store) -> Result<Self, StoreError> {
        let tokens = Tokens::load(&store)?;
        let (refusals, sessions, addresses) = (Arc::default(), Sessions::default(), Arc::default());
        Ok(Self { requests, store, refusals, tokens, sessions, addresses })
    }

    /// Says where the dashboard is, for those who ask for a login.
    pub fn with_addresses(self, addresses: Vec<String>) -> Self {
        Self { addresses: addresses.into(), ..self }
    }

    /// Serves on TCP until dropped.
    pub async fn run_tls(self, tls: Tls) {
        let refusals = self.refusals.clone();
        let router = handlers::router(self, tls.names().clone(), true);
        tls.run(router, refusals).await;
    }

    /// Asks the core task; gives up when its queue is full or its answer takes too long.
    pub(super) async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Failure> {
        self.ask_within(ANSWER_TIMEOUT, request).await
    }

    pub(super) async fn ask_within<T>(
        &self,
        patience: Duration,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<T, Failure> {
        let unavailable = |text: &str| Failure::new(StatusCode::SERVICE_UNAVAILABLE, text);
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

    /// Asks the store, in a thread that may wait for the disk.
    pub(super) async fn stored<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Failure> {
        let store = self.store.clone();
        let answer = tokio::task::spawn_blocking(move || question(&store)).await.map_err(Failure::failed)?;
        answer.map_err(|error| match error {
            StoreError::Conflict(text) => Failure::new(StatusCode::CONFLICT, text),
            error => Failure::failed(error),
        })
    }

    /// Reads a body, bounded in size and time. One that says beforehand that it is too large is not read at all.
    async fn body(&self, request: HttpRequest) -> Result<Bytes, Failure> {
        let path = request.uri().path().to_owned();
        let too_large = || {
            self.refusals.count(Reason::OversizedBody, &path);
            Failure::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a request's body has at most {BODY_LIMIT} bytes"))
        };
        let announced =
            request.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > BODY_LIMIT as u64) {
            return Err(too_large());
        }
        match tokio::time::timeout(BODY_TIMEOUT, to_bytes(request.into_body(), BODY_LIMIT)).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(_)) => Err(too_large()),
            Err(_) => {
                self.refusals.count(Reason::SlowClient, format!("{path}: its body did not come in time"));
                Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "the request's body did not come in time"))
            }
        }
    }

    pub(super) async fn json<T: DeserializeOwned>(&self, request: HttpRequest) -> Result<T, Failure> {
        serde_json::from_slice(&self.body(request).await?)
            .map_err(|error| Failure::new(StatusCode::BAD_REQUEST, format!("the request's body is wrong: {error}")))
    }
}

/// An answer that isn't what was asked for.
#[derive(Clone, Debug)]
pub(super) struct Failure(StatusCode, String);

impl Failure {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self(status, text.into())
    }

    pub(super) fn not_found(text: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    pub(super) fn wrong(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// It should have worked.
    pub(super) fn failed(error: impl ToString) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }

    /// Whether what was asked can't be done, rather than not now or by a fault.
    pub(super) fn is_refusal(&self) -> bool {
        self.0.is_client_error()
    }

    /// What is wrong.
    pub(super) fn text(&self) -> &str {
        &self.1
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
        Self::new(status, refusal.to_string())
    }
}
