//! What the programs count, measure and tell.

use super::FlowKey;

/// Value of `path_stats`, per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathStats {
    /// Packets that entered the tunnel for the path's site, by the short way or through the stack; probes and their
    /// answers are not among them. The other end's `received_packets` counts the same ones.
    pub sent_packets: u64,
    /// Bytes of them (IP packets).
    pub sent_bytes: u64,
    /// Packets that came out of the path, probes and their answers apart.
    pub received_packets: u64,
    /// Bytes of them (IP packets).
    pub received_bytes: u64,
}

/// Value of `tcp_samples`: a packet whose timestamp (RFC 7323) is to be echoed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpSample {
    /// The flow, as its packets leave.
    pub flow: FlowKey,
    /// A number that the flow and its reverse share; says where in the map they are.
    pub tag: u32,
    /// The path that the packet left by.
    pub path: u32,
    /// When it left, ns; 0: none is awaited.
    pub sent_ns: u64,
    /// Its timestamp.
    pub timestamp: u32,
    /// Zero.
    pub padding: u32,
}

/// Entries of a [`TcpRtt`].
pub const TCP_RTTS: usize = 64;

/// Value of `tcp_rtt`: the last round-trip times of TCP by a path, from this gateway to the remote host and back.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpRtt {
    /// Measurements so far, modulo 2³²; the next one is entry `count % 64`.
    pub count: u32,
    /// Zero.
    pub padding: u32,
    /// The measurements, each by [`tcp_rtt_entry`]; 0: none yet.
    pub entries: [u64; TCP_RTTS],
}

impl Default for TcpRtt {
    fn default() -> Self {
        Self { count: 0, padding: 0, entries: [0; TCP_RTTS] }
    }
}

/// An entry of a [`TcpRtt`]: when it was measured in ms (modulo 2³²) in the upper half, the time in µs in the lower one.
/// One number, so that no reader sees half of it.
#[inline(always)]
pub const fn tcp_rtt_entry(now_ns: u64, rtt_ns: u64) -> u64 {
    let rtt_us = rtt_ns / 1_000;
    let rtt_us = if rtt_us > u32::MAX as u64 { u32::MAX as u64 } else { rtt_us };
    (now_ns / 1_000_000) << 32 | rtt_us
}

/// Value of `class_stats`, per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassStats {
    /// Packets steered.
    pub packets: u64,
    /// Bytes of them (IP packets).
    pub bytes: u64,
    /// Flows decided for the first time.
    pub flows: u64,
    /// Flows moved to another path.
    pub moves: u64,
}

/// Value of `copy_numbers`, by site: the numbers of the packets of which two copies go there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyNumbers {
    /// The next one. Begins at random.
    pub next: u32,
    /// Not 0: the identifications of IPv4 come round too fast, and packets go alone until they have come round once more.
    pub pause: u32,
    /// When they last came round, ns.
    pub round_ns: u64,
}

/// Value of `copy_stats`, by class and per CPU: what became of the packets of a class with [`super::class_flag::COPIES`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyStats {
    /// Packets that went by two paths.
    pub packets: u64,
    /// Bytes of their copies (IP packets).
    pub bytes: u64,
    /// Packets that went by one path only, for there was no second one: none usable, or none with room.
    pub alone: u64,
    /// Packets that went by one path only, for they can't be marked: too large for the paths with the mark, a bundle of
    /// datagrams, or more than 65,536 of IPv4 in a second.
    pub unmarked: u64,
}

/// Key of `moves`, whose value is a count modulo 2³²: the flows of a path set that left one path for another.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MoveKey {
    /// Index into `path_sets` (`site * class capacity + class`).
    pub set: u32,
    /// Number of the path that they left.
    pub from: u32,
    /// Number of the path that they are on.
    pub to: u32,
}

/// Value of `event_budget`, per CPU: how many events the programs told in the current second.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventBudget {
    /// When the current second began, ns.
    pub window_ns: u64,
    /// Events told in it.
    pub told: u32,
    /// Events withheld since the start, for the budget was used up or `events` was full; wraps around.
    pub withheld: u32,
}

/// [`Event::kind`] values.
pub mod event_kind {
    /// A flow was decided for the first time (sampled).
    pub const NEW_FLOW: u32 = 1;
    /// A flow moved to another path.
    pub const MOVED_FLOW: u32 = 2;
    /// A path was found silent by the data path.
    pub const PATH_SILENT: u32 = 3;
}

/// A record of the `events` ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// When, ns.
    pub time_ns: u64,
    /// One of [`event_kind`].
    pub kind: u32,
    /// Path now.
    pub path: u32,
    /// Path before, or [`super::NO_PATH`].
    pub old_path: u32,
    /// Class of the flow.
    pub class: u16,
    /// Rule of the flow.
    pub rule: u16,
    /// The flow; zeros for [`event_kind::PATH_SILENT`].
    pub flow: FlowKey,
}
