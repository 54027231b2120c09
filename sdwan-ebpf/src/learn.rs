//! What the guard learns from the packets that leave by an uplink: the indices of this gateway's sessions, whom it speaks to,
//! and the flows of others that NAT gave the number of a tunnel port.

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use sdwan_common::abi::{Address, OtherKey, SessionKey, TUNNEL_PORTS};
use sdwan_common::guard::{is_wireguard, message};

use crate::frame::mapped;
use crate::maps::{GUARD, GUARD_KNOWN, GUARD_OTHERS, GUARD_SESSIONS};
use crate::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, UDP};
use crate::skb::Skb;

/// An entry for one of those flows is written anew after so long, so that it stays among those used lately.
const REFRESH_NS: u64 = 1_000_000_000;

/// Looks at a packet on its way out. Later fragments tell no port, and packets with options or extension headers are none of
/// WireGuard's.
#[inline(always)]
pub fn learn(skb: Skb) -> Option<()> {
    let guard = GUARD.get(0)?;
    if guard.base_port == 0 {
        return None;
    }
    let (destination, udp): (Address, [u8; 8]) = match skb.ether_type() {
        ETHERTYPE_IPV4 => {
            let head: [u8; 28] = skb.load_network(0)?;
            if head[0] != 0x45 || head[9] != UDP || head[6] & 0x1f | head[7] != 0 {
                return None;
            }
            let udp = [head[20], head[21], head[22], head[23], head[24], head[25], head[26], head[27]];
            (mapped([head[16], head[17], head[18], head[19]]), udp)
        }
        ETHERTYPE_IPV6 => {
            let head: [u8; 48] = skb.load_network(0)?;
            if head[6] != UDP {
                return None;
            }
            let udp = [head[40], head[41], head[42], head[43], head[44], head[45], head[46], head[47]];
            let mut destination = [0; 16];
            let mut at = 0;
            while at < 16 {
                destination[at] = head[24 + at];
                at += 1;
            }
            (destination, udp)
        }
        _ => return None,
    };
    let local_port = u16::from_be_bytes([udp[0], udp[1]]);
    // Those of tunnels to come as well: a handshake may leave before the guard knows of the tunnel.
    if local_port.wrapping_sub(guard.base_port) >= TUNNEL_PORTS {
        return None;
    }
    let length = u32::from(u16::from_be_bytes([udp[4], udp[5]])).saturating_sub(8);
    let offset = if skb.ether_type() == ETHERTYPE_IPV4 { 28 } else { 48 };
    let head: [u8; 8] = skb.load_network(offset).unwrap_or_default();
    let kind = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    let wireguard = is_wireguard(kind, length);
    if wireguard && kind != message::INITIATION && kind != message::RESPONSE {
        return None;
    }
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    if wireguard {
        let key = SessionKey { index: [head[4], head[5], head[6], head[7]], port: local_port, padding: 0 };
        // What finds no room is limited like a stranger.
        let _ = GUARD_SESSIONS.insert(&key, &now, 0);
        let _ = GUARD_KNOWN.insert(&destination, &now, 0);
        return Some(());
    }
    let key = OtherKey { address: destination, port: u16::from_be_bytes([udp[2], udp[3]]), local_port };
    // SAFETY: an entry that is reused meanwhile stays valid memory, and it is aligned.
    let last = GUARD_OTHERS.get_ptr(&key).map_or(0, |last| unsafe { core::ptr::read_volatile(last) });
    if now.wrapping_sub(last) > REFRESH_NS {
        let _ = GUARD_OTHERS.insert(&key, &now, 0);
    }
    Some(())
}
