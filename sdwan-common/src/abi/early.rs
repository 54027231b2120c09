//! What the XDP programs go by: drop rules of the LAN, and the guard of the tunnel ports.

use super::Address;

/// Most drop rules. Each has a bit in either half of a word, so that new ones are written beside those in force.
pub const MAX_DROP_RULES: usize = 32;
/// Entries of the prefix tries of the drop rules.
pub const DROP_PREFIXES: u32 = 4_096;
/// Sources whose rate the guard knows; the one seen longest ago makes room.
pub const GUARD_SOURCES: u32 = 16_384;
/// Addresses of this machine that the guard covers.
pub const GUARD_ADDRESSES: u32 = 1_024;
/// Sessions, and flows of others, that the guard remembers from what was sent. WireGuard has three sessions per peer at most.
pub const GUARD_SESSIONS: u32 = 32_768;

/// Bits of [`LanFilter::flags`].
pub mod lan_filter_flag {
    /// Packets that no stack takes are dropped.
    pub const MALFORMED: u32 = 1;
    /// Packets from addresses that are nobody's are dropped.
    pub const MARTIANS: u32 = 2;
}

/// Value of `lan_filter`, by interface and VLAN: what `lan_xdp` drops there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LanFilter {
    /// The rules in force here, one bit each.
    pub rules: u64,
    /// Those of them that ask for no port.
    pub any_port: u64,
    /// Those of them that ask neither for a port nor for a protocol.
    pub any_protocol: u64,
    /// Bits of [`lan_filter_flag`].
    pub flags: u32,
    /// Zero.
    pub padding: u32,
}

/// What the guard counts apart: index into [`Guard::limits`] and `guard_totals`.
pub mod guard_limit {
    /// Handshake initiations.
    pub const INITIATION: u32 = 0;
    /// Messages of sessions that this gateway did not begin, or has forgotten.
    pub const SESSION: u32 = 1;
    /// First fragments of datagrams to the tunnel ports.
    pub const FRAGMENT: u32 = 2;
    /// Datagrams to the ports of announcements and path MTU probes.
    pub const CONTROL: u32 = 3;
    /// How many kinds there are.
    pub const COUNT: usize = 4;
}

/// A limit: one per `interval`, and what comes early by at most `burst` ([`crate::guard::admit`]), all in ns.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Of one source: an IPv4 address, or an IPv6 /64.
    pub source_interval_ns: u64,
    /// Of one source.
    pub source_burst_ns: u64,
    /// Of all sources together that no handshake was sent to.
    pub total_interval_ns: u64,
    /// Of these.
    pub total_burst_ns: u64,
}

/// The one record of `guard`: written by the daemon alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// The tunnel ports in use: bit n for the base port + n.
    pub tunnels: u64,
    /// Until then what the guard doesn't recognise is limited at most, ns: it has not seen the sessions begin yet.
    pub strict_from_ns: u64,
    /// By [`guard_limit`].
    pub limits: [Limit; guard_limit::COUNT],
    /// Base port of the tunnels; 0: the guard is off.
    pub base_port: u16,
    /// Ports of announcements and of path MTU probes; 0: none.
    pub control_ports: [u16; 2],
    /// Zero.
    pub padding: u16,
}

/// Key of `guard_sessions`, whose value is when this gateway began the session, ns: peers put the index into what they send.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    /// Index that this gateway chose, as in the message.
    pub index: [u8; 4],
    /// Local port, host byte order.
    pub port: u16,
    /// Zero.
    pub padding: u16,
}

/// Key of `guard_others`, whose value is when a datagram that is none of WireGuard's was last sent there, ns: flows that NAT
/// gave the number of a tunnel port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OtherKey {
    /// The other end.
    pub address: Address,
    /// Its port, host byte order.
    pub port: u16,
    /// The local port, host byte order.
    pub local_port: u16,
}

/// Key of `guard_sources`, whose value is that of [`crate::guard::admit`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceKey {
    /// The source; of IPv6 the first 64 bits.
    pub address: Address,
    /// One of [`guard_limit`].
    pub kind: u32,
}
