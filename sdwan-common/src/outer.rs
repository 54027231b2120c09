//! The DSCP of an encrypted packet, on its way through WireGuard.
//!
//! The kernel's WireGuard clears a packet's mark, priority and DSCP, but keeps its hash, and copies it to the outer
//! packet (`wg_reset_packet`). So `lan_ingress` writes a hash that holds the DSCP of the class, and `uplink_egress` reads
//! it off the outer packet. The hash keeps enough of the flow's own to spread flows over the queues of the uplink.

/// The upper eight bits of a hash that holds a DSCP. WireGuard's own packets have no hash at all.
const MARKER: u32 = 0x5d << 24;
const MARKER_MASK: u32 = 0xff << 24;
const DSCP_MASK: u32 = 0x3f;

/// The hash of a packet whose outer packet shall have this DSCP, 0..=63. `flow` is the hash of its flow.
pub const fn encode(flow: u32, dscp: u8) -> u32 {
    MARKER | flow & !(MARKER_MASK | DSCP_MASK) | dscp as u32 & DSCP_MASK
}

/// The DSCP in a hash, if it holds one.
pub const fn decode(hash: u32) -> Option<u8> {
    if hash & MARKER_MASK == MARKER { Some((hash & DSCP_MASK) as u8) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dscp_comes_back_and_flows_stay_apart() {
        for dscp in 0..64 {
            for flow in [0, 1 << 6, 0xdead_beef, u32::MAX] {
                assert_eq!(decode(encode(flow, dscp)), Some(dscp));
            }
        }
        assert_ne!(encode(1 << 6, 46), encode(1 << 7, 46));
    }

    #[test]
    fn packets_without_a_hash_have_none() {
        assert_eq!(decode(0), None);
    }
}
