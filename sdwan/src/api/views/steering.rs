//! Flows, policies, and why a flow takes its path.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::flow::FlowSpec;
use crate::engine::path::PathState;
use crate::engine::policy::Policy;
use crate::engine::types::{SiteId, TunnelKey};

/// An element of `GET /v1/flows`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FlowView {
    /// Source address.
    #[schema(value_type = String)]
    pub source: IpAddr,
    /// Source port, 0 without one.
    pub source_port: u16,
    /// Destination address.
    #[schema(value_type = String)]
    pub destination: IpAddr,
    /// Destination port, 0 without one.
    pub destination_port: u16,
    /// IP protocol, by name or number.
    pub protocol: String,
    /// Class.
    pub class: String,
    /// Policy that matched.
    pub policy: Option<String>,
    /// The path that it sticks to.
    pub path: FlowPathView,
    /// The path of its copies, of a class in duplicate mode that has a second path with room.
    #[serde(default)]
    pub second: Option<FlowPathView>,
    /// Packets so far.
    pub packets: u64,
    /// Bytes so far.
    pub bytes: u64,
    /// Seconds since its first packet.
    pub age_s: f64,
    /// Seconds since its last packet.
    pub idle_s: f64,
    /// How often it changed its path.
    pub moves: u32,
}

/// The path of a flow, by names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FlowPathView {
    /// Number in the data path.
    pub number: u32,
    /// Name of the remote site.
    pub site_name: String,
    /// The uplink pair.
    pub tunnel: Option<TunnelKey>,
    /// `local uplink → remote uplink`.
    pub uplinks: String,
}

/// Where a policy comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PolicySource {
    /// One of the default policies.
    BuiltIn,
    /// The configuration file.
    File,
    /// `sdwan policies add`.
    Stored,
}

/// An element of `GET /v1/policies`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PolicyView {
    /// The policy.
    #[serde(flatten)]
    pub policy: Policy,
    /// Where it comes from.
    pub source: PolicySource,
    /// Packets of its class since the data path was set up.
    #[serde(default)]
    pub packets: Option<u64>,
    /// Bytes of them.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// What became of them in duplicate mode.
    #[serde(default)]
    pub copies: Option<CopiesView>,
}

/// The packets of a class in duplicate mode, since the data path was set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CopiesView {
    /// Packets that went by two paths.
    pub packets: u64,
    /// Bytes of their copies.
    pub bytes: u64,
    /// Packets that went once for want of a second path that is usable and has room.
    pub alone: u64,
    /// Packets that went once because they leave no room for the mark, or are bundles of datagrams.
    pub unmarked: u64,
}

/// `POST /v1/policies/test`: which policy a flow matches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PolicyTestView {
    /// [`super::VERSION`].
    pub version: u32,
    /// The flow.
    pub flow: FlowSpec,
    /// Policy that matches, if one does.
    pub policy: Option<String>,
    /// Number of the classifier's rule.
    pub rule: Option<u16>,
    /// Class that it assigns.
    pub class: Option<String>,
}

/// `POST /v1/explain`: what the kernel would do with a packet of a flow, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExplainView {
    /// [`super::VERSION`].
    pub version: u32,
    /// The flow.
    pub flow: FlowSpec,
    /// What the classifier says.
    pub classification: PolicyTestView,
    /// The prefix that the destination is in.
    #[schema(value_type = Option<String>)]
    pub prefix: Option<IpNet>,
    /// The site behind it.
    pub site: Option<SiteId>,
    /// Its name.
    pub site_name: Option<String>,
    /// Candidates in their order.
    pub candidates: Vec<CandidateView>,
    /// Where in the candidates the chosen path is; `None`: the packet goes to the stack.
    pub chosen: Option<usize>,
    /// Where the path of the copies is, of a class in duplicate mode.
    #[serde(default)]
    pub second: Option<usize>,
    /// One sentence: why.
    pub reason: String,
    /// The flow's entry in the kernel's table, if there is one.
    pub entry: Option<FlowView>,
}

/// A path of the set that a flow chooses from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CandidateView {
    /// Number in the data path.
    pub number: u32,
    /// The uplink pair.
    pub tunnel: TunnelKey,
    /// Name of the local uplink.
    pub local_uplink: String,
    /// Name of the remote uplink.
    pub remote_uplink: String,
    /// Rank; lower ones are taken first.
    pub rank: u8,
    /// Share among those of its rank.
    pub weight: u16,
    /// State.
    pub state: PathState,
    /// Whether flows may use it right now, from the kernel's own liveness check, and why.
    pub liveness: String,
    /// Whether flows may use it right now.
    pub usable: bool,
    /// Score for this class, 0–100.
    pub score: f64,
    /// Whether it keeps the class's SLA.
    pub complies: bool,
}

/// From an answer's arrival in the kernel, or from the time that was due, until all that followed was written into the maps
/// of the data path.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DecisionsView {
    /// Decisions that changed something.
    pub count: u64,
    /// Half of them took no longer, ms.
    pub p50_ms: f64,
    /// 99 of 100 took no longer, ms.
    pub p99_ms: f64,
    /// The longest, ms.
    pub longest_ms: f64,
}

/// `POST /v1/policies/dry-run`: what a change of the policies would do to the flows of the moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DryRunView {
    /// [`super::VERSION`].
    pub version: u32,
    /// Flows that were looked at.
    pub looked_at: u64,
    /// Those of them whose class would be another.
    pub change_class: u64,
    /// Those of them whose path would be another.
    pub change_path: u64,
    /// Flows that would change, those that change their path first.
    pub flows: Vec<DryRunFlowView>,
    /// Not all of them are listed.
    pub truncated: bool,
    /// What the answer doesn't know for certain, a sentence each.
    pub notes: Vec<String>,
}

impl DryRunView {
    /// Before any flow was looked at.
    pub fn of_nothing() -> Self {
        Self {
            version: super::VERSION,
            looked_at: 0,
            change_class: 0,
            change_path: 0,
            flows: Vec::new(),
            truncated: false,
            notes: Vec::new(),
        }
    }
}

/// A flow that would change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DryRunFlowView {
    /// The flow as it is.
    pub flow: FlowView,
    /// Its class then; none: no policy matches.
    pub class: Option<String>,
    /// The policy that matches then.
    pub policy: Option<String>,
    /// Its path then; none: its packets are left to the kernel's routes.
    pub path: Option<FlowPathView>,
}
