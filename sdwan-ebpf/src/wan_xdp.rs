//! The guard of the tunnel ports: XDP of each uplink.
//!
//! What a session carries is known by the index that this gateway chose for it: 32 bits at random that a peer puts into
//! every message, and that nobody learns who doesn't see the packets. `uplink_egress` reads it off the handshakes that
//! leave. A peer whose address changes therefore goes on at its full rate, and who forges a peer's address gains nothing.
//! Everything else to a tunnel port is limited per source and, of strangers, in all, or dropped when it can't be
//! WireGuard's.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use sdwan_common::abi::{Address, Guard, Limit, OtherKey, SessionKey, SourceKey, TUNNEL_PORTS, guard_limit};
use sdwan_common::counters::EarlyDropReason;
use sdwan_common::guard::{admit, is_wireguard, message};

use crate::count;
use crate::frame::{Chain, Frame, mapped};
use crate::maps::{GUARD, GUARD_ADDRESSES, GUARD_KNOWN, GUARD_OTHERS, GUARD_SESSIONS, GUARD_SOURCES, GUARD_TOTALS};
use crate::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, UDP};

/// A datagram to one of the guarded ports of this machine.
#[derive(Default)]
struct Datagram {
    source: Address,
    source_port: u16,
    port: u16,
    /// Where the message begins.
    message: u32,
    /// Bytes of it, as the UDP header says; less than nothing is 0.
    length: u32,
    /// The first of several fragments.
    fragment: bool,
}

/// Drops what floods the tunnel ports; everything else passes.
#[xdp(frags)]
pub fn wan_xdp(ctx: XdpContext) -> u32 {
    match refusal(Frame::new(&ctx)) {
        Some(reason) => count::refuse(reason as u32),
        None => xdp_action::XDP_PASS,
    }
}

#[inline(always)]
fn refusal(frame: Frame) -> Option<EarlyDropReason> {
    let guard = GUARD.get(0)?;
    if guard.base_port == 0 {
        return None;
    }
    let mut datagram = Datagram::default();
    if !read(frame, guard, &mut datagram) {
        return None;
    }
    if !is_tunnel_port(guard, datagram.port) {
        return limit(guard, &datagram, guard_limit::CONTROL, EarlyDropReason::Control);
    }
    let head = head(frame, &datagram)?;
    let kind = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    let at_4 = [head[4], head[5], head[6], head[7]];
    let at_8 = [head[8], head[9], head[10], head[11]];
    if !is_wireguard(kind, datagram.length) {
        return garbage(guard, &datagram);
    }
    if kind == message::INITIATION {
        return limit(guard, &datagram, guard_limit::INITIATION, EarlyDropReason::Initiation);
    }
    let index = if kind == message::RESPONSE { at_8 } else { at_4 };
    let key = SessionKey { index, port: datagram.port, padding: 0 };
    if GUARD_SESSIONS.get_ptr(&key).is_some() {
        return None;
    }
    if datagram.fragment {
        return limit(guard, &datagram, guard_limit::FRAGMENT, EarlyDropReason::TunnelFragment);
    }
    if now() < guard.strict_from_ns {
        return None;
    }
    limit(guard, &datagram, guard_limit::SESSION, EarlyDropReason::Session)
}

/// What is none of WireGuard's: dropped, unless it belongs to a flow that NAT gave the number of a tunnel port.
#[inline(always)]
fn garbage(guard: &Guard, datagram: &Datagram) -> Option<EarlyDropReason> {
    let key = OtherKey { address: datagram.source, port: datagram.source_port, local_port: datagram.port };
    if GUARD_OTHERS.get_ptr(&key).is_some() {
        None
    } else if datagram.fragment {
        limit(guard, datagram, guard_limit::FRAGMENT, EarlyDropReason::TunnelFragment)
    } else if now() < guard.strict_from_ns {
        limit(guard, datagram, guard_limit::SESSION, EarlyDropReason::Session)
    } else {
        Some(EarlyDropReason::NotWireguard)
    }
}

/// The first bytes of a message, zeros behind its end. `None`: the frame has fewer than it says, and the stack will see.
#[inline(always)]
fn head(frame: Frame, datagram: &Datagram) -> Option<[u8; 12]> {
    // The shortest message of WireGuard has 32 bytes; of what is shorter the length says enough.
    if datagram.length < 12 { Some([0; 12]) } else { frame.load(datagram.message) }
}

/// Whether this one is beyond the limit: of its source, or of all sources that no handshake was sent to. What is refused for
/// all leaves no trace in the table of sources, so a flood of forged ones can't churn it.
#[inline(never)]
fn limit(guard: &Guard, datagram: &Datagram, kind: u32, reason: EarlyDropReason) -> Option<EarlyDropReason> {
    let limit: &Limit = guard.limits.get(kind as usize)?;
    let now = now();
    let mut key = SourceKey { address: datagram.source, kind };
    if !is_mapped(&key.address) {
        let mut at = 8;
        while at < 16 {
            key.address[at] = 0;
            at += 1;
        }
    }
    let known = GUARD_SOURCES.get_ptr_mut(&key);
    // SAFETY: an entry that is reused meanwhile stays valid memory, and it is aligned. What two CPUs write at once lets one
    // more pass.
    let until = known.map_or(0, |until| unsafe { core::ptr::read_volatile(until) });
    let Some(until) = admit(until, now, limit.source_interval_ns, limit.source_burst_ns) else { return Some(reason) };
    if GUARD_KNOWN.get_ptr(&datagram.source).is_none() {
        let total = GUARD_TOTALS.get_ptr_mut(kind)?;
        // SAFETY: as above.
        let all = unsafe { core::ptr::read_volatile(total) };
        let Some(all) = admit(all, now, limit.total_interval_ns, limit.total_burst_ns) else { return Some(reason) };
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(total, all) };
    }
    match known {
        // SAFETY: as above.
        Some(place) => unsafe { core::ptr::write_volatile(place, until) },
        // Without room the source is as new next time; the limit of all holds.
        None => drop(GUARD_SOURCES.insert(&key, &until, 0)),
    }
    None
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
}

#[inline(always)]
fn is_mapped(address: &Address) -> bool {
    let mut zeros = 0;
    let mut at = 0;
    while at < 10 {
        zeros |= address[at];
        at += 1;
    }
    zeros == 0 && address[10] == 0xff && address[11] == 0xff
}

/// Is it the port of a tunnel that exists?
#[inline(always)]
fn is_tunnel_port(guard: &Guard, port: u16) -> bool {
    let number = port.wrapping_sub(guard.base_port);
    number < TUNNEL_PORTS && guard.tunnels >> (number & 63) & 1 != 0
}

#[inline(always)]
fn is_guarded(guard: &Guard, port: u16) -> bool {
    is_tunnel_port(guard, port) || port != 0 && (port == guard.control_ports[0] || port == guard.control_ports[1])
}

/// Reads the datagram of a frame. `false`: it is for no guarded port of this machine, but forwarded, or another VLAN's, or a
/// later fragment, which tells no port.
#[inline(always)]
fn read(frame: Frame, guard: &Guard, datagram: &mut Datagram) -> bool {
    let Some(link) = frame.link() else { return false };
    if link.vlan != 0 {
        return false;
    }
    let ip = link.length;
    let mut destination: Address = [0; 16];
    let transport = match link.ether_type {
        ETHERTYPE_IPV4 => {
            let Some(header) = frame.load::<[u8; 20]>(ip) else { return false };
            let words = u32::from(header[0] & 0x0f);
            let fragment = u16::from_be_bytes([header[6], header[7]]);
            if header[0] >> 4 != 4 || words < 5 || header[9] != UDP || fragment & 0x1fff != 0 {
                return false;
            }
            datagram.source = mapped([header[12], header[13], header[14], header[15]]);
            destination = mapped([header[16], header[17], header[18], header[19]]);
            datagram.fragment = fragment & 0x2000 != 0;
            ip + words * 4
        }
        ETHERTYPE_IPV6 => {
            let Some(header) = frame.load::<[u8; 40]>(ip) else { return false };
            let mut chain = Chain::default();
            if header[0] >> 4 != 6 || !frame.walk(ip, header[6], &mut chain) {
                return false;
            }
            if chain.protocol != UDP || chain.fragment & 0xfff8 != 0 {
                return false;
            }
            let mut at = 0;
            while at < 16 {
                datagram.source[at] = header[8 + at];
                destination[at] = header[24 + at];
                at += 1;
            }
            datagram.fragment = chain.fragment != 0;
            chain.transport
        }
        _ => return false,
    };
    let Some(udp) = frame.load::<[u8; 8]>(transport) else { return false };
    datagram.source_port = u16::from_be_bytes([udp[0], udp[1]]);
    datagram.port = u16::from_be_bytes([udp[2], udp[3]]);
    datagram.message = transport + 8;
    datagram.length = u32::from(u16::from_be_bytes([udp[4], udp[5]])).saturating_sub(8);
    is_guarded(guard, datagram.port) && GUARD_ADDRESSES.get_ptr(&destination).is_some()
}
