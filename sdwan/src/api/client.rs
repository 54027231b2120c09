//! The client: what the other commands talk to the daemon with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::flow::FlowSpec;
use super::listen::Io;
use super::queries::{AuditListQuery, EventsQuery, MeasureMtu};
use super::remote::{Remote, why};
use super::report::ReportQuery;
use super::request::FlowFilter;
use super::views::*;
use crate::engine::policy::Policy;

/// A request and its answer take at most this long.
const TIMEOUT: Duration = Duration::from_secs(20);
/// … or this, where something is measured meanwhile.
const MEASUREMENT_TIMEOUT: Duration = Duration::from_secs(55);
/// Largest answer that is read, bytes.
const ANSWER_LIMIT: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error("the daemon is not running (no socket at {socket}): start it with `sdwan run` or `systemctl start sdwan`", socket = socket.display())]
    NotRunning {
        /// The socket.
        socket: PathBuf,
    },
    /// Not for us.
    #[error("you may not talk to the daemon at {socket}: run as root, or as a member of the socket's group", socket = socket.display())]
    Forbidden {
        /// The socket.
        socket: PathBuf,
    },
    /// The daemon said no.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// It took too long.
    #[error("the daemon did not answer within {} s: see its log (`journalctl -u sdwan`)", TIMEOUT.as_secs())]
    Timeout,
    /// It was there, and went before it had answered.
    #[error("the daemon at {socket} went away before it had answered: look at its log (`journalctl -u sdwan`), and try again", socket = socket.display())]
    Gone {
        /// The socket.
        socket: PathBuf,
    },
    /// A daemon on another machine can't be reached.
    #[error(
        "cannot reach the daemon at {address}: {reason}; `listen` in [api] of its configuration says where it listens"
    )]
    Unreachable {
        /// Where it should be.
        address: String,
        /// Why.
        reason: String,
    },
    /// One end doesn't trust the other.
    #[error("no trusted connection with the daemon at {address}: {reason}")]
    Untrusted {
        /// Where it is.
        address: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The conversation failed.
    #[error("the conversation with the daemon at {daemon} failed: {reason}")]
    Failed {
        /// Its socket or its address.
        daemon: String,
        /// Why.
        reason: String,
    },
}

/// Talks to the daemon; every call is a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    way: Way,
}

/// How the daemon is reached.
#[derive(Clone, Debug)]
enum Way {
    /// On this machine.
    Socket(PathBuf),
    /// Wherever it is, over TLS.
    Remote(Arc<Remote>),
}

impl Client {
    /// A client for this socket; connects with each call.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { way: Way::Socket(socket.into()) }
    }

    /// A client for a daemon elsewhere; connects with each call.
    pub fn remote(remote: Remote) -> Self {
        Self { way: Way::Remote(Arc::new(remote)) }
    }

    /// How does the gateway do?
    pub async fn status(&self) -> Result<StatusView, ClientError> {
        self.get("/v1/status").await
    }

    /// All remote sites.
    pub async fn sites(&self) -> Result<Listing<SiteView>, ClientError> {
        self.get("/v1/sites").await
    }

    /// All paths.
    pub async fn paths(&self) -> Result<Listing<PathView>, ClientError> {
        self.get("/v1/paths").await
    }

    /// Flows from the kernel's table.
    pub async fn flows(&self, filter: &FlowFilter) -> Result<Listing<FlowView>, ClientError> {
        self.get(&format!("/v1/flows?{}", query(filter))).await
    }

    /// The policies that apply, in their order.
    pub async fn policies(&self) -> Result<Listing<PolicyView>, ClientError> {
        self.get("/v1/policies").await
    }

    /// Adds policies, all or none.
    pub async fn add_policies(&self, policies: &[Policy], replace: bool) -> Result<DoneView, ClientError> {
        self.send(Method::POST, &format!("/v1/policies?replace={replace}"), Some(&policies)).await
    }

    /// Removes a stored policy.
    pub async fn remove_policy(&self, name: &str) -> Result<DoneView, ClientError> {
        self.send::<(), _>(Method::DELETE, &format!("/v1/policies/{}", escape(name)), None).await
    }

    /// Which policy does a flow match?
    pub async fn test_policy(&self, flow: &FlowSpec) -> Result<PolicyTestView, ClientError> {
        self.send(Method::POST, "/v1/policies/test", Some(flow)).await
    }

    /// What would the kernel do with a packet of a flow?
    pub async fn explain(&self, flow: &FlowSpec) -> Result<ExplainView, ClientError> {
        self.send(Method::POST, "/v1/explain", Some(flow)).await
    }

    /// What happened.
    pub async fn events(&self, events: &EventsQuery) -> Result<Listing<EventView>, ClientError> {
        self.get(&format!("/v1/events?{}", query(events))).await
    }

    /// What paths, providers and classes did over a span of time.
    pub async fn report(&self, span: &ReportQuery) -> Result<ReportView, ClientError> {
        self.get(&format!("/v1/report?{}", query(span))).await
    }

    /// Has the packets of a flow told of from now on, until nobody asks for some seconds.
    pub async fn trace(&self, order: &TraceOrder) -> Result<TraceView, ClientError> {
        self.send(Method::POST, "/v1/trace", Some(order)).await
    }

    /// What was told since a packet, by its number.
    pub async fn traced(&self, id: u32, after: u64) -> Result<TraceView, ClientError> {
        self.get(&format!("/v1/trace/{id}?after={after}")).await
    }

    /// Ends a trace.
    pub async fn end_trace(&self, id: u32) -> Result<DoneView, ClientError> {
        self.send::<(), _>(Method::DELETE, &format!("/v1/trace/{id}"), None).await
    }

    /// Searches the MTU of a path now; takes as long as that does.
    pub async fn measure_mtu(&self, path: &str) -> Result<MtuView, ClientError> {
        let question = MeasureMtu { path: path.to_owned() };
        let exchange = self.exchange(Method::POST, "/v1/measure/mtu", Some(&question));
        tokio::time::timeout(MEASUREMENT_TIMEOUT, exchange).await.unwrap_or(Err(ClientError::Timeout))
    }

    /// Has the capacity of a path measured; answers when that has begun.
    pub async fn measure_capacity(&self, order: &CapacityOrder) -> Result<CapacityRunView, ClientError> {
        self.send(Method::POST, "/v1/capacity", Some(order)).await
    }

    /// How a measurement that was ordered is.
    pub async fn capacity_run(&self, id: u64) -> Result<CapacityRunView, ClientError> {
        self.get(&format!("/v1/capacity/{id}")).await
    }

    /// Who changed what.
    pub async fn audit(&self, changes: &AuditListQuery) -> Result<Listing<AuditView>, ClientError> {
        self.get(&format!("/v1/audit?{}", query(changes))).await
    }

    /// The tokens of viewers.
    pub async fn tokens(&self) -> Result<Listing<TokenView>, ClientError> {
        self.get("/v1/tokens").await
    }

    /// Makes a token.
    pub async fn add_token(&self, order: &TokenOrder) -> Result<TokenMadeView, ClientError> {
        self.send(Method::POST, "/v1/tokens", Some(order)).await
    }

    /// Removes a token.
    pub async fn remove_token(&self, name: &str) -> Result<DoneView, ClientError> {
        self.send::<(), _>(Method::DELETE, &format!("/v1/tokens/{}", escape(name)), None).await
    }

    /// Who asks, and where the dashboard is.
    pub async fn session(&self) -> Result<SessionView, ClientError> {
        self.get("/v1/session").await
    }

    /// Makes a code that lets somebody log in to the dashboard, once.
    pub async fn dashboard_code(&self, order: &CodeOrder) -> Result<CodeView, ClientError> {
        self.send(Method::POST, "/v1/session/code", Some(order)).await
    }

    /// Removes everything and stops the daemon.
    pub async fn down(&self) -> Result<DoneView, ClientError> {
        self.send::<(), _>(Method::POST, "/v1/down", None).await
    }

    /// Makes the daemon start anew with what is on disk; answers once that was found good, just before it does.
    pub async fn reload(&self) -> Result<DoneView, ClientError> {
        self.send::<(), _>(Method::POST, "/v1/reload", None).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send::<(), _>(Method::GET, path, None).await
    }

    async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, ClientError> {
        tokio::time::timeout(TIMEOUT, self.exchange(method, path, body)).await.unwrap_or(Err(ClientError::Timeout))
    }

    async fn exchange<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, ClientError> {
        let failed = |reason: String| self.failed(reason);
        let stream = self.connect().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        let driver = tokio::spawn(connection);
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| failed(error.to_string()))?,
            None => Vec::new(),
        };
        let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        request = match &self.way {
            Way::Socket(_) => request.header("host", "sdwan"),
            Way::Remote(remote) => request.header("host", remote.address()),
        };
        if let Way::Remote(remote) = &self.way
            && let Some(token) = remote.token()
        {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| failed(error.to_string()))?;
        let response = match sender.send_request(request).await {
            Ok(response) => response,
            Err(error) => {
                // What ended the connection may be known to its driver alone.
                drop(sender);
                let ended = driver.await.ok().and_then(Result::err);
                let told = ended.as_ref().filter(|ended| why(*ended).is_some());
                return Err(self.broken(told.unwrap_or(&error)));
            }
        };
        let status = response.status();
        let bytes = Limited::new(response.into_body(), ANSWER_LIMIT)
            .collect()
            .await
            .map_err(|error| match error.downcast_ref() {
                Some(error) => self.broken(error),
                None => failed(error.to_string()),
            })?
            .to_bytes();
        driver.abort();
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|error| {
                failed(format!("an answer that can't be read ({error}); are sdwan and the daemon of the same version?"))
            });
        }
        let message = match serde_json::from_slice::<ErrorView>(&bytes) {
            Ok(view) => view.error,
            Err(_) => format!("the daemon answered with {}", reason(status)),
        };
        Err(ClientError::Refused { status: status.as_u16(), message })
    }

    async fn connect(&self) -> Result<Box<dyn Io>, ClientError> {
        let socket = match &self.way {
            Way::Socket(socket) => socket,
            Way::Remote(remote) => return Ok(Box::new(remote.connect().await?)),
        };
        let stream = UnixStream::connect(socket).await.map_err(|error| {
            let socket = socket.clone();
            match error.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                    ClientError::NotRunning { socket }
                }
                std::io::ErrorKind::PermissionDenied => ClientError::Forbidden { socket },
                // It closed the socket while we stood in its queue.
                std::io::ErrorKind::ConnectionReset => ClientError::Gone { socket },
                _ => self.failed(error.to_string()),
            }
        })?;
        Ok(Box::new(stream))
    }

    fn failed(&self, reason: String) -> ClientError {
        let daemon = match &self.way {
            Way::Socket(socket) => socket.display().to_string(),
            Way::Remote(remote) => remote.address().to_owned(),
        };
        ClientError::Failed { daemon, reason }
    }

    /// The connection failed: what came wasn't HTTP, or the other end went away, in whichever step that showed.
    fn broken(&self, error: &hyper::Error) -> ClientError {
        match &self.way {
            Way::Remote(remote) => {
                let address = remote.address().to_owned();
                match why(error) {
                    Some(reason) => ClientError::Untrusted { address, reason },
                    None => ClientError::Unreachable { address, reason: format!("it ended the connection ({error})") },
                }
            }
            Way::Socket(_) if error.is_parse() || error.is_user() => self.failed(error.to_string()),
            Way::Socket(socket) => ClientError::Gone { socket: socket.clone() },
        }
    }
}

fn reason(status: StatusCode) -> String {
    format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or("(no reason)"))
}

/// The fields of a flat structure as a URL's query.
fn query(value: &impl Serialize) -> String {
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(value) else { return String::new() };
    let pairs: Vec<String> = fields
        .iter()
        .filter_map(|(key, value)| match value {
            serde_json::Value::Null => None,
            serde_json::Value::String(text) => Some(format!("{key}={}", escape(text))),
            other => Some(format!("{key}={other}")),
        })
        .collect();
    pairs.join("&")
}

/// Percent-encodes everything that isn't unreserved (RFC 3986 section 2.3).
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}
