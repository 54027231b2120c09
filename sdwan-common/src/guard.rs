//! What the guard of the tunnel ports goes by: which datagrams can be WireGuard's, and how many of a kind pass.

/// Message types of WireGuard as its first four bytes, little endian; the upper three are reserved, and zero.
pub mod message {
    /// Handshake initiation: 148 bytes.
    pub const INITIATION: u32 = 1;
    /// Handshake response: 92 bytes.
    pub const RESPONSE: u32 = 2;
    /// Cookie reply: 64 bytes.
    pub const COOKIE: u32 = 3;
    /// Transport data: 32 bytes and more. Not always a multiple of 16: padding stops at the tunnel's MTU.
    pub const DATA: u32 = 4;
}

/// Can a datagram of this length, whose first four bytes are `kind`, be a message of WireGuard?
#[inline(always)]
pub const fn is_wireguard(kind: u32, length: u32) -> bool {
    match kind {
        message::INITIATION => length == 148,
        message::RESPONSE => length == 92,
        message::COOKIE => length == 64,
        message::DATA => length >= 32,
        _ => false,
    }
}

/// Does a token bucket let one more pass at `now`, and what is it then? `until` is when all that passed so far was due
/// (the virtual scheduling of ITU-T I.371), 0 for nothing; one more is due each `interval`, and what comes early passes as
/// long as that is at most `burst`. All in ns.
#[inline(always)]
pub const fn admit(until: u64, now: u64, interval: u64, burst: u64) -> Option<u64> {
    let due = if until > now { until } else { now };
    if due - now > burst { None } else { Some(due + interval) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_four_messages_have_their_lengths() {
        for (kind, length) in [(1, 148), (2, 92), (3, 64), (4, 32), (4, 33), (4, 1_452), (4, 65_507)] {
            assert!(is_wireguard(kind, length), "{kind} {length}");
        }
        for (kind, length) in
            [(0, 148), (1, 147), (1, 149), (2, 148), (3, 92), (4, 31), (4, 0), (5, 64), (1 << 8 | 1, 148)]
        {
            assert!(!is_wireguard(kind, length), "{kind} {length}");
        }
    }

    proptest! {
        #[test]
        fn a_bucket_lets_no_more_pass_than_its_rate_and_burst(
            rate in 1_u64..5_000,
            gaps in proptest::collection::vec(0_u64..50_000_000, 1..2_000),
        ) {
            let (interval, burst) = (SECOND / rate, 2 * SECOND);
            let (mut now, mut until, mut passed) = (SECOND, 0, 0_u64);
            for gap in &gaps {
                now += gap;
                if let Some(next) = admit(until, now, interval, burst) {
                    until = next;
                    passed += 1;
                }
            }
            let most = (now - SECOND + burst) / interval + 1;
            prop_assert!(passed <= most, "{passed} of at most {most}");
            // And none is refused while fewer came than the burst holds.
            if (gaps.len() as u64) < burst / interval {
                prop_assert_eq!(passed, gaps.len() as u64);
            }
        }
    }
}
