//! What the API asks of the daemon's core task. The server sends a [`Request`] over a bounded channel and waits for
//! the answer for a limited time; the core task answers when it gets to it and is never held up.

use serde_json::Value;
use tokio::sync::oneshot;
use utoipa::IntoParams;

use super::flow::FlowSpec;
use super::queries::DryRunQuery;
use super::views::{
    CapacityOrder, CapacityRunView, DoneView, DryRunView, ExplainView, FlowView, MtuView, PathView, PolicyTestView,
    PolicyView, SiteView, StatusView, TraceOrder, TraceView,
};
use crate::engine::policy::Policy;

/// Where an answer goes. An asker who gave up has dropped the other end: ignore the error of `send`.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// Why a request wasn't carried out; the text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such thing (404).
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense (400).
    #[error("{0}")]
    Invalid(String),
    /// It contradicts what is there (409).
    #[error("{0}")]
    Conflict(String),
    /// Not now: starting, stopping or overloaded (503).
    #[error("{0}")]
    Unavailable(String),
    /// It should have worked (500).
    #[error("{0}")]
    Failed(String),
}

/// A change that was made, for who asked and for the audit log.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    /// What was done.
    pub done: DoneView,
    /// How it was before; null: it wasn't.
    pub before: Value,
    /// How it is now; null: it isn't any more.
    pub after: Value,
}

impl Changed {
    /// Something of which there is no before and after.
    pub fn new(done: DoneView) -> Self {
        Self { done, before: Value::Null, after: Value::Null }
    }
}

/// Which flows to list.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FlowFilter {
    /// Most flows, 1..=10000.
    pub limit: usize,
    /// Only flows of this class.
    pub class: Option<String>,
    /// Only flows to this site, by name or id.
    pub site: Option<String>,
    /// Only flows from or to this address.
    #[param(value_type = Option<String>)]
    pub address: Option<std::net::IpAddr>,
}

impl FlowFilter {
    /// Largest `limit`.
    pub const MAX_LIMIT: usize = 10_000;
}

impl Default for FlowFilter {
    fn default() -> Self {
        Self { limit: 100, class: None, site: None, address: None }
    }
}

/// A question or an order to the core task.
#[derive(Debug)]
pub enum Request {
    /// How does the gateway do?
    Status(Reply<Box<StatusView>>),
    /// All remote sites.
    Sites(Reply<Vec<SiteView>>),
    /// All paths.
    Paths(Reply<Vec<PathView>>),
    /// Flows from the kernel's table, at most `limit + 1` of them, so that the asker sees whether there are more.
    Flows(FlowFilter, Reply<Vec<FlowView>>),
    /// The policies that apply, in their order.
    Policies(Reply<Vec<PolicyView>>),
    /// Validate, store durably and apply policies, all or none. `replace` allows some of these names to exist already.
    AddPolicies {
        /// The policies.
        policies: Vec<Policy>,
        /// Whether stored policies of these names may be replaced.
        replace: bool,
        /// Done, with the policies of these names before and after.
        reply: Reply<Changed>,
    },
    /// Remove a stored policy by name.
    RemovePolicy(String, Reply<Changed>),
    /// What would policies that are added, or one that is removed, do to the flows of the moment?
    DryRun {
        /// The policies that would be added.
        policies: Vec<Policy>,
        /// How, or which one would be removed.
        query: DryRunQuery,
        /// What would change.
        reply: Reply<Box<DryRunView>>,
    },
    /// Which policy does a flow match?
    TestPolicy(FlowSpec, Reply<PolicyTestView>),
    /// What would the kernel do with a packet of a flow?
    Explain(FlowSpec, Reply<Box<ExplainView>>),
    /// Tell of a flow's packets from now on.
    Trace(TraceOrder, Reply<TraceView>),
    /// What was told of the flow of a trace, by its number, after that packet; and go on telling.
    Traced(u32, u64, Reply<TraceView>),
    /// Tell no more.
    EndTrace(u32, Reply<DoneView>),
    /// Search the MTU of a path now; the path as people write it.
    MeasureMtu(String, Reply<Box<MtuView>>),
    /// Measure the capacity of a path.
    MeasureCapacity(CapacityOrder, Reply<CapacityRunView>),
    /// How is a measurement that was ordered?
    CapacityRun(u64, Reply<CapacityRunView>),
    /// Remove tunnels, routes, rules, programs and maps, then exit.
    Down(Reply<DoneView>),
    /// Check what is on disk, then start anew with it while traffic goes on. The change is that of the configuration.
    Reload(Reply<Changed>),
}
