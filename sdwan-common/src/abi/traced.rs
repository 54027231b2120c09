//! What is told of the packets of one flow, while somebody asks.

use super::FlowKey;

/// Bytes of the `traces` ring buffer: some thousand records.
pub const TRACES_BYTES: u32 = 1 << 18;

/// The record of `trace`: the flow whose packets are told of. Written by the daemon alone; looked at only while
/// [`super::Scope::traced`] is set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceFilter {
    /// The flow.
    pub flow: FlowKey,
    /// The same as the packets of the other direction have it.
    pub reverse: FlowKey,
    /// Nothing is told from then on, ns: whoever asks renews it, so that a trace ends with its reader or the daemon.
    pub until_ns: u64,
    /// Number of the trace, in each of its records.
    pub number: u32,
    /// Most records per CPU and second.
    pub per_second: u32,
}

/// Value of `trace_budget`, per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceBudget {
    /// When the current second began, ns.
    pub window_ns: u64,
    /// The trace that all this is of.
    pub number: u32,
    /// Records told in the current second.
    pub told: u32,
    /// Records withheld since the trace began, for the budget was used up or `traces` was full.
    pub withheld: u32,
    /// Zero.
    pub padding: u32,
}

/// [`TraceRecord::program`] values.
pub mod trace_program {
    /// `lan_ingress`: from the LAN.
    pub const LAN_INGRESS: u8 = 1;
    /// `tunnel_ingress`: out of a tunnel.
    pub const TUNNEL_INGRESS: u8 = 2;
    /// `tunnel_egress`: from the stack into a tunnel.
    pub const TUNNEL_EGRESS: u8 = 3;
}

/// [`TraceRecord::verdict`] values.
pub mod trace_verdict {
    /// By the short way: into the tunnel, or to the LAN.
    pub const FORWARDED: u8 = 1;
    /// Left to the stack; the reason is a [`crate::counters::PassReason`].
    pub const STACK: u8 = 2;
    /// Dropped; the reason is a [`crate::counters::DropReason`].
    pub const DROPPED: u8 = 3;
}

/// [`TraceRecord::cause`] values: what the decision about a packet from the LAN rested on.
pub mod trace_cause {
    /// The flow's entry: everything that it rests on is as it was.
    pub const HIT: u8 = 0;
    /// The flow had no entry.
    pub const NEW: u8 = 1;
    /// Policies, prefixes or zones have changed since.
    pub const EPOCH: u8 = 2;
    /// The path set of its class has changed since.
    pub const SET: u8 = 3;
    /// Its path can't be used any more.
    pub const UNUSABLE: u8 = 4;
}

/// [`TraceRecord::chosen`] values: how a path was chosen anew.
pub mod trace_choice {
    /// It wasn't.
    pub const NONE: u8 = 0;
    /// The flow's path is still good enough.
    pub const KEPT: u8 = 1;
    /// Best rank with a usable path.
    pub const RANKED: u8 = 2;
    /// No path is usable: the one that was heard last.
    pub const LEAST_BAD: u8 = 3;
}

/// [`TraceRecord::reason`] where there is none.
pub const NO_REASON: u8 = u8::MAX;

/// A record of the `traces` ring buffer: what one program did with one packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceRecord {
    /// When, ns.
    pub time_ns: u64,
    /// Number of the trace.
    pub number: u32,
    /// CPU that the program ran on.
    pub cpu: u32,
    /// [`TraceBudget::withheld`] of this CPU.
    pub withheld: u32,
    /// Interface that the packet came in by, or leaves by.
    pub ifindex: u32,
    /// Bytes of the IP packet.
    pub length: u32,
    /// Packets on the wire.
    pub segments: u32,
    /// Number of the path, or [`super::NO_PATH`].
    pub path: u32,
    /// The path that the flow left with this packet, or [`super::NO_PATH`].
    pub old_path: u32,
    /// The path of the copy, or [`super::NO_PATH`].
    pub second: u32,
    /// Class of the flow.
    pub class: u16,
    /// Rule that matched, or [`super::NO_RULE`].
    pub rule: u16,
    /// One of [`trace_program`].
    pub program: u8,
    /// One of [`trace_verdict`].
    pub verdict: u8,
    /// Number of the reason, or [`NO_REASON`].
    pub reason: u8,
    /// One of [`trace_cause`].
    pub cause: u8,
    /// One of [`trace_choice`].
    pub chosen: u8,
    /// Not 0: a packet of the other direction.
    pub reverse: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Not 0: a TCP packet with SYN.
    pub syn: u8,
    /// Zero.
    pub padding: u64,
}
