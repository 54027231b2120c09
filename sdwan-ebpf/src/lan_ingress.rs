//! LAN → tunnel: tc ingress of each LAN interface.

use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use sdwan_common::abi::{
    ABI_VERSION, Class, Config, DSCP_KEEP, FragmentPorts, NO_PATH, Path, TC_INDEX_COUNTED, class_flag, fast_path,
    trace_program,
};
use sdwan_common::counters::{DropReason, PassReason};
use sdwan_common::outer;

use crate::count::Copied;
use crate::decide::{Decision, decide};
use crate::maps::{CLASSES, CONFIG, FRAGMENTS, PATHS};
use crate::parse::{self, ETHERNET, Packet, Part};
use crate::skb::Skb;
use crate::trace::{self, Verdict};
use crate::{copies, count, forward, mss, tcp_rtt};

/// Steers each packet for another site into its path; leaves all others to the stack.
#[classifier]
pub fn lan_ingress(ctx: TcContext) -> i32 {
    match steer(Skb::new(&ctx)) {
        Ok(verdict) => verdict,
        Err(reason) => count::pass(reason),
    }
}

#[inline(always)]
fn steer(skb: Skb) -> Result<i32, PassReason> {
    let (config, epoch) = config()?;
    let link = parse::ethernet(skb)?;
    let packet = Packet::scratch(skb, &link).ok_or(PassReason::NotConfigured)?;
    parse::internet(skb, link.ether_type, packet)?;
    // Of what can't be parsed, nobody knows of which flow it is.
    let outcome = route(skb, packet, config, epoch);
    if let Err(reason) = outcome
        && config.scope.traced != 0
    {
        trace::tell(packet, trace_program::LAN_INGRESS, Verdict::Stack(reason));
    }
    outcome
}

#[inline(always)]
fn route(skb: Skb, packet: &mut Packet, config: &Config, epoch: u32) -> Result<i32, PassReason> {
    if let Some(obstacle) = packet.obstacle() {
        return Err(obstacle);
    }
    if packet.part != Part::Whole {
        fragment(packet)?;
    }
    let decision = decide(packet, config, epoch)?;
    let path = PATHS.get(decision.path).ok_or(PassReason::NoPathSet)?;
    count::steered(decision.class, u64::from(packet.segments), u64::from(packet.length));
    let class = CLASSES.get(u32::from(decision.class)).copied().unwrap_or(UNKNOWN_CLASS);
    let copies = class.flags & class_flag::COPIES != 0 && config.fast_path != fast_path::OFF;
    // Clamped and marked before the way parts: the packets that the stack forwards are of the same class.
    let mut second = NO_PATH;
    if copies {
        second = copied(skb, packet, config, &decision, path);
    } else {
        // With copies, what comes back tells the time of the faster path.
        tcp_rtt::leave(skb, packet, decision.path, decision.now_ns);
        mss::clamp(skb, packet, path.mtu);
    }
    let dscp = class.dscp;
    if config.outer_port != 0 {
        let flow = u32::from(packet.key.source_port) << 6 ^ u32::from(packet.key.destination_port) << 8;
        skb.set_hash(outer::encode(flow, class.outer_dscp));
    }
    if config.fast_path == fast_path::OFF {
        return to_stack(skb, packet, path, dscp, PassReason::FastPathOff);
    }
    if packet.wire_length > u32::from(path.mtu) {
        return to_stack(skb, packet, path, dscp, PassReason::TooBig);
    }
    let verdict = to_tunnel(skb, packet, &decision, path, second, dscp);
    if config.scope.traced != 0 {
        trace::tell(packet, trace_program::LAN_INGRESS, trace::verdict(verdict));
    }
    Ok(verdict)
}

/// A class that isn't in its map.
const UNKNOWN_CLASS: Class = Class { dscp: DSCP_KEEP, outer_dscp: 0, flags: 0, padding: 0 };

/// The path of a packet's copy, or [`NO_PATH`]: there is none, or the packet can't be marked.
#[inline(always)]
fn copied(skb: Skb, packet: &mut Packet, config: &Config, decision: &Decision, path: &Path) -> u32 {
    let second = copies::second(decision, packet, config);
    let room = copies::room(packet, path, PATHS.get(second));
    mss::clamp(skb, packet, room);
    let obstacle = match second {
        NO_PATH => Copied::Alone,
        _ if !copies::markable(skb, packet, room) => Copied::Unmarked,
        _ => return second,
    };
    count::copied(decision.class, obstacle, u64::from(packet.segments));
    NO_PATH
}

/// The configuration and its epoch. The epoch is read once, before anything that it covers.
#[inline(always)]
pub fn config() -> Result<(&'static Config, u32), PassReason> {
    let config = CONFIG.get(0).ok_or(PassReason::NotConfigured)?;
    if config.abi_version != ABI_VERSION {
        return Err(PassReason::NotConfigured);
    }
    // SAFETY: a reference is valid for reads.
    let epoch = unsafe { core::ptr::read_volatile(&raw const config.epoch) };
    Ok((config, epoch))
}

/// Gives a later fragment the ports of the first one, so that a datagram stays together.
#[inline(always)]
fn fragment(packet: &mut Packet) -> Result<(), PassReason> {
    let key = packet.fragment_key();
    if packet.part == Part::First {
        // Behind an extension header within the fragments the protocol is known to the first one only.
        if packet.fragment_protocol == packet.key.protocol {
            let ports =
                FragmentPorts { source_port: packet.key.source_port, destination_port: packet.key.destination_port };
            // When it can't be kept, the later fragments go to the stack.
            let _ = FRAGMENTS.insert(key, ports, 0);
        }
        return Ok(());
    }
    // SAFETY: copied at once; an entry that is reused meanwhile misleads one packet at most.
    let ports = unsafe { FRAGMENTS.get(key).copied() }.ok_or(PassReason::UnknownFragment)?;
    packet.key.source_port = ports.source_port;
    packet.key.destination_port = ports.destination_port;
    Ok(())
}

/// Leaves a packet to the stack, which forwards it by its mark into the same path.
#[inline(always)]
fn to_stack(skb: Skb, packet: &Packet, path: &Path, dscp: u8, reason: PassReason) -> Result<i32, PassReason> {
    skb.set_mark(path.mark);
    // A packet that can't be rewritten goes as it is.
    let _ = forward::rewrite_apart(skb, packet, packet.ip, dscp, false);
    Err(reason)
}

/// Sends a packet into the tunnel: bare, as the kernel strips the Ethernet header for a device without one. The mark
/// stays what it was, usually 0: a tunnel marks its outer packets itself.
#[inline(always)]
fn to_tunnel(skb: Skb, packet: &mut Packet, decision: &Decision, path: &Path, second: u32, dscp: u8) -> i32 {
    // Ethernet pads short packets to 60 bytes; nobody wants that padding encrypted. If it can't be cut, no harm.
    if skb.len() > packet.ip + packet.length {
        let _ = skb.trim(packet.ip + packet.length);
    }
    if packet.tags > 0 && !skb.pop_vlan() || packet.tags > 1 && !skb.pop_vlan() {
        return count::lose(DropReason::Rewrite);
    }
    if !forward::rewrite(skb, packet, ETHERNET, dscp, true) {
        return count::lose(DropReason::Rewrite);
    }
    skb.set_tc_index(TC_INDEX_COUNTED);
    if second != NO_PATH && !copies::send(skb, packet, second, decision) {
        return count::lose(DropReason::Rewrite);
    }
    // What goes to the stack is counted by `tunnel_egress`, if it gets there.
    count::sent(decision.path, u64::from(packet.segments), u64::from(packet.length));
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_redirect(path.ifindex, 0) as i32 }
}
