//! Why a packet was dropped, and why it was left to the stack: numbers for the maps, names for people.

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name that `sdwan status` and the metrics show.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

counters! {
    /// Index into `drops`: packets that the programs dropped.
    DropReason {
        /// The packet could not be rewritten (no memory for its header).
        Rewrite = "rewrite_failed",
        /// A STAMP packet that can't be answered as it stands.
        Reflect = "reflect_failed",
        /// The second copy of a packet that came by two paths.
        Copy = "second_copy",
    }
}

counters! {
    /// Index into `early_drops`: packets that the XDP programs dropped.
    EarlyDropReason {
        /// A drop rule of the operator's.
        Rule = "drop_rule",
        /// An IP header of another version than the frame says, shorter than it may be, or cut off.
        Header = "malformed_header",
        /// An IP packet that says it is longer than what came, or shorter than its header.
        Length = "malformed_length",
        /// A fragment that ends behind the largest possible packet.
        Fragment = "malformed_fragment",
        /// Source and destination are the same address ("land").
        Land = "source_is_destination",
        /// A source address that is nobody's.
        Martian = "martian_source",
        /// A datagram to a tunnel port that is none of WireGuard's.
        NotWireguard = "not_wireguard",
        /// A handshake initiation beyond the limit.
        Initiation = "initiation_limited",
        /// A message to a tunnel port, of no session of this gateway, beyond the limit.
        Session = "unknown_session_limited",
        /// A fragment of a datagram to a tunnel port beyond the limit.
        TunnelFragment = "tunnel_fragment_limited",
        /// A datagram to the port of announcements or path MTU probes beyond the limit.
        Control = "control_limited",
    }
}

counters! {
    /// Index into `passes`: packets that the programs left to the stack. The stack forwards, answers or drops them by
    /// its own rules and counters.
    PassReason {
        /// `config` holds another ABI version, or nothing.
        NotConfigured = "not_configured",
        /// Not IPv4 or IPv6, or headers that can't be parsed.
        Unparsed = "unparsed",
        /// IPv4 options, or IPv6 hop-by-hop options.
        Options = "ip_options",
        /// Addressed to another host's MAC address; the interface is promiscuous.
        OtherHost = "other_host",
        /// Multicast or broadcast.
        Multicast = "multicast",
        /// TTL or hop limit at most 1: the stack answers.
        TtlExpired = "ttl_expired",
        /// A later fragment of a datagram whose first one was not seen.
        UnknownFragment = "unknown_fragment",
        /// Destination is this site's own.
        LocalDestination = "local_destination",
        /// Destination is in no site's prefix.
        NoPrefix = "no_prefix",
        /// No rule matched, or the rule's class has no path set.
        NoPathSet = "no_path_set",
        /// Larger than the path's MTU: the stack fragments or answers.
        TooBig = "too_big",
        /// `fast_path` leaves this direction to the stack.
        FastPathOff = "fast_path_off",
        /// The kernel has no route that leads to a LAN interface.
        NotLan = "not_lan",
        /// A packet from the LAN whose source is in no prefix of this site, or its overlay address: the other end's
        /// WireGuard lets nothing else in.
        SpoofedSource = "spoofed_source",
        /// From a tunnel, with a source that is no site's, or of a site that has no path through this tunnel.
        UnknownPath = "unknown_path",
    }
}
