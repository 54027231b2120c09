//! The client: what the other commands talk to the daemon with.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::flow::FlowSpec;
use super::request::FlowFilter;
use super::server::{EventsQuery, MeasureMtu};
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
    /// The conversation failed.
    #[error("the conversation with the daemon at {socket} failed: {reason}", socket = socket.display())]
    Failed {
        /// The socket.
        socket: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Talks to the daemon; every call is a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client for this socket; connects with each call.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
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
        let socket = || self.socket.clone();
        let failed = |reason: String| ClientError::Failed { socket: socket(), reason };
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { socket: socket() }
            }
            std::io::ErrorKind::PermissionDenied => ClientError::Forbidden { socket: socket() },
            // It closed the socket while we stood in its queue.
            std::io::ErrorKind::ConnectionReset => ClientError::Gone { socket: socket() },
            _ => failed(error.to_string()),
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        let driver = tokio::spawn(connection);
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| failed(error.to_string()))?,
            None => Vec::new(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "sdwan")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| failed(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
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

    /// The connection failed: what came wasn't HTTP, or the other end went away, in whichever step that showed.
    fn broken(&self, error: &hyper::Error) -> ClientError {
        let socket = self.socket.clone();
        if error.is_parse() || error.is_user() {
            return ClientError::Failed { socket, reason: error.to_string() };
        }
        ClientError::Gone { socket }
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
