//! The tc and XDP programs of the data path.
//!
//! - [`lan_ingress`]: LAN → tunnel. Finds or decides each packet's path and sends the packet into it.
//! - [`tunnel_ingress`]: tunnel → LAN. Path liveness, the STAMP reflector, and the short way to the LAN.
//! - [`tunnel_egress`]: into a tunnel. Counts what the stack sends, and writes the counts into the probes.
//! - [`uplink_egress`]: tunnel → provider. The DSCP of encrypted packets, where the operator wants it, and what the guard
//!   has to know.
//! - [`lan_xdp`]: drop rules and malformed packets, at a LAN interface.
//! - [`wan_xdp`]: the guard of the tunnel ports, at an uplink.
//!
//! No program drops what it can't handle: the kernel's stack gets it, and a counter says why. Helpers are those of
//! Linux 6.1. Packets are read and written through `bpf_skb_load_bytes` and `bpf_skb_store_bytes`, which take care of
//! packets in several pieces and of shared ones.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(clippy::needless_borrows_for_generic_args, reason = "a key of 40 bytes is not copied for a lookup")]

mod atomic;
mod copies;
mod count;
mod decide;
mod direct;
mod events;
mod forward;
mod frame;
mod lan_ingress;
mod lan_xdp;
mod learn;
mod maps;
mod mss;
mod parse;
mod reflect;
mod skb;
mod tcp_rtt;
mod trace;
mod tunnel_egress;
mod tunnel_ingress;
mod uplink_egress;
mod wan_xdp;

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked in: the verifier would reject the endless loop.
    loop {}
}
