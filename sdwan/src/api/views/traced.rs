//! The packets of one flow, and what each program did with them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::FlowPathView;
use crate::api::flow::FlowSpec;

/// `POST /v1/trace`: tell of a flow's packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceOrder {
    /// The flow; its packets of both directions are told of.
    pub flow: FlowSpec,
    /// Most packets that each processor tells of in a second, 1..=10000.
    #[serde(default = "default_rate")]
    pub per_second: u32,
}

fn default_rate() -> u32 {
    TraceOrder::PER_SECOND
}

impl TraceOrder {
    /// `per_second` when nobody says otherwise.
    pub const PER_SECOND: u32 = 200;
    /// Largest `per_second`.
    pub const MOST_PER_SECOND: u32 = 10_000;
}

/// `POST /v1/trace` and `GET /v1/trace/ID`: what was told since.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TraceView {
    /// [`super::VERSION`].
    pub version: u32,
    /// Number of the trace.
    pub id: u32,
    /// The flow.
    pub flow: FlowSpec,
    /// Packets, in the order in which they were told of.
    pub items: Vec<TracedView>,
    /// Packets that weren't told of, for there were more than `per_second`, or the ring buffer was full.
    pub withheld: u64,
    /// Packets that were told of, and forgotten before anybody asked for them.
    pub lost: u64,
}

/// What a program did with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictView {
    /// It went by the short way, into a tunnel or to the LAN.
    Forwarded,
    /// It was left to the kernel's stack.
    Stack,
    /// It was dropped.
    Dropped,
}

/// One packet at one program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TracedView {
    /// Number within the trace; ask for what comes after it.
    pub number: u64,
    /// When, Unix time in nanoseconds.
    pub time_unix_ns: i64,
    /// `lan_ingress`, `tunnel_ingress` or `tunnel_egress`.
    pub program: String,
    /// Interface that it came in by; of `tunnel_egress`, that it leaves by.
    pub interface: String,
    /// It is a packet of the other direction, an answer.
    pub reverse: bool,
    /// Bytes of the IP packet.
    pub bytes: u32,
    /// Packets on the wire, more than one of a bundle.
    pub segments: u32,
    /// TTL or hop limit.
    pub ttl: u8,
    /// A TCP packet with SYN.
    pub syn: bool,
    /// What was done with it.
    pub verdict: VerdictView,
    /// Why it was left to the stack, as `sdwan status` counts it.
    pub reason: Option<String>,
    /// What the decision rested on, of `lan_ingress`: `known`, `new`, `reclassified`, `set-changed` or `path-unusable`.
    pub decision: Option<String>,
    /// The path that it takes, or came by.
    pub path: Option<FlowPathView>,
    /// The path that the flow left with this packet.
    pub from_path: Option<FlowPathView>,
    /// The path of its copy.
    pub second: Option<FlowPathView>,
    /// Class, of `lan_ingress`.
    pub class: Option<String>,
    /// Policy that matched.
    pub policy: Option<String>,
    /// The same in a sentence.
    pub message: String,
}
